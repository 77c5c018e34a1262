"""What an adapter's settings do to a request: defaults for what it left out, a cap on what it may ask for.

A field that is null is left out, as everywhere in OpenAI's API. It knows the bodies' fields and no HTTP.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from loradock_adapters.adapter_settings import AdapterSettings
from loradock_server.gateway.errors import BadRequest
from loradock_server.telemetry import attributes as names

_SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "seed",
)
# vLLM's Messages API has these alone, and another name for `stop`.
_MESSAGES_SAMPLING = ("temperature", "top_p", "top_k")
_LENGTHS = {
    names.CHAT: ("max_completion_tokens", "max_tokens"),
    names.TEXT_COMPLETION: ("max_tokens",),
    names.RESPONSES: ("max_output_tokens",),
    names.MESSAGES: ("max_tokens",),
}
# What vLLM takes for a completion that asks for no length; for the others it is the rest of the context.
_COMPLETION_TOKENS = 16
_SYSTEM_ROLES = ("system", "developer")


def apply_settings(settings: AdapterSettings, operation: str, body: dict[str, Any]) -> None:
    """Change the body of a request (by the operation's name in `telemetry.attributes`) in place.

    Raises BadRequest for a length that is no whole number where there is a cap.
    """
    if settings.system_prompt is not None:
        _put_in_front(settings.system_prompt, operation, body)
    if operation not in _LENGTHS:
        return  # embeddings and their like generate nothing
    for name in _MESSAGES_SAMPLING if operation == names.MESSAGES else _SAMPLING:
        value = getattr(settings, name)
        if value is not None:
            _default(body, name, value)
    if settings.stop is not None:
        _default(body, "stop_sequences" if operation == names.MESSAGES else "stop", list(settings.stop))
    if settings.max_tokens_cap is not None:
        _cap(settings.max_tokens_cap, operation, body)


def _default(body: dict[str, Any], name: str, value: Any) -> None:
    if body.get(name) is None:
        body[name] = value


def _put_in_front(prompt: str, operation: str, body: dict[str, Any]) -> None:
    if operation in (names.CHAT, names.TOKENIZE):
        messages = body.get("messages")
        if isinstance(messages, list) and not _has_system(messages):
            body["messages"] = [{"role": "system", "content": prompt}, *messages]
    elif operation == names.RESPONSES:
        given = body.get("input")
        if not (isinstance(given, list) and _has_system(given)):
            _default(body, "instructions", prompt)
    elif operation in (names.MESSAGES, names.COUNT_TOKENS):
        messages = body.get("messages")
        if not (isinstance(messages, list) and _has_system(messages)):
            _default(body, "system", prompt)


def _has_system(messages: Iterable[Any]) -> bool:
    return any(isinstance(message, dict) and message.get("role") in _SYSTEM_ROLES for message in messages)


def _cap(cap: int, operation: str, body: dict[str, Any]) -> None:
    fields = _LENGTHS[operation]
    asked = [name for name in fields if body.get(name) is not None]
    for name in asked:
        value = body[name]
        # vLLM would read "5000" and 5000.0 as numbers, past any comparison here.
        if not isinstance(value, int) or isinstance(value, bool):
            raise BadRequest(f"{name} is {str(value)[:40]!r}; it must be a whole number", param=name)
        body[name] = min(value, cap)
    if operation == names.MESSAGES:
        return  # it must ask for a length, and vLLM says so
    if not asked and not (operation == names.TEXT_COMPLETION and cap >= _COMPLETION_TOKENS):
        body[fields[0]] = cap
