"""JSON of inference requests at the speed of msgspec, with no other meaning than `strict_json` gives it.

It knows no field and words no error: what it does not vouch for, the slow and exact reader judges.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
# Every key of an object ends so. Text can look like it, so this counts too many keys at worst, never too few.
_KEYS = re.compile(rb'"[ \t\r\n]*:')


def decode_object(body: bytes) -> dict[str, Any] | None:
    """The object in these bytes; None if they hold none, or if it might be one that two readers read differently.

    For an object that comes out, `strict_json.parse_object` gives an equal one.
    """
    try:
        value = _decode(body)
    except (ValueError, RecursionError):
        return None
    # Of two equal keys only one is in the result, which then has fewer than there are in the text. Colons are quicker
    # to count and mostly tell the same.
    if not isinstance(value, dict):
        return None
    keys = _keys_in(value)
    if body.count(b":") != keys and len(_KEYS.findall(body)) != keys:
        return None
    return value


def problem(body: bytes) -> str | None:
    """Why even an exact reader's result could not be sent on: a number beyond every float."""
    try:
        _decode(body)
    except (ValueError, RecursionError) as error:
        return str(error)
    return None


def encode(value: dict[str, Any]) -> bytes:
    """What `decode_object` gave, or the like of it, as JSON."""
    return _encode(value)


def _keys_in(value: dict[str, Any]) -> int:
    count = 0
    waiting: list[Any] = [value]
    for outer in waiting:  # which grows meanwhile
        if type(outer) is dict:
            count += len(outer)
            outer = outer.values()
        for part in outer:
            if type(part) is dict or type(part) is list:
                waiting.append(part)
    return count
