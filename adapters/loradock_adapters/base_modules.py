"""What a base model is made of, from its config.json alone: transformers builds it without a number in it.

Names and shapes are those that PEFT sees, whatever the checkpoint calls its tensors and however they are quantised.
Runs no code from the folder. Imports torch and transformers only when called; who must not, asks module_table.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from loradock_adapters.errors import BaseModelError
from loradock_adapters.linear_shape import LinearShape
from loradock_adapters.module_table import BaseModules


def linear_modules(folder: Path) -> Mapping[str, LinearShape]:
    """Every linear layer but the output head, as PEFT's `all-linear` selects them. Raises as `read_modules`."""
    return read_modules(folder).linear


def read_modules(folder: Path) -> BaseModules:
    """The parts of the model in `folder`, or of a config.json. Imports torch and transformers: some seconds.

    Raises BaseModelError where transformers is missing or does not know the model.
    """
    try:
        import torch
        import transformers
        from transformers.pytorch_utils import Conv1D
    except ImportError as error:
        raise BaseModelError(
            f"it takes transformers to know the modules of {folder}: pip install 'loradock[train]' ({error})"
        ) from error
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            model = _class_for(transformers, config)._from_config(config)
    except Exception as error:  # what a stranger's configuration can make of transformers is anything
        raise BaseModelError(f"{folder}: transformers cannot build this model: {error}") from error
    head = model.get_output_embeddings()
    linear, transposed = {}, set()
    for name, module in model.named_modules():
        if module is head:
            continue
        if isinstance(module, torch.nn.Linear):
            linear[name] = LinearShape(module.in_features, module.out_features)
        elif isinstance(module, Conv1D):
            linear[name] = LinearShape(*module.weight.shape)
            transposed.add(name)
    prefix = _language_prefix(model, config)
    return BaseModules(
        linear=MappingProxyType(linear),
        language=frozenset(name for name in linear if name.startswith(prefix)),
        transposed=frozenset(transposed),
        experts=MappingProxyType(
            {name: tuple(p.shape) for name, p in model.named_parameters() if _is_experts(name, p)}
        ),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        config=MappingProxyType(_plain(config.get_text_config())),
        dtype=str(config.dtype or "float32").removeprefix("torch."),
        generates=head is not None,
    )


def _plain(config: Any) -> dict[str, Any]:
    """Numbers, words and lists of them; what a family calls otherwise, by the usual name too."""
    values = config.to_dict() | {name: getattr(config, name, None) for name in config.attribute_map}
    return {name: value for name, value in values.items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(one, (str, int, float)) for one in value)
    return value is None or isinstance(value, (str, int, float))


def _class_for(transformers: Any, config: Any) -> Any:
    """The class that the configuration names, else the one that transformers would load."""
    for name in getattr(config, "architectures", None) or ():
        found = getattr(transformers, str(name), None)
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
            return found
    automatic = (transformers.AutoModelForImageTextToText, transformers.AutoModelForCausalLM, transformers.AutoModel)
    for auto in automatic:
        if type(config) in auto._model_mapping:
            return auto._model_mapping[type(config)]
    raise ValueError(f"no class for model_type {getattr(config, 'model_type', None)!r}")


def _language_prefix(model: Any, config: Any) -> str:
    """The name of the language model inside a multimodal one, with a dot behind it; empty where the model is one."""
    if config.get_text_config() is config:
        return ""
    decoder = model.get_decoder()
    return next((f"{name}." for name, module in model.named_modules() if name and module is decoder), "")


def _is_experts(name: str, parameter: Any) -> bool:
    return parameter.ndim == 3 and "expert" in name


def main() -> None:
    """Print the modules of the folder that is the only argument."""
    try:
        answer = read_modules(Path(sys.argv[1])).to_plain()
    except BaseModelError as error:
        answer = {"error": str(error)}
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
