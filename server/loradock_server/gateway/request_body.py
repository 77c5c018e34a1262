"""The body of an inference request: one JSON object, and nothing that two readers could understand differently.

It knows no field. Stricter than `json`: no key twice, no NaN, no half of a surrogate pair, bounded depth; so what goes
on to the engine is what was judged here.
"""

from __future__ import annotations

from typing import Any

from loradock_adapters.strict_json import parse_object
from loradock_server.gateway import fast_json
from loradock_server.gateway.errors import BadRequest

# A tool's JSON Schema may be deep; what is deeper than this makes one reader or another run out of stack.
MAX_DEPTH = 100


def parse_request(body: bytes) -> dict[str, Any]:
    """The object. Raises BadRequest, which says where and why."""
    value = fast_json.decode_object(body)
    slow = value is None
    if value is None:
        value = _judged(body)
    # Both bounds hold for nearly every body, and are counted at the speed of memory.
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _depth_exceeds(value, MAX_DEPTH):
        raise BadRequest(f"the body is nested too deeply: more than {MAX_DEPTH} levels of arrays and objects")
    if (b"\\ud" in body or b"\\uD" in body) and (where := _half_pair(value)) is not None:
        raise BadRequest(f"the body has half of a surrogate pair in {where!r}; send text as UTF-8")
    if slow and (problem := fast_json.problem(body)) is not None:
        raise BadRequest(f"the body: {problem}")
    return value


def _judged(body: bytes) -> dict[str, Any]:
    try:
        value = parse_object(body)
    except ValueError as error:
        said = str(error)
        raise BadRequest(
            f"the body is {said}" if said.startswith(("not", "nested")) else f"the body: {said}"
        ) from error
    return value


def _depth_exceeds(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [
            part
            for outer in level
            for part in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(part, (dict, list))
        ]
        if not level:
            return False
    return True


def _half_pair(value: dict[str, Any]) -> str | None:
    """The field of the body that holds text which is no text, "" for the name of a field itself."""
    for name, part in value.items():
        waiting: list[Any] = [part]
        while waiting:
            found = waiting.pop()
            if isinstance(found, str):
                if not _is_text(found):
                    return name if _is_text(name) else ""
            elif isinstance(found, dict):
                waiting += [*found.keys(), *found.values()]
            elif isinstance(found, list):
                waiting += found
        if not _is_text(name):
            return ""
    return None


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
