"""JSON in answers of models: found among other words, compared by value. Answers are strangers' texts."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

_TRIES = 50  # an answer of nothing but braces would take for ever
MISSING = object()
"""Stands for "no JSON there", since null is JSON."""


def whole(text: str) -> Any:
    """The value, if the text is one JSON value and nothing else; else MISSING."""
    try:
        return json.loads(text.strip(), parse_constant=_refuse)
    except (ValueError, RecursionError):
        return MISSING


def first(text: str, like: Any) -> Any:
    """The first JSON object (or list, if `like` is one) in the text, whatever stands around it; else MISSING.

    Of other kinds of values only the whole text is read.
    """
    if not isinstance(like, (dict, list)):
        return whole(text)
    opening = re.finditer(r"\{" if isinstance(like, dict) else r"\[", text)
    for start in islice(opening, _TRIES):
        try:
            return json.JSONDecoder(parse_constant=_refuse).raw_decode(text, start.start())[0]
        except (ValueError, RecursionError):
            continue
    return MISSING


def same(one: Any, other: Any) -> bool:
    """Equal as JSON: 1 and 1.0 are, 1 and true are not, the order of keys does not matter."""
    try:
        return Counter(leaves(one)) == Counter(leaves(other))
    except RecursionError:
        return False


def field_f1(found: Any, wanted: Any) -> float:
    """F1 over fields, each its path with its value: 1 where all agree, 0 where none does or nothing was found."""
    if found is MISSING:
        return 0.0
    try:
        ours, theirs = Counter(leaves(found)), Counter(leaves(wanted))
    except RecursionError:
        return 0.0
    return 2 * (ours & theirs).total() / (ours.total() + theirs.total())


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], str, Any]]:
    """Every value without parts, with its path and its type; an empty object or list is one."""
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from leaves(part, (*path, key))
    elif isinstance(value, list) and value:
        for position, part in enumerate(value):
            yield from leaves(part, (*path, position))
    elif isinstance(value, (dict, list)):
        yield path, type(value).__name__, None
    elif isinstance(value, bool) or value is None or isinstance(value, str):
        yield path, type(value).__name__, value
    else:
        yield path, "number", value


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
