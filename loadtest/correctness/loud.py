"""Loud adapters: random weights so strong that nobody could mistake one's answer for another's or the base's."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from loradock_adapters.base_model import BaseModel

ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def make_loud(
    folder: Path,
    base: BaseModel,
    seed: int,
    *,
    rank: int = 8,
    targets: Iterable[str] = ALL_LINEAR,
    strength: float = 0.2,
) -> Path:
    """Write a PEFT folder with random A and B for every module of `base` that `targets` names."""
    targets = list(targets)
    random = np.random.default_rng(seed)
    tensors = {}
    for name, shape in base.modules.items():
        if name.rpartition(".")[2] in targets:
            a = random.normal(0, 1 / np.sqrt(shape.in_features), (rank, shape.in_features))
            b = random.normal(0, strength / np.sqrt(rank), (shape.out_features, rank))  # as loud at any rank
            prefix = f"base_model.model.{name}"
            tensors[f"{prefix}.lora_A.weight"] = torch.tensor(a, dtype=torch.float32)
            tensors[f"{prefix}.lora_B.weight"] = torch.tensor(b, dtype=torch.float32)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": targets,
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
