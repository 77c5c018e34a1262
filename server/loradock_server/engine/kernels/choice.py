"""Which kernel computes: chosen by what the processor has, before anything that needs it is imported or compiled.

An instruction that the processor lacks cannot even be compiled for it: LLVM ends the process. So this module imports no
kernel, and no numba.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from loradock_adapters.processor import Processor

from .slots import LayerSlots


def fits_paired(layers: Iterable[LayerSlots], dtype: torch.dtype, processor: Processor) -> bool:
    """Whether this processor and all of these layers can be computed by `paired`."""
    return (
        dtype == torch.bfloat16
        and processor.level == "avx512-bf16"
        and all(layer.in_features % 2 == 0 and not (layer.widths % 16).any() for layer in layers)
    )
