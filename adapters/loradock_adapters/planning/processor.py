"""How fast this machine's processor is at what training does, by timing it for half a second: no data sheet knows which
share of a processor a virtual machine has, or whether bf16 is done in hardware.

Knows no run and no plan.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

from loradock_adapters.planning.device import CPU, Device
from loradock_adapters.planning.shape import ModelShape

_ROUNDS = 5
_ROWS = 1024
_LARGEST = 4096  # of a matrix's sides: a larger one is no faster for a number, and takes memory


def timed_processor(shape: ModelShape) -> Device:
    """The processor with its speed at products of bf16 matrices as wide as the model's, and at unpacking NF4.

    Without torch or bitsandbytes, which training needs anyway, its speed stays unknown.
    """
    # It warns of a package that would make it quicker at answering; here it only trains.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        import bitsandbytes.functional as nf4
        import torch
    except ModuleNotFoundError:
        return CPU
    inner, outer = min(shape.hidden, _LARGEST), min(shape.intermediate, _LARGEST)
    rows = torch.ones(_ROWS, inner, dtype=torch.bfloat16)
    weight = torch.ones(outer, inner, dtype=torch.bfloat16)
    packed, state = nf4.quantize_4bit(weight, quant_type="nf4")
    with torch.inference_mode():
        product = _seconds(lambda: torch.nn.functional.linear(rows, weight))
        unpacking = _seconds(lambda: nf4.dequantize_4bit(packed, state))
    return replace(
        CPU, tflops=2 * _ROWS * inner * outer / product / 1e12, unpacked_per_second=inner * outer / unpacking
    )


def _seconds(work: Callable[[], object]) -> float:
    """Of one call, the median of several; the first is not counted."""
    work()
    taken = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)
