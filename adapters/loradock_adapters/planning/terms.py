"""A sum of bytes whose parts say how they came about, so that a reader can check the arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Term:
    """One part of a sum: `size_bytes` of `what`, and the arithmetic in words."""

    what: str
    size_bytes: int
    how: str


@dataclass(frozen=True, slots=True)
class Sum:
    """Terms that are in memory at the same moment."""

    terms: tuple[Term, ...]

    @property
    def size_bytes(self) -> int:
        return sum(term.size_bytes for term in self.terms)

    def of(self, what: str) -> int:
        """The bytes of the terms with this name; 0 if there is none."""
        return sum(term.size_bytes for term in self.terms if term.what == what)

    def as_dict(self) -> dict[str, Any]:
        return {
            "bytes": self.size_bytes,
            "terms": [{"what": t.what, "bytes": t.size_bytes, "how": t.how} for t in self.terms],
        }
