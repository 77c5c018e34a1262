"""H6: two versions under one name in one batch. vLLM takes them for one; here each has its own name."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.slow

Seen = dict[str, Any]


def test_plain_vllm_takes_two_adapters_of_one_name_for_one_and_dies_of_the_other(plain: Seen) -> None:
    assert plain["h6"]["distinct"] == 1
    assert plain["h6"]["step"].startswith("KeyError")


def test_through_loads_evictions_and_unloads_a_name_in_a_batch_always_means_one_set_of_weights(ours: Seen) -> None:
    assert ours["h6"]["steps"] > 300
    assert ours["h6"]["collisions"] == 0
    assert set(ours["h6"]["fates"]) <= {"fine", "503"}  # 503: the adapter was being unloaded


def test_afterwards_vllm_holds_exactly_what_residency_says(ours: Seen) -> None:
    assert ours["h6"]["same"]
