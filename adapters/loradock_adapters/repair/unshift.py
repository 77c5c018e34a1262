"""PiSSA, OLoRA and CorDA to plain LoRA, by PEFT's own method: B·A minus the initial B·A, with twice the rank.

Those methods take a part out of the base model's weights in training. With the adapter as it was before the first
step, what training added can be told from what was only moved. Both must have PEFT's names by now. Imports PEFT and
torch only when called.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loradock_adapters.errors import AdapterMalformed
from loradock_adapters.peft_folder import (
    CONFIG_FILE,
    REQUIRED_FILES,
    TENSOR_PREFIX,
    WEIGHTS_FILE,
    read_json,
    tensor_name,
)
from loradock_adapters.safetensors_header import TensorFile

_CONVERTIBLE = ("pissa", "olora", "corda", "lora_ga")


def is_convertible(config: Mapping[str, Any]) -> bool:
    """Whether PEFT has a method for this configuration's initialisation."""
    init = config.get("init_lora_weights")
    return isinstance(init, str) and init.lower().startswith(_CONVERTIBLE)


def find_initial(folder: Path) -> Path | None:
    """The one folder inside whose name says init and that holds an adapter, as PEFT's guide suggests to save it."""
    try:
        inside = [entry for entry in folder.iterdir() if "init" in entry.name.lower() and entry.is_dir()]
    except OSError:
        return None
    found = [entry for entry in inside if all((entry / name).is_file() for name in REQUIRED_FILES)]
    return found[0] if len(found) == 1 else None


def subtract_initial(folder: Path, initial: Path, target: Path) -> None:
    """Write the two files of the plain LoRA to `target`, a folder. Raises AdapterUnreadable or AdapterMalformed."""
    from safetensors.torch import load_file, save_file

    config = dict(read_json(folder / CONFIG_FILE))
    _check_comparable(folder, config, initial)
    trained, before = load_file(folder / WEIGHTS_FILE), load_file(initial / WEIGHTS_FILE)
    # PEFT asks its model for the initial adapter's tensors under the model's own names: without the first part, and
    # with the adapter's name inside.
    state = {f"{name.partition('.')[2].removesuffix('.weight')}.initial.weight": before[name] for name in before}
    plain = _model(folder).subtract_mutated_init(trained, "initial", {"state_dict": state})
    tensors = {name: tensor.contiguous() for name, tensor in plain.items()}
    save_file(tensors, target / WEIGHTS_FILE, metadata={"format": "pt"})
    (target / WEIGHTS_FILE).chmod(0o644)
    _write_config(config, target / CONFIG_FILE)


def _model(folder: Path) -> Any:  # peft's classes are untyped
    """PEFT's model around the adapted modules alone, without a single number: only names and shapes matter."""
    import torch
    from peft import LoraConfig
    from peft.tuners.lora import LoraModel

    tensors = TensorFile.open(folder / WEIGHTS_FILE).tensors
    names = sorted(name[len(TENSOR_PREFIX) : -len(".lora_A.weight")] for name in tensors if ".lora_A." in name)
    root = torch.nn.Module()
    for name in names:
        *parents, last = name.split(".")
        place = root
        for parent in parents:
            if not hasattr(place, parent):
                place.add_module(parent, torch.nn.Module())
            place = getattr(place, parent)
        features = tensors[tensor_name(name, "A")].shape[1], tensors[tensor_name(name, "B")].shape[0]
        place.add_module(last, torch.nn.Linear(*features, bias=False, device="meta"))
    return LoraModel(root, LoraConfig(r=1, target_modules=names), "initial", low_cpu_mem_usage=True)


def _check_comparable(folder: Path, config: Mapping[str, Any], initial: Path) -> None:
    if config.get("use_rslora") and (config.get("rank_pattern") or config.get("alpha_pattern")):
        raise AdapterMalformed(
            "PEFT cannot convert use_rslora together with rank_pattern or alpha_pattern", where=CONFIG_FILE
        )
    before = read_json(initial / CONFIG_FILE)
    for name in ("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern"):
        if (before.get(name) or None) != (config.get(name) or None):
            raise AdapterMalformed(
                f"{name} is {before.get(name)!r} before training and {config.get(name)!r} after it: "
                "these are two training runs",
                where=f"{initial.name}/{CONFIG_FILE}",
            )
    ours, theirs = (TensorFile.open(one / WEIGHTS_FILE).tensors for one in (folder, initial))
    if {name: info.shape for name, info in ours.items()} != {name: info.shape for name, info in theirs.items()}:
        raise AdapterMalformed(
            "the initial adapter has other tensors than the trained one", where=f"{initial.name}/{WEIGHTS_FILE}"
        )


def _write_config(config: dict[str, Any], path: Path) -> None:
    """As PEFT's save_pretrained does it: twice the rank, the same scale."""
    config |= {"init_lora_weights": True, "r": config["r"] * 2}
    config["lora_alpha"] *= 2**0.5 if config.get("use_rslora") else 2
    for name in ("rank_pattern", "alpha_pattern"):
        config[name] = {key: 2 * value for key, value in (config.get(name) or {}).items()}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
