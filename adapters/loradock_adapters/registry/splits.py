"""Where an alias points: one version, or several with weights, of which each request gets one.

The choice depends on a key alone, so the same key always gets the same version. When weights change, a key moves
only to a version whose share grew (weighted rendezvous hashing). It knows no request and no database.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from loradock_adapters.errors import InvalidSplit

MAX_VERSIONS = 10
MAX_WEIGHT = 10_000


@dataclass(frozen=True, slots=True)
class Split:
    """Versions with their weights, by version number. Only the weights' ratio counts."""

    parts: tuple[tuple[int, int], ...]

    @classmethod
    def to(cls, version: int) -> Split:
        """Everything to one version."""
        return cls(((version, 1),))

    @classmethod
    def of(cls, weights: Mapping[int, int]) -> Split:
        """Weights by version number. Raises InvalidSplit."""
        if not 1 <= len(weights) <= MAX_VERSIONS:
            raise InvalidSplit(f"a split over {len(weights)} versions is not possible; name 1 to {MAX_VERSIONS}")
        for version, weight in weights.items():
            if not 1 <= weight <= MAX_WEIGHT:
                raise InvalidSplit(
                    f"weight {weight} of version {version} is not possible; use 1 to {MAX_WEIGHT}, "
                    "and leave out a version that should get nothing"
                )
        if len(weights) == 1:
            return cls.to(next(iter(weights)))
        return cls(tuple(sorted(weights.items())))

    @property
    def versions(self) -> tuple[int, ...]:
        return tuple(version for version, _ in self.parts)

    @property
    def only(self) -> int | None:
        """The version, if there is just one."""
        return self.parts[0][0] if len(self.parts) == 1 else None

    @property
    def heaviest(self) -> int:
        """The version with the greatest weight, of equal ones the newest."""
        return max(self.parts, key=lambda part: (part[1], part[0]))[0]

    def pick(self, key: str) -> int:
        """The version for this key: over many keys, each version in proportion to its weight."""
        if len(self.parts) == 1:
            return self.parts[0][0]
        return min(self.parts, key=lambda part: _waiting(key, *part))[0]

    def as_dict(self) -> dict[str, int]:
        """Weights by version, as JSON has them."""
        return {str(version): weight for version, weight in self.parts}

    def as_target(self) -> int | dict[str, int]:
        """The version if there is just one, else the weights."""
        return self.only or self.as_dict()

    def as_fields(self) -> dict[str, Any]:
        """Both ways to say it, each in a field of its own: `version`, or `split` with weights."""
        return {"version": self.only, "split": None if self.only else self.as_dict()}

    def __str__(self) -> str:
        if len(self.parts) == 1:
            return str(self.parts[0][0])
        return " ".join(f"{version}={weight}" for version, weight in self.parts)


def _waiting(key: str, version: int, weight: int) -> float:
    """An exponential waiting time of rate `weight`, always the same for this key and version: the shortest wins."""
    digest = hashlib.sha256(f"{version}\0{key}".encode("utf-8", "surrogatepass")).digest()
    uniform = (int.from_bytes(digest[:8]) + 1) / (2**64 + 1)
    return -math.log(uniform) / weight
