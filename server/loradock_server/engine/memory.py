"""What is in memory at one moment, by tier: the view that state and metrics show. Moves nothing."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import asdict, dataclass
from typing import Any, Literal

from .residency import Residency

# "slot": it holds one of the places of those that run; "memory": it waits there for its next request.
Tier = Literal["slot", "memory"]


@dataclass(frozen=True, slots=True)
class Held:
    """One adapter in memory; the fields are those of wire.STATE. `pinned`: it stays, whoever needs room."""

    id: str
    digest: str
    tier: Tier
    bytes: int
    in_flight: int
    last_used: float | None  # seconds since the epoch
    pinned: bool


@dataclass(frozen=True, slots=True)
class WantedPin:
    """A pin that was asked for, and why it is not in force, if it is not."""

    id: str
    digest: str
    pin_problem: str | None


@dataclass(frozen=True, slots=True)
class Memory:
    """Everything at one moment, sizes in bytes."""

    adapters: tuple[Held, ...]
    pins: tuple[WantedPin, ...]
    bytes: int
    limit_bytes: int
    limit_adapters: int

    @classmethod
    def of(cls, residency: Residency, placed: Set[str]) -> Memory:
        """Look at the residency; `placed` are the adapters that hold a place."""
        kept, problems = residency.pins.kept(), residency.pins.problems()
        return cls(
            tuple(
                Held(
                    id=resident.adapter_id,
                    digest=resident.digest,
                    tier="slot" if resident.adapter_id in placed else "memory",
                    bytes=resident.size_bytes,
                    in_flight=resident.users,
                    last_used=resident.last_used,
                    pinned=resident.adapter_id in kept,
                )
                for resident in residency.residents()
            ),
            tuple(
                WantedPin(name, digest, problems[name].text if name in problems else None)
                for name, digest in residency.pins.wanted.items()
            ),
            bytes=residency.used_bytes,
            limit_bytes=residency.limits.size_bytes,
            limit_adapters=residency.limits.adapters,
        )

    def as_state(self) -> dict[str, Any]:
        """Its part of wire.STATE."""
        return {
            "adapters": [asdict(adapter) for adapter in self.adapters],
            "pins": [asdict(pin) for pin in self.pins],
            "memory": {
                "bytes": self.bytes,
                "limit_bytes": self.limit_bytes,
                "adapters": len(self.adapters),
                "limit_adapters": self.limit_adapters,
            },
        }
