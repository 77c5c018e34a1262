"""One request is one turn at the engine: it may not hold thousands."""

from __future__ import annotations

import json
from typing import Any

import pytest

from loradock_server.gateway.bounds import MAX_ANSWERS, MAX_TEXTS, require_bounded
from loradock_server.gateway.errors import BadRequest


@pytest.mark.parametrize(
    ("operation", "body", "param"),
    [
        ("text_completion", {"prompt": ["x"] * (MAX_ANSWERS + 1)}, "prompt"),
        ("text_completion", {"prompt": ["x"] * 9, "n": 128}, "n"),
        ("text_completion", {"prompt": [[1, 2]] * 9, "n": 10**30}, "n"),
        ("embeddings", {"input": ["x"] * (MAX_TEXTS + 1)}, "input"),
        ("rerank", {"query": "x", "documents": ["x"] * (MAX_TEXTS + 1)}, "documents"),
        ("chat", {"structured_outputs": {"choice": ["x" * i for i in range(500)]}}, "structured_outputs"),
        ("chat", {"response_format": {"json_schema": {"schema": {"enum": [*range(30_000)]}}}}, "response_format"),
        ("responses", {"text": {"format": {"schema": {"enum": [*range(30_000)]}}}}, "text"),
        ("messages", {"output_config": {"format": {"schema": {"enum": [*range(30_000)]}}}}, "output_config"),
        ("chat", {"tools": [{"function": {"parameters": {"enum": [*range(90_000)]}}}]}, "tools"),
        ("score", {"text_1": "x", "text_2": ["x"] * (MAX_TEXTS + 1)}, "text_2"),
    ],
)
def test_more_than_a_turn_is_refused_with_value_and_limit(operation: str, body: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest, match="one request may") as raised:
        require_bounded(operation, body, len(json.dumps(body)))
    assert raised.value.param == param


@pytest.mark.parametrize("value", [[None, {}], "json", 3, True])
def test_what_an_answer_must_fit_is_an_object(value: Any) -> None:
    with pytest.raises(BadRequest, match="structured_outputs must be an object") as raised:
        require_bounded("chat", {"structured_outputs": value}, 100)
    assert raised.value.param == "structured_outputs"


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        ("text_completion", {"prompt": list(range(100_000))}),  # one prompt, in tokens
        ("text_completion", {"prompt": ["x"] * 8, "n": 128}),
        ("text_completion", {"prompt": [], "n": "many"}),  # for the engine to refuse
        ("chat", {"messages": [{}] * 5000}),
        ("embeddings", {"input": [7] * 5000}),
        ("score", {}),
        ("chat", {"structured_outputs": None}),
        ("chat", {"messages": ["x" * 100_000], "tools": ["x" * 100_000], "response_format": {"a": "x" * 60_000}}),
        ("chat", {"messages": ["x" * 100_000], "response_format": "json"}),
    ],
)
def test_everything_else_goes_through(operation: str, body: dict[str, Any]) -> None:
    require_bounded(operation, body, len(json.dumps(body)))
