"""What a base model is made of, from its config.json alone: transformers builds it without a number in it.

Names and shapes are those that PEFT sees, whatever the checkpoint calls its tensors and however they are quantised.
Runs no code from the folder. Imports torch and transformers only when called; who must not, runs `modules_elsewhere`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

from loradock_adapters.errors import BaseModelError
from loradock_adapters.linear_shape import LinearShape

_BUILD_SECONDS = 300
_POOLER = "pooler"


@dataclass(frozen=True, slots=True)
class BaseModules:
    """A model's parts by PEFT's names.

    `linear`: all that PEFT's `all-linear` selects, which is every linear layer but the output head. `language`: those
    of them that belong to the language model, not to a vision or audio tower beside it. `transposed`: those whose
    weight lies as (in, out), GPT-2's Conv1D. `experts`: parameters of fused experts, with shapes such as (experts, out,
    in); no linear layer, so PEFT reaches them by `target_parameters` only. `parameters`: numbers in all, tied once.
    `config`: plain values of the language model's configuration, by transformers' usual names and with its defaults;
    `dtype`: of the checkpoint. `generates`: it has an output head.
    """

    linear: Mapping[str, LinearShape]
    language: frozenset[str] = frozenset()
    transposed: frozenset[str] = frozenset()
    experts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    parameters: int = 0
    config: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "float32"
    generates: bool = True

    @property
    def adaptable(self) -> Mapping[str, LinearShape]:
        """What adapters may change here: the language model's linear layers, without an encoder's pooler, which has
        no part in the embeddings that are served.
        """
        chosen = {
            name: s for name, s in self.linear.items() if name in self.language and _POOLER not in name.split(".")
        }
        return MappingProxyType(chosen)

    def to_plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "linear": {name: [shape.in_features, shape.out_features] for name, shape in self.linear.items()},
            "language": sorted(self.language),
            "transposed": sorted(self.transposed),
            "experts": {name: list(shape) for name, shape in self.experts.items()},
            "parameters": self.parameters,
            "config": dict(self.config),
            "dtype": self.dtype,
            "generates": self.generates,
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> BaseModules:
        """Raises KeyError, TypeError or ValueError for what `to_plain` did not write."""
        return cls(
            linear=MappingProxyType(
                {str(name): LinearShape(int(a), int(b)) for name, (a, b) in plain["linear"].items()}
            ),
            language=frozenset(plain["language"]),
            transposed=frozenset(plain["transposed"]),
            experts=MappingProxyType({str(name): tuple(shape) for name, shape in plain["experts"].items()}),
            parameters=int(plain["parameters"]),
            config=MappingProxyType(dict(plain["config"])),
            dtype=str(plain["dtype"]),
            generates=bool(plain["generates"]),
        )


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


def can_build() -> bool:
    """Whether torch and transformers are installed here. Imports neither."""
    return find_spec("torch") is not None and find_spec("transformers") is not None


def modules_elsewhere(folder: Path) -> BaseModules:
    """`read_modules` in a process of its own, for who must not import torch. Raises BaseModelError."""
    command = [sys.executable, "-m", "loradock_adapters.base_modules", str(folder)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_BUILD_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise BaseModelError(f"{folder}: transformers did not build this model in {_BUILD_SECONDS} s") from error
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
        if "error" not in answer:
            return BaseModules.from_plain(answer)
    except (ValueError, IndexError, KeyError, TypeError) as error:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise BaseModelError(f"{folder}: transformers cannot build this model; its process said: {said}") from error
    raise BaseModelError(answer["error"])


def main() -> None:
    """Print the modules of the folder that is the only argument."""
    try:
        answer = read_modules(Path(sys.argv[1])).to_plain()
    except BaseModelError as error:
        answer = {"error": str(error)}
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
