"""What the engine would add to each weight, read through its own staging; and a model's weights by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from loradock_adapters.base_model import BaseModel
from loradock_server.engine.staging import Layer, Plan, Slice, stage, unstage

_FUSED = {"q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "gate_proj": "gate_up", "up_proj": "gate_up"}


def plan_of(base: BaseModel) -> Plan:
    """The base model's layers as vLLM has them: q, k and v in one, gate and up in one, float32."""
    slices: dict[str, list[str]] = {}
    for module in base.modules:
        parent, _, last = module.rpartition(".")
        slices.setdefault(f"{parent}.{_FUSED.get(last, last)}", []).append(module)
    layers = (
        Layer(
            name, base.modules[modules[0]].in_features, tuple(Slice(m, base.modules[m].out_features) for m in modules)
        )
        for name, modules in slices.items()
    )
    return Plan(tuple(layers), torch.float32, "plain")


def served_delta(file: Path, base: BaseModel, scale_of: Callable[[str], float]) -> dict[str, torch.Tensor]:
    """B·A with the scale folded in, (out, in), for every module that the adapter touches."""
    plan = plan_of(base)
    staged = stage(file, plan, scale_of)
    packed = unstage(staged.path)
    staged.close()
    found = {}
    for layer in plan.layers:
        if layer.name not in packed:
            continue
        row = 0
        for one, b in zip(layer.slices, packed[layer.name].b, strict=True):
            if b is not None:
                found[one.module] = b.T @ packed[layer.name].a[row : row + b.shape[0]]
                row += b.shape[0]
    return found


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
