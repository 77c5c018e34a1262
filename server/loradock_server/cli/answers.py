"""Parts of a server's JSON answer, taken out with their type. Another shape means another kind of server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from loradock_server.cli.errors import JsonObject, Unreachable


def as_object(document: Any, of: str) -> JsonObject:
    """`document` if it is a JSON object. Raises Unreachable, naming `of`, if it is not."""
    if not isinstance(document, Mapping):
        raise _odd(of, "an object", document)
    return document


def object_in(document: JsonObject, name: str) -> JsonObject:
    """The object under `name`; empty if there is none. Raises Unreachable for something else."""
    return as_object(document.get(name) or {}, name)


def objects_in(document: JsonObject, name: str) -> Sequence[JsonObject]:
    """The list of objects under `name`; empty if there is none. Raises Unreachable for something else."""
    found = document.get(name) or []
    if not isinstance(found, list):
        raise _odd(name, "a list", found)
    return [as_object(item, name) for item in found]


def _odd(name: str, wanted: str, found: object) -> Unreachable:
    return Unreachable(
        f"the server's {name!r} is {type(found).__name__}, not {wanted}",
        fix="compare loradock --version with the server's; they may be too far apart",
    )
