"""H2: files of an adapter vanish or rot. In vLLM a load inside a step ends the engine; here it concerns one adapter."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.slow

Seen = dict[str, Any]


def test_plain_vllm_reads_an_evicted_adapter_again_inside_a_step_and_dies_of_its_missing_files(plain: Seen) -> None:
    assert plain["h2"]["evicted"]
    assert "No adapter found for" in plain["h2"]["step"]


def test_the_adapter_without_files_is_a_404_that_says_what_to_do(ours: Seen) -> None:
    for seen in (ours["h2"]["evicted and gone"], ours["h2"]["unloaded and truncated"]):
        assert seen.startswith("404 ")
        assert "register the adapter again" in seen


def test_adapters_in_memory_and_the_base_serve_on_without_their_files(ours: Seen) -> None:
    assert ours["h2"]["loaded"] == ["fine"] * 3
    assert ours["h2"]["resident"] == ["a2@1", "a3@1"]
    assert ours["h2"]["resident and gone"] == ours["h2"]["resident and truncated"] == ours["h2"]["base"] == "fine"


def test_evictions_never_make_vllm_read_files_but_for_a_load_that_residency_ordered(ours: Seen) -> None:
    assert ours["h2"]["reads"] == ["a1@1", "a2@1", "a3@1"]


def test_registering_the_same_bytes_again_repairs_it(ours: Seen) -> None:
    assert ours["h2"]["registered again"] == ["fine", "fine"]
