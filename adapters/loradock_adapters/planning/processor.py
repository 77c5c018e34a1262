"""How fast this machine's processor is at what training does, by timing it for half a second: no data sheet knows which
share of a processor a virtual machine has, or how fast it is in the numbers that will be computed in.

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
from loradock_adapters.planning.training_dtype import TrainingDtype
from loradock_adapters.processor import Processor

_ROUNDS = 5
_SECONDS = 1.0  # of one kind of work, after its first round
_ROWS = 1024
_LARGEST = 4096  # of a matrix's sides: a larger one is no faster for a number, and takes memory


def timed_processor(shape: ModelShape, dtype: TrainingDtype) -> Device:
    """The processor with its speed at products in `dtype` of matrices as wide as the model's, and at unpacking NF4 so.

    Without torch or bitsandbytes, which training needs anyway, its speed stays unknown.
    """
    # It warns of a package that would make it quicker at answering; here it only trains.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        import bitsandbytes.functional as nf4
        import torch
    except ModuleNotFoundError:
        return CPU
    inner, outer = min(shape.hidden, _LARGEST), min(shape.mlp_inner, _LARGEST)
    numbers = getattr(torch, dtype)
    # bf16 without instructions for it is a hundred times slower: fewer rows tell as well.
    count = _ROWS if dtype == "float32" or Processor.here().multiplies_bf16 else _ROWS // 16
    rows = torch.ones(count, inner, dtype=numbers)
    weight = torch.ones(outer, inner, dtype=numbers)
    packed, state = nf4.quantize_4bit(weight, quant_type="nf4")
    with torch.inference_mode():
        product = _seconds(lambda: torch.nn.functional.linear(rows, weight))
        unpacking = _seconds(lambda: nf4.dequantize_4bit(packed, state))
    return replace(
        CPU, tflops=2 * count * inner * outer / product / 1e12, unpacked_per_second=inner * outer / unpacking
    )


def _seconds(work: Callable[[], object]) -> float:
    """Of one call, the median of several; the first is not counted. Slow work is done less often, but once."""
    work()
    taken: list[float] = []
    while len(taken) < _ROUNDS and sum(taken) < _SECONDS:
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)
