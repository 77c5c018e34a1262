"""Which way LoRA deltas are computed: chosen by what the processor has, before anything that needs it is imported.

An instruction that the processor lacks cannot even be compiled for it: LLVM ends the process. So this module imports no
kernel, and no numba.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal, get_args

import torch

from loradock_adapters.processor import Processor

from .slots import LayerSlots, Layout

Way = Literal["paired", "wide", "gemm"]
Wanted = Literal["auto", "paired", "wide", "gemm"]
VARIABLE = "LORADOCK_CPU_KERNEL"  # a setting; `launch` hands it on to the worker
LAYOUTS: dict[Way, Layout] = {"paired": "paired", "wide": "lines", "gemm": "plain"}


class KernelUnfit(ValueError):
    """The way that was asked for cannot compute here; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A way, and why it was taken, in words that begin with its name."""

    way: Way
    reason: str

    @property
    def layout(self) -> Layout:
        """How its weights lie."""
        return LAYOUTS[self.way]


def wanted_way(env: Mapping[str, str] = os.environ) -> Wanted:
    """What the operator asks for. Raises KernelUnfit for a name that is none."""
    wanted = env.get(VARIABLE) or "auto"
    if wanted not in get_args(Wanted):
        raise KernelUnfit(f"{VARIABLE} is {wanted[:40]!r}; known: {', '.join(get_args(Wanted))}")
    return wanted  # type: ignore[return-value]  # one of them, as just seen


def choose(layers: Iterable[LayerSlots], dtype: torch.dtype, processor: Processor, wanted: Wanted = "auto") -> Choice:
    """The fastest way that this processor and all of these layers have in `dtype`, or the one that is wanted.

    Raises KernelUnfit when the one that is wanted cannot be had.
    """
    layers = list(layers)
    number = str(dtype).removeprefix("torch.")
    against = {
        "paired": _against_paired(layers, dtype, processor),
        "wide": _against_wide(dtype, processor),
        "gemm": None,
    }
    if wanted != "auto":
        if problem := against[wanted]:
            raise KernelUnfit(f"{VARIABLE}={wanted} cannot be had: {problem}; leave it on auto")
        return Choice(wanted, f"{wanted}, as {VARIABLE} says; {number} on {processor.description}")
    if against["paired"] is None:
        return Choice("paired", f"paired: {number} by AVX512-BF16 on {processor.description}")
    if against["wide"] is None:
        vectors = "AVX2" if processor.level == "avx2" else "AVX-512"
        return Choice("wide", f"wide: float32 arithmetic in {vectors} on {processor.description}; {against['paired']}")
    return Choice("gemm", f"gemm: matrix products of torch on {processor.description}; {against['wide']}")


def _against_paired(layers: Iterable[LayerSlots], dtype: torch.dtype, processor: Processor) -> str | None:
    if dtype != torch.bfloat16:
        return f"paired computes in bfloat16 only, and the model is in {str(dtype).removeprefix('torch.')}"
    if processor.level != "avx512-bf16":
        return f"paired needs AVX512-BF16, and {processor.name} has none"
    for layer in layers:
        if layer.in_features % 2 or (layer.widths % 16).any():
            return (
                "paired needs an even number of inputs and outputs by sixteens, "
                f"and a layer has {layer.in_features} and {', '.join(map(str, layer.widths))}"
            )
    return _against_compiling()


def _against_wide(dtype: torch.dtype, processor: Processor) -> str | None:
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"wide knows no {str(dtype).removeprefix('torch.')}"
    if processor.level == "none":
        return f"wide needs AVX2 with FMA and F16C, and {processor.name} lacks one of them"
    return _against_compiling()


def _against_compiling() -> str | None:
    return None if find_spec("numba") else "numba, which compiles it, is not installed"
