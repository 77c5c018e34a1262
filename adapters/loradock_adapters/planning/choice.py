"""The quickest way to train that fits into a given memory, with the batch that was wanted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from loradock_adapters.planning.device import Device
from loradock_adapters.planning.duration import step_flops, step_seconds
from loradock_adapters.planning.lora_size import LoraSize
from loradock_adapters.planning.shape import ModelShape
from loradock_adapters.planning.terms import Sum
from loradock_adapters.planning.training import Method, Run, training_memory

_METHODS: tuple[Method, ...] = ("lora", "qlora")


@dataclass(frozen=True, slots=True)
class Choice:
    """A run with its peak; `accumulation` passes make one step of the batch that was wanted. `needs_bytes` is the peak
    with what device and allocator take besides.
    """

    run: Run
    accumulation: int
    peak: Sum
    needs_bytes: int
    seconds_a_step: float | None


def judge(shape: ModelShape, lora: LoraSize, run: Run, device: Device, accumulation: int = 1) -> Choice:
    """What this run takes on this device."""
    peak = training_memory(shape, lora, run)
    seconds = step_seconds(shape, lora, run, device)
    return Choice(
        run, accumulation, peak, device.needs(peak.size_bytes), None if seconds is None else accumulation * seconds
    )


def choose(shape: ModelShape, lora: LoraSize, wanted: Run, device: Device, memory_bytes: int) -> Choice | None:
    """The quickest LoRA or QLoRA that fits; None if none does, however small its batches."""
    fitting = [
        found
        for run, accumulation in _variants(wanted)
        if (found := judge(shape, lora, run, device, accumulation)).needs_bytes <= memory_bytes
    ]

    def cost(choice: Choice) -> tuple[float, int, int]:
        work = choice.accumulation * step_flops(shape, lora, choice.run)
        # Equally quick ones: rather unquantised, and in few passes.
        return choice.seconds_a_step or work, choice.run.method == "qlora", choice.accumulation

    return min(fitting, key=cost, default=None)


def least(shape: ModelShape, lora: LoraSize, wanted: Run, device: Device) -> Choice:
    """The one that takes the least memory."""
    return min(
        (judge(shape, lora, run, device, accumulation) for run, accumulation in _variants(wanted)),
        key=lambda choice: choice.needs_bytes,
    )


def _variants(wanted: Run) -> Iterator[tuple[Run, int]]:
    """Every way to train that an adapter comes out of, with batches that divide the one that is wanted."""
    for size in range(wanted.batch_size, 0, -1):
        if wanted.batch_size % size == 0:
            for method in _METHODS:
                for checkpointing in (False, True):
                    run = replace(wanted, method=method, batch_size=size, checkpointing=checkpointing)
                    yield run, wanted.batch_size // size
