"""The HTTP request that is being answered, and what its generations have cost so far.

The guard sets it, vLLM's own code runs inside it, and the hooks in `vllm_compat` report into it. Knows neither.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from .admission import Reading


@dataclass(slots=True)
class Generation:
    """One sequence of one request (n=2 or two prompts give several). Tokens are counts, times are seconds."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    finish_reason: str | None = None
    queue_seconds: float | None = None
    time_to_first_token_seconds: float | None = None


@dataclass(slots=True)
class RequestContext:
    """Who asked for what, and how to read each generation's counts at any moment, finished or not.

    `key` and `tenant` are words of the gateway's, which get them back; `status` is what HTTP answered, None as long as
    nothing was; `waited`: seconds before the engine got it, so far; `ends`: calls that make sure that a generation has
    left the engine; `over`: no generation may start any more.
    """

    request_id: str
    gateway: str
    adapter: str | None
    digest: str | None
    residency: str | None = None
    key: str = ""
    tenant: str = ""
    status: int | None = None
    waited: Callable[[], float] | None = None
    generations: list[Callable[[], Generation]] = field(default_factory=list)
    ends: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    over: bool = False

    async def end(self) -> None:
        """End what the request started in the engine and left running there."""
        self.over = True
        for end in self.ends:
            await end()

    def reading(self) -> Reading:
        """What it has cost so far. Over when all that it started has finished: the client may still be reading."""
        parts = [read() for read in self.generations]
        return Reading(
            sum(part.input_tokens for part in parts),
            sum(part.output_tokens for part in parts),
            over=bool(parts) and all(part.finish_reason is not None for part in parts),
        )

    def record(self) -> dict[str, Any]:
        """The usage line of this request as it stands now (see `wire.USAGE`)."""
        parts = [read() for read in self.generations]
        reasons = [part.finish_reason or "abort" for part in parts]
        queued = [part.queue_seconds for part in parts if part.queue_seconds is not None]
        waited = [self.waited()] if self.waited else []
        return {
            "request_id": self.request_id,
            "ended_at": time.time(),
            "key": self.key,
            "tenant": self.tenant,
            "status": self.status,
            "adapter": self.adapter,
            "digest": self.digest,
            "input_tokens": sum(part.input_tokens for part in parts),
            "output_tokens": sum(part.output_tokens for part in parts),
            "cached_tokens": sum(part.cached_tokens for part in parts),
            "finish_reason": next((r for r in reasons if r != "stop"), reasons[0]) if reasons else None,
            "queue_seconds": sum([max(queued, default=0.0), *waited]) if queued or waited else None,
            "time_to_first_token_seconds": min(
                (p.time_to_first_token_seconds for p in parts if p.time_to_first_token_seconds is not None),
                default=None,
            ),
            "residency": self.residency,
        }


current_request: ContextVar[RequestContext | None] = ContextVar("loradock_current_request", default=None)
