"""The most memory that this process and its GPU ever held for a run."""

from __future__ import annotations

import resource
import sys

import torch


def start_counting() -> None:
    """Forget a GPU's earlier peak; that of the process cannot be forgotten."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_bytes() -> dict[str, int]:
    """By what holds it: the process with its libraries, and on a GPU what tensors took and what the allocator held."""
    unit = 1 if sys.platform == "darwin" else 1024
    found = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if torch.cuda.is_available():
        found["gpu_tensors"] = int(torch.cuda.max_memory_allocated())
        found["gpu_allocator"] = int(torch.cuda.max_memory_reserved())
    return found


def highest(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    """Of two processes that took turns."""
    return {name: max(one.get(name, 0), other.get(name, 0)) for name in one | other}
