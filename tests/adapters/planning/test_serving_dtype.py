"""The rule of LORADOCK_DTYPE=auto: what is fastest on the processor, if the memory holds it, and why."""

from __future__ import annotations

import pytest

from loradock_adapters.planning.serving_dtype import choose_dtype
from loradock_adapters.processor import Processor

AVX2 = frozenset({"avx2", "fma", "f16c"})
AVX512 = AVX2 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
WITHOUT = [frozenset(), AVX2, AVX512]
SMALL, LARGE = 135_000_000, 7_000_000_000
GIB = 1 << 30


@pytest.mark.parametrize("features", WITHOUT)
@pytest.mark.parametrize("checkpoint", ["bfloat16", "float16", "float32"])
def test_without_bf16_instructions_float32_is_chosen(features: frozenset[str], checkpoint: str) -> None:
    choice = choose_dtype(Processor("Old", features), checkpoint, SMALL, 8 * GIB)
    assert choice.dtype == "float32"
    assert "Old" in choice.reason


@pytest.mark.parametrize("features", WITHOUT)
def test_what_does_not_fit_in_float32_is_served_in_bfloat16_and_the_sizes_are_said(features: frozenset[str]) -> None:
    choice = choose_dtype(Processor("Old", features), "bfloat16", LARGE, 24 * GIB)
    assert choice.dtype == "bfloat16"
    assert "29.1 GiB" in choice.reason
    assert "24.0 GiB" in choice.reason


def test_it_fits_when_weights_and_all_else_fit_and_not_with_a_byte_less() -> None:
    old, needed = Processor("Old", AVX2), 4 * SMALL + GIB
    assert choose_dtype(old, "bfloat16", SMALL, needed, besides_bytes=GIB).dtype == "float32"
    assert choose_dtype(old, "bfloat16", SMALL, needed - 1, besides_bytes=GIB).dtype == "bfloat16"


@pytest.mark.parametrize("checkpoint", ["bfloat16", "float16", "float32", "torch.float32", "unknown"])
def test_with_bf16_instructions_bfloat16_is_chosen_and_rounding_is_told(checkpoint: str) -> None:
    choice = choose_dtype(Processor("New", AVX512 | {"avx512_bf16"}), checkpoint, SMALL, 64 * GIB)
    assert choice.dtype == "bfloat16"
    assert ("LORADOCK_DTYPE=float" in choice.reason) == ("float" in checkpoint.removeprefix("bfloat16"))
