"""A TOML table into frozen records, by their fields' types: every unknown key, missing or wrong value is written down.

Knows no recipe.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def build(kind: type[T], table: dict[str, Any], prefix: str, faults: list[str]) -> T | None:
    """Make `kind` of a TOML table, adding to `faults`; None when a value is missing or wrong."""
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]  # T is a dataclass
    for key in table.keys() - fields.keys():
        near = difflib.get_close_matches(key, fields, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(fields)}"
        faults.append(f"unknown key {prefix}{key}{hint}")
    before = len(faults)
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in table:
            values[name] = _value(hints[name], table[name], prefix + name, faults)
        elif field.default is dataclasses.MISSING:
            faults.append(f"{prefix}{name} is missing")
    return None if len(faults) > before else kind(**values)


def _value(hint: Any, value: Any, where: str, faults: list[str]) -> Any:
    """`value` as `hint` wants it; a fault otherwise."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        hint = next(option for option in typing.get_args(hint) if option is not type(None))
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, dict):
            return build(hint, value, where + ".", faults)
        faults.append(f"{where} is {value!r}; it is a table, write [{where}]")
        return None
    if typing.get_origin(hint) is typing.Literal:
        if isinstance(value, str) and value in typing.get_args(hint):
            return value
        faults.append(f"{where} is {value!r}; it is one of {', '.join(map(repr, typing.get_args(hint)))}")
        return None
    if hint == tuple[str, ...]:
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        faults.append(f"{where} is {value!r}; it is a list of strings")
        return None
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and type(value) is int:
        return float(value)
    # bool is an int to Python, not to a recipe.
    if type(value) is hint:
        return value
    faults.append(f"{where} is {value!r}; it is {'a path' if hint is Path else hint.__name__}")
    return None
