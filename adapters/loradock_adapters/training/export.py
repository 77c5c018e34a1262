"""Write a trained adapter as the PEFT folder that servers read: bf16 safetensors and a config that names no machine.

Knows PEFT's two files and nothing of how the adapter came to be.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file

from loradock_adapters.digest import folder_digest
from loradock_adapters.training.manifest import AdapterFacts

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"


def write_adapter(model: PeftModel, folder: Path, *, base_name: str, adapter_name: str = "default") -> AdapterFacts:
    """Write the active adapter, which PEFT calls `adapter_name`, into a new folder; `base_name` is the public name of
    its base model.
    """
    folder.mkdir(parents=True)
    tensors = {
        name: tensor.detach().to(device="cpu", dtype=torch.bfloat16).contiguous()
        for name, tensor in sorted(
            get_peft_model_state_dict(model, adapter_name=adapter_name, save_embedding_layers=False).items()
        )
    }
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    (folder / WEIGHTS_FILE).chmod(0o644)  # safetensors makes it readable by its owner alone
    config = _config(model, base_name)
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return AdapterFacts(
        digest=folder_digest(folder, (CONFIG_FILE, WEIGHTS_FILE)),
        rank=config["r"],
        alpha=float(config["lora_alpha"]),
        target_modules=tuple(config["target_modules"]),
        parameters=sum(tensor.numel() for tensor in tensors.values()),
        size_bytes=(folder / WEIGHTS_FILE).stat().st_size,
    )


def _config(model: PeftModel, base_name: str) -> dict[str, Any]:
    """PEFT's own record, with sets sorted so that equal runs give equal bytes."""
    record: dict[str, Any] = {
        key: sorted(value) if isinstance(value, set) else value
        for key, value in model.active_peft_config.to_dict().items()
    }
    return record | {"base_model_name_or_path": base_name, "revision": None, "inference_mode": True}
