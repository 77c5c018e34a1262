"""What a server allows of an adapter."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """The highest rank, and the largest size of an adapter's files together, in bytes."""

    max_rank: int = 64
    max_bytes: int = 1 << 30
