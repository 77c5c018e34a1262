"""Adapters to measure with: random weights of a given rank on every linear layer, written as PEFT would."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from loradock_adapters.base_model import BaseModel


def make_adapters(root: Path, base: BaseModel, count: int, *, rank: int = 16) -> list[tuple[str, Path]]:
    """`count` adapters in bf16, each (name, folder); the same count gives the same weights."""
    made = []
    for number in range(count):
        folder = root / f"adapter-{number:04d}"
        folder.mkdir(parents=True)
        generator = torch.Generator().manual_seed(number)
        tensors = {}
        for name, shape in base.modules.items():
            key = f"base_model.model.{name}"
            a = torch.randn(rank, shape.in_features, generator=generator) / shape.in_features**0.5
            b = torch.randn(shape.out_features, rank, generator=generator) * 0.01
            tensors[f"{key}.lora_A.weight"], tensors[f"{key}.lora_B.weight"] = a.bfloat16(), b.bfloat16()
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": kinds(base)}
        config |= {"task_type": "CAUSAL_LM", "base_model_name_or_path": base.name}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        made.append((folder.name, folder))
    return made


def kinds(base: BaseModel) -> list[str]:
    """The last names of its linear layers, as an adapter's `target_modules` has them: q_proj, up_proj, …"""
    return sorted({name.rpartition(".")[2] for name in base.modules})
