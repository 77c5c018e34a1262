"""H5: pinning in vLLM takes a slot away that its scheduler still hands out; our engine never pins there."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

import loradock_server.engine

pytestmark = pytest.mark.slow

Seen = dict[str, Any]


def test_plain_vllm_dies_of_a_batch_that_its_scheduler_allows_when_a_slot_is_pinned(plain: Seen) -> None:
    assert plain["h5"]["unpinned"] == "fine"
    assert plain["h5"]["pinned"].startswith("KeyError")


def test_our_engine_pins_nothing_inside_vllm() -> None:
    names = {
        node.attr if isinstance(node, ast.Attribute) else node.value
        for path in Path(loradock_server.engine.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) or (isinstance(node, ast.Constant) and isinstance(node.value, str))
    }
    assert "remove_lora" in names  # the search finds what is there
    assert not names & {"pin_lora", "pin_lora_async", "pin_adapter"}
