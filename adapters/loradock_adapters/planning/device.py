"""What trains: a GPU by its name, memory and speed by the maker's data sheet, or this machine's processor."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from loradock_adapters.errors import BaseModelError

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Device:
    """`tflops`: bf16 matrix products without sparsity, as the data sheet has them, or as `processor` timed them in the
    numbers of the run; None where nobody says. `unpacked_per_second`: NF4 numbers made such ones, of a processor only:
    a GPU does it on the way.

    `taken_bytes`: what the driver's context or the process's libraries hold besides; `spill`: what the allocator holds
    on top of what is used, as a share.
    """

    name: str
    memory_bytes: int | None
    tflops: float | None
    taken_bytes: int
    spill: float
    unpacked_per_second: float | None = None

    @property
    def is_gpu(self) -> bool:
        return self.name != "cpu"

    def needs(self, peak_bytes: int) -> int:
        """Memory that must be there for a peak of this size."""
        return round(peak_bytes * (1 + self.spill)) + self.taken_bytes


# Measured on an H100 with torch 2.11 (docs/training.md): the context took 0.80 GB, the allocator up to 19 % more than
# was in use where little was, 1 to 12 % where much was.
_CONTEXT_BYTES = 800_000_000
_GPU_SPILL = 0.10
# Python with torch, transformers, TRL and bitsandbytes in it.
_LIBRARIES_BYTES = 1_000_000_000

_SHEETS = {
    "rtx-3090": (24, 71),
    "rtx-4090": (24, 165),
    "l4": (24, 121),
    "a10": (24, 125),
    "l40s": (48, 362),
    "a100-40gb": (40, 312),
    "a100-80gb": (80, 312),
    "h100": (80, 989),
    "h200": (141, 989),
}
CPU = Device("cpu", None, None, _LIBRARIES_BYTES, 0.05)
GPU = Device("gpu", None, None, _CONTEXT_BYTES, _GPU_SPILL)
"""One that no data sheet is known of here."""

GPUS = {
    name: Device(name, gib * GIB, float(tflops), _CONTEXT_BYTES, _GPU_SPILL) for name, (gib, tflops) in _SHEETS.items()
}


def find_device(name: str) -> Device:
    """Raises BaseModelError for a name that is not known, with the nearest one."""
    key = name.lower().replace("_", "-").replace(" ", "-")
    if found := {"cpu": CPU, "gpu": GPU, **GPUS}.get(key):
        return found
    near = difflib.get_close_matches(key, GPUS, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise BaseModelError(f"no data sheet for {name[:40]!r}{hint}; known: cpu, {', '.join(GPUS)}, and gpu for any other")
