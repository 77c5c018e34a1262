"""What a run will take, before it begins: memory and, where the device's speed is known, time.

`planning` does the sums.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from loradock_adapters.planning.choice import Choice, judge
from loradock_adapters.planning.processor import timed_processor
from loradock_adapters.planning.training_dtype import DtypeChoice
from loradock_adapters.training.computing import device_here, lora_of, run_of
from loradock_adapters.training.preparation import Prepared


@dataclass(frozen=True, slots=True)
class Cost:
    """Of the longest batch that can come up. `memory_bytes`: what there is; `seconds` is None on a GPU that no data
    sheet is known of.
    """

    device: str
    memory_bytes: int
    choice: Choice
    steps: int
    compute: DtypeChoice

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
            "compute": asdict(self.compute),
            "memory_bytes": self.memory_bytes,
            "needs_bytes": self.needs_bytes,
            "fits": self.needs_bytes <= self.memory_bytes,
            "steps": self.steps,
            "seconds": self.seconds,
            "peak": self.choice.peak.as_dict(),
        }


def cost_of(prepared: Prepared, compute: DtypeChoice) -> Cost | None:
    """On what this process would train on; None for a base whose shapes are not known here."""
    shape, recipe = prepared.shape, prepared.recipe
    if shape is None:
        return None
    device, memory = device_here()
    if not device.is_gpu:
        device = timed_processor(shape, compute.dtype)
    run = run_of(prepared, device, compute.dtype)
    choice = judge(shape, lora_of(prepared, shape), run, device, recipe.training.gradient_accumulation)
    return Cost(device.name, memory, choice, prepared.schedule.steps, compute)
