"""How adapters, versions and aliases are spelt, and how a client's `model` string is read.

It knows no catalogue: whether such an adapter exists is not its business.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from loradock_adapters.errors import InvalidName

LIVE = "live"
"""The alias that a plain adapter name means."""

BASE = "base"
"""The metric label of requests that went to the base model itself."""

RESERVED_NAMES = frozenset({BASE, "other"})  # label values that metrics use for themselves

NAME_PATTERN = r"[a-z0-9][a-z0-9._-]{0,62}"
"""How names and aliases are spelt, as a regular expression."""

_NAME = re.compile(NAME_PATTERN)
# Nine digits fit every database's integer, and nobody counts further.
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_NAME_RULE = "1 to 63 of a-z 0-9 . _ -, the first a letter or digit"


def validate_name(name: str) -> str:
    """Return the adapter name unchanged, or raise InvalidName."""
    if not _NAME.fullmatch(name):
        raise InvalidName(f"adapter name {_shown(name)} is not allowed; use {_NAME_RULE}")
    if name in RESERVED_NAMES:
        raise InvalidName(f"adapter name {name!r} is reserved for metrics; choose another name")
    return name


def validate_alias(alias: str) -> str:
    """Return the alias unchanged, or raise InvalidName; digits alone would read as a version."""
    if not _NAME.fullmatch(alias) or alias.isdigit():
        raise InvalidName(f"alias {_shown(alias)} is not allowed; use {_NAME_RULE}, and not digits only")
    return alias


@dataclass(frozen=True, slots=True, order=True)
class AdapterRef:
    """One version of one adapter. Its `id` is the model name inside the engine and in every answer."""

    name: str
    version: int

    @property
    def id(self) -> str:
        return f"{self.name}@{self.version}"

    @classmethod
    def parse(cls, text: str) -> AdapterRef:
        """Read "name@3"; raise InvalidName for anything else."""
        model = ModelName.parse(text)
        if model.version is None:
            raise InvalidName(f"adapter id {_shown(text)} names no version; write it as name@3")
        return cls(model.name, model.version)

    def __str__(self) -> str:
        return self.id


@dataclass(frozen=True, slots=True)
class ModelName:
    """What a client may ask for: exactly one of `version` and `alias` is set."""

    name: str
    version: int | None
    alias: str | None

    @classmethod
    def parse(cls, text: str) -> ModelName:
        """Read "name", "name@3" or "name@canary"; raise InvalidName for anything else."""
        name, at, tail = text.partition("@")
        validate_name(name)
        if not at:
            return cls(name, None, LIVE)
        if _VERSION.fullmatch(tail):
            return cls(name, int(tail), None)
        return cls(name, None, validate_alias(tail))

    def __str__(self) -> str:
        return f"{self.name}@{self.alias if self.version is None else self.version}"


def _shown(text: str) -> str:
    # A hostile name must not fill a log line.
    return repr(text if len(text) <= 80 else text[:77] + "...")
