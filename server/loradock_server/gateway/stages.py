"""How far a registration is: the stages it passes through, and the way to tell of them. It knows nobody who listens."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum


class Stage(StrEnum):
    """In this order. `done` and `total` count bytes, in the last stage probes."""

    FETCHING = "fetching"  # the bytes are on their way to this machine
    CHECKING = "checking"  # whether they can be served
    STORING = "storing"  # copied into the store and read back
    PROBING = "probing"  # asked on the live engine


Tell = Callable[[Stage, int, int | None], None]
"""Hears, from any thread: the stage, how much of it is done, how much there is (None: unknown)."""


def unheard(stage: Stage, done: int, total: int | None) -> None:
    """For registrations that nobody watches."""
