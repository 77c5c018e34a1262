"""What would be ignored is refused, and nothing else is."""

from __future__ import annotations

from typing import Any

import pytest

from loradock_server.gateway.errors import Unsupported
from loradock_server.gateway.unsupported import refuse_unsupported

FUNCTION = {"type": "function", "name": "f", "parameters": {}}


@pytest.mark.parametrize(
    ("operation", "field", "value"),
    [
        ("responses", "previous_response_id", "resp_1"),
        ("responses", "conversation", "conv_1"),
        ("responses", "background", True),
        ("responses", "store", True),
        ("responses", "prompt", {"id": "pmpt_1"}),
        ("responses", "tools", [FUNCTION, {"type": "web_search"}]),
        ("chat", "functions", []),
        ("chat", "function_call", "auto"),
        ("chat", "audio", {"voice": "x"}),
        ("chat", "web_search_options", {}),
        ("chat", "guided_json", {}),
        ("text_completion", "guided_regex", "a"),
        ("messages", "kv_transfer_params", {}),
        *((operation, "request_id", "mine") for operation in ("chat", "text_completion", "responses", "messages")),
    ],
)
def test_what_would_be_ignored_is_refused_by_name(operation: str, field: str, value: Any) -> None:
    with pytest.raises(Unsupported, match=f"`{field}`") as raised:
        refuse_unsupported(operation, {"model": "x", field: value})
    assert raised.value.param == field
    refuse_unsupported(operation, {"model": "x", field: None})


@pytest.mark.parametrize(
    "body",
    [
        {"store": False, "background": False, "tools": [FUNCTION], "metadata": {"a": "b"}, "service_tier": "auto"},
        {"store": "yes", "background": 1, "tools": "none"},  # wrong types, for the engine to refuse
        {"user": "u", "prompt_cache_key": "k", "safety_identifier": "s", "include": [], "truncation": "auto"},
    ],
)
def test_hints_and_what_is_off_go_through(body: dict[str, Any]) -> None:
    refuse_unsupported("responses", body)
