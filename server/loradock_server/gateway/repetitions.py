"""How much of an answer's schema, regex or grammar says "so many times": the engine's compiler unrolls each of these.

A string of at most 1000 characters costs two seconds of a core, however often the same bounds come again; each other
pair of bounds costs as much anew, and all other schemas wait meanwhile. So the different ones are added up. It knows no
model and compiles nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

MOST = 500
"""Characters from which on a longer string costs no more: no token of a model is longer."""

# Nothing of it is tried in two ways: whoever sends this may choose what it meets.
_COUNTED = re.compile(r"\{\s*+(\d{1,20}+)?+\s*+,?+\s*+(\d{1,20}+)?+\s*+\}")
_EXPRESSIONS = ("pattern", "regex", "grammar")
_LENGTHS = ("minLength", "maxLength")


def repetitions(said: Any) -> int:
    """The sum over all different bounds in it, each at most MOST."""
    found: dict[Any, int] = {}
    for key, size in _all(said):
        found[key] = max(found.get(key, 0), size)
    return sum(found.values())


def _all(said: Any) -> Iterator[tuple[Any, int]]:
    waiting = [said]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting += [one for one in part if isinstance(one, (dict, list))]
        elif isinstance(part, dict):
            bounds = [number for name in _LENGTHS if (number := _number(part.get(name)))]
            if bounds:
                yield repr([part.get(name) for name in _LENGTHS]), max(bounds)
            for name, value in part.items():
                if isinstance(value, (dict, list)):
                    waiting.append(value)
                elif isinstance(value, str) and name in _EXPRESSIONS:
                    yield from _in_expression(value)
            properties = part.get("patternProperties")
            for pattern in properties if isinstance(properties, Mapping) else ():
                yield from _in_expression(pattern)


def _in_expression(text: str) -> Iterator[tuple[Any, int]]:
    """Each place of it, as what is repeated there cannot be told from its end alone."""
    for place in _COUNTED.finditer(text):
        sizes = [int(number) for number in place.group(1, 2) if number]
        if sizes:
            yield (text, place.start()), min(MOST, max(sizes))


def _number(value: Any) -> int:
    """Of a bound, at most MOST; 0 for what is none."""
    return int(min(value, MOST)) if isinstance(value, (int, float)) and value > 0 else 0
