"""The rule of training.compute_dtype = "auto": the fastest on what trains, if it fits, and why."""

from __future__ import annotations

import pytest

from loradock_adapters.planning.training_dtype import choose_training_dtype
from loradock_adapters.processor import Processor
from tests.adapters.planning.test_serving_dtype import AVX512, WITHOUT

GIB = 1 << 30
NEW = Processor("New", AVX512 | {"avx512_bf16"})


@pytest.mark.parametrize("features", WITHOUT)
def test_without_bf16_instructions_float32_is_chosen_if_it_fits(features: frozenset[str]) -> None:
    old = Processor("Old", features)
    for needed in (None, 8 * GIB):
        choice = choose_training_dtype("auto", old, needed, 8 * GIB)
        assert (choice.dtype, "Old" in choice.reason) == ("float32", True)
    choice = choose_training_dtype("auto", old, 8 * GIB + 1, 8 * GIB)
    assert choice.dtype == "bfloat16"
    assert "needs 8.0 GiB of the 8.0 GiB" in choice.reason


@pytest.mark.parametrize("processor", [NEW, None])
def test_what_multiplies_bf16_computes_in_it(processor: Processor | None) -> None:
    assert choose_training_dtype("auto", processor, 1, 8 * GIB).dtype == "bfloat16"


@pytest.mark.parametrize("processor", [NEW, Processor("Old", frozenset()), None])
@pytest.mark.parametrize("wanted", ["bfloat16", "float32"])
def test_what_a_recipe_says_is_done(processor: Processor | None, wanted: str) -> None:
    choice = choose_training_dtype(wanted, processor, 100 * GIB, GIB)  # type: ignore[arg-type]
    assert (choice.dtype, choice.reason) == (wanted, "the recipe says so")
