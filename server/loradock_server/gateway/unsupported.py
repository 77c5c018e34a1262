"""What OpenAI's API has and this server would silently ignore, so that somebody relied on it: refused instead.

Harmless hints (`metadata`, `service_tier`, `prediction`, …) are let through. It knows fields and no HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from loradock_server.gateway.errors import Unsupported
from loradock_server.telemetry import attributes as names

_KEEPS_NOTHING = "this server keeps no responses"


def _given(value: Any) -> bool:
    return value is not None


def _is_true(value: Any) -> bool:
    return value is True


def _run_elsewhere(tools: Any) -> bool:
    """Whether there is one that OpenAI's servers would run: a search, an interpreter, …"""
    return isinstance(tools, list) and any(
        isinstance(tool, dict) and tool.get("type", "function") != "function" for tool in tools
    )


Asked = Callable[[Any], bool]

_TOOLS = "an older form of `tools`, which would be ignored; use `tools` and `tool_choice`"
_GUIDED = "not known to vLLM any more and would be ignored; use `response_format` or `structured_outputs`"
_UNCONSTRAINED: Mapping[str, tuple[Asked, str]] = {
    name: (_given, _GUIDED)
    for name in ("guided_json", "guided_regex", "guided_choice", "guided_grammar", "guided_decoding_backend")
}

_BETWEEN_ENGINES = "for engines among themselves"
# Of vLLM's own, what is not a client's to say.
_OURS: Mapping[str, tuple[Asked, str]] = {
    "request_id": (_given, "given by this server; yours goes into the header `x-request-id`"),
    "kv_transfer_params": (_given, _BETWEEN_ENGINES),
    "ec_transfer_params": (_given, _BETWEEN_ENGINES),
}

_REFUSED: Mapping[str, Mapping[str, tuple[Asked, str]]] = {
    names.CHAT: {
        "functions": (_given, _TOOLS),
        "function_call": (_given, _TOOLS),
        "audio": (_given, "for answers in sound; this server answers in text"),
        "web_search_options": (_given, "for searching the web, which this server does not"),
        **_UNCONSTRAINED,
        **_OURS,
    },
    names.TEXT_COMPLETION: {**_UNCONSTRAINED, **_OURS},
    names.RESPONSES: {
        "previous_response_id": (_given, f"not possible: {_KEEPS_NOTHING}; send the whole conversation as `input`"),
        "conversation": (_given, "not possible: this server keeps no conversations; send the whole of it as `input`"),
        "background": (_is_true, f"not possible: {_KEEPS_NOTHING} to be asked for later; use `stream`"),
        "store": (_is_true, f"not possible: {_KEEPS_NOTHING}; leave it out or send false"),
        "prompt": (_given, "a template that OpenAI stores; send its text as `instructions` and `input`"),
        "tools": (
            _run_elsewhere,
            "for functions alone: this server runs no tools (`type` is `function`)",
        ),
        **_UNCONSTRAINED,
        **_OURS,
    },
    names.MESSAGES: _OURS,
}
_NONE: Mapping[str, tuple[Asked, str]] = {}


def refuse_unsupported(operation: str, body: Mapping[str, Any]) -> None:
    """Look for such a field in the body of a request (by the operation's name). Raises Unsupported."""
    refused = _REFUSED.get(operation, _NONE)
    for name in refused.keys() & body.keys():
        asked, why = refused[name]
        if asked(body[name]):
            raise Unsupported(f"`{name}` is {why}", param=name)
