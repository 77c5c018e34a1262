"""Whose limits a request is under, and what it holds of them. Records only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from loradock_adapters.rate_limits import RateLimits
from loradock_server.gateway.limiting.subject import Hold


class Holder(Protocol):
    """Whoever has limits of his own: an API key, as the gateway knows it."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def limits(self) -> RateLimits: ...


@dataclass(slots=True, eq=False)
class Permit:
    """What one request took. `settled`: its tokens are known; `left`: it is over."""

    request_id: str
    holds: tuple[Hold, ...]
    settled: bool = False
    left: bool = False
