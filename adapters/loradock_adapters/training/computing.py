"""What a run computes on and in which numbers: decided before it begins, by `planning`'s rule, and said.

Measures nothing: what a device can do in which time, `cost` asks.
"""

from __future__ import annotations

import os

import torch

from loradock_adapters.planning.choice import judge
from loradock_adapters.planning.device import CPU, GPU, GPUS, Device
from loradock_adapters.planning.lora_size import LoraSize, lora_size
from loradock_adapters.planning.shape import ModelShape
from loradock_adapters.planning.training import Run
from loradock_adapters.planning.training_dtype import DtypeChoice, TrainingDtype, choose_training_dtype
from loradock_adapters.processor import Processor
from loradock_adapters.training.preparation import Prepared


def device_here() -> tuple[Device, int]:
    """What this process would train on, a processor untimed, and the bytes of memory that it has."""
    if not torch.cuda.is_available():
        return CPU, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    facts = torch.cuda.get_device_properties(0)
    words = str(facts.name).lower().replace(" ", "-")
    known = next((device for name, device in GPUS.items() if name in words), GPU)
    return known, int(facts.total_memory)


def dtype_of(prepared: Prepared) -> DtypeChoice:
    """What the run computes in here, and why."""
    device, memory = device_here()
    processor = None if device.is_gpu else Processor.here()
    return choose_training_dtype(
        prepared.recipe.training.compute_dtype, processor, _needs(prepared, device, "float32"), memory
    )


def run_of(prepared: Prepared, device: Device, dtype: TrainingDtype) -> Run:
    """The recipe as the plan sees it, with the longest batch that can come up."""
    recipe = prepared.recipe
    return Run(
        "qlora" if recipe.quantization.type == "nf4" else "lora",
        device.is_gpu,
        batch_size=recipe.training.batch_size,
        sequence_length=prepared.longest,
        checkpointing=recipe.training.gradient_checkpointing,
        double_quantization=recipe.quantization.double,
        dropout=recipe.adapter.dropout > 0,
        dtype=dtype,
    )


def lora_of(prepared: Prepared, shape: ModelShape) -> LoraSize:
    """The adapter as the plan sees it; it knows modules by their last names."""
    adapter = prepared.recipe.adapter
    return lora_size(shape, adapter.rank, {name.rpartition(".")[2] for name in adapter.target_modules})


def _needs(prepared: Prepared, device: Device, dtype: TrainingDtype) -> int | None:
    shape = prepared.shape
    if shape is None:
        return None
    return judge(shape, lora_of(prepared, shape), run_of(prepared, device, dtype), device).needs_bytes
