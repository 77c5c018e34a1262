"""What a run will take, before it begins: memory and, where the device's speed is known, time.

`planning` does the sums.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch

from loradock_adapters.errors import BaseModelError
from loradock_adapters.planning.choice import Choice, judge
from loradock_adapters.planning.device import CPU, GPU, GPUS, Device
from loradock_adapters.planning.lora_size import lora_size
from loradock_adapters.planning.shape import ModelShape, read_shape
from loradock_adapters.planning.training import Run
from loradock_adapters.training.preparation import Prepared


@dataclass(frozen=True, slots=True)
class Cost:
    """Of the longest batch that can come up. `memory_bytes`: what there is; `seconds` is None on a CPU, whose speed
    the first steps tell.
    """

    device: str
    memory_bytes: int
    choice: Choice
    steps: int

    @property
    def needs_bytes(self) -> int:
        return self.choice.needs_bytes

    @property
    def seconds(self) -> float | None:
        each = self.choice.seconds_a_step
        return None if each is None else each * self.steps

    def as_dict(self) -> dict[str, Any]:
        return {
            "device": self.device,
            "memory_bytes": self.memory_bytes,
            "needs_bytes": self.needs_bytes,
            "fits": self.needs_bytes <= self.memory_bytes,
            "steps": self.steps,
            "seconds": self.seconds,
            "peak": self.choice.peak.as_dict(),
        }


def cost_of(prepared: Prepared, shape: ModelShape) -> Cost:
    """On what this process would train on."""
    recipe = prepared.recipe
    training = recipe.training
    device, memory = _device()
    run = Run(
        "qlora" if recipe.quantization.type == "nf4" else "lora",
        device.is_gpu,
        batch_size=training.batch_size,
        sequence_length=prepared.longest,
        checkpointing=training.gradient_checkpointing,
        double_quantization=recipe.quantization.double,
        dropout=recipe.adapter.dropout > 0,
    )
    size = lora_size(shape, recipe.adapter.rank, recipe.adapter.target_modules)
    choice = judge(shape, size, run, device, training.gradient_accumulation)
    return Cost(device.name, memory, choice, prepared.schedule.steps)


def shape_of(prepared: Prepared) -> ModelShape | None:
    """The base's shapes, or None for a family whose shapes are not known here."""
    try:
        return read_shape(prepared.base.folder)
    except BaseModelError:
        return None


def _device() -> tuple[Device, int]:
    if not torch.cuda.is_available():
        return CPU, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    facts = torch.cuda.get_device_properties(0)
    words = str(facts.name).lower().replace(" ", "-")
    known = next((device for name, device in GPUS.items() if name in words), GPU)
    return known, int(facts.total_memory)
