"""H4: a load that fails half way. In vLLM the number then serves half-written weights; here nothing of it stays."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.slow

Seen = dict[str, Any]


def test_plain_vllm_accepts_and_serves_a_number_whose_load_has_failed_before(plain: Seen) -> None:
    assert "must match the size" in plain["h4"]["first"]
    assert plain["h4"]["again"] is True
    assert plain["h4"]["step"] == "fine"


def test_our_slots_refuse_it_every_time_and_keep_nothing(ours: Seen) -> None:
    assert len(ours["h4"]["refusals"]) == 2
    assert "do not fit this layer" in ours["h4"]["refusals"][1]
    assert ours["h4"]["left inside"] == []


def test_the_check_refuses_it_before_the_engine_is_asked(ours: Seen) -> None:
    assert ours["h4 through residency"]["by the check"].startswith("422 ")
    assert "base needs (32, rank)" in ours["h4 through residency"]["by the check"]


@pytest.mark.parametrize("kernels", ["plain", "ours"])
def test_a_load_that_fails_in_the_engine_is_a_422_each_time_leaves_nothing_and_harms_nobody(
    kernels: str, played: dict[str, Seen]
) -> None:
    seen = played[kernels]["h4 through residency"]
    assert [said[:4] for said in seen["tries"]] == ["422 "] * 3
    assert seen["left inside"] == seen["left in slots"] == []
    assert seen["good"] == "fine"
