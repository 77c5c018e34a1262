"""How the engine is doing, asked twice a second and whenever a request failed on the line to it: ready or not, which
process, which base model, which adapters.

Keeps the last known state and the two engine metrics in step with it. It starts and stops nothing: the
supervisor does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from loradock_adapters.base_model import BaseModel
from loradock_server.gateway.engine_client import EngineClient
from loradock_server.gateway.errors import EngineTimeout, EngineUnavailable
from loradock_server.telemetry.metrics import GatewayMetrics

POLL_SECONDS = 0.5

_log = logging.getLogger(__name__)


Count = Annotated[int, Field(ge=0, lt=1 << 63)]


@with_config(ConfigDict(extra="allow"))
class _Adapter(TypedDict):
    id: str
    digest: NotRequired[str | None]
    tier: NotRequired[str | None]
    bytes: NotRequired[Count | None]
    in_flight: NotRequired[Count]
    last_used: NotRequired[Annotated[float, Field(ge=0, le=4_000_000_000)] | None]
    pinned: NotRequired[bool]


@with_config(ConfigDict(extra="allow"))
class _Pin(TypedDict):
    id: str
    digest: NotRequired[str | None]
    pin_problem: NotRequired[str | None]


class _Base(TypedDict):
    name: NotRequired[str | None]
    digest: NotRequired[str | None]


class _Told(TypedDict):
    """What the engine says of itself, as far as it is used here. Others read it as it is, so its types must hold."""

    ready: bool
    generation: NotRequired[str | None]
    restarts: NotRequired[Count | None]
    base: NotRequired[_Base | None]
    max_model_len: NotRequired[Count | None]
    adapters: NotRequired[list[_Adapter] | None]
    pins: NotRequired[list[_Pin] | None]
    memory: NotRequired[dict[str, Count | None] | None]


_TOLD = TypeAdapter(_Told)


@dataclass(frozen=True, slots=True)
class EngineState:
    """One answer of the engine; `problem` says why it is not ready, and is None when it is.

    With `wrong_base` it would answer, but from other weights than those that were asked for. `adapters` maps the
    adapter id to what the engine told of it (tier, bytes, in_flight, last_used, pinned), `pins` the ids of the pins it
    was told to its digest and pin_problem (None: it knows no pins); `memory` are its limits and what is used of them.
    """

    problem: str | None = "the engine has not answered yet"
    wrong_base: bool = False
    generation: str | None = None
    restarts: int = 0
    max_model_len: int | None = None
    adapters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    pins: Mapping[str, Mapping[str, Any]] | None = None
    memory: Mapping[str, Any] | None = None

    @property
    def ready(self) -> bool:
        return self.problem is None


class EngineWatch:
    """The last known state of the engine."""

    def __init__(self, engine: EngineClient, base: BaseModel, metrics: GatewayMetrics) -> None:
        self._engine = engine
        self._base = base
        self._metrics = metrics
        self.state = EngineState()
        self._doubted = asyncio.Event()
        self._losses = 0

    async def follow(self) -> None:
        """Ask until cancelled."""
        while True:
            self._doubted.clear()
            await self.ask()
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._doubted.wait()

    async def ask(self) -> None:
        """Ask once, now."""
        losses = self._losses
        try:
            state = self._read(await self._engine.state())
        except (EngineUnavailable, EngineTimeout) as error:
            # Its adapters died with it; how often it was restarted is still known.
            state = _without_memory(self.state, str(error))
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in fault["loc"])
            what = f"{where}: {fault['msg']}"
            problem = f"the engine's state cannot be read ({what}); is {self._engine.address} a LoRADock engine?"
            state = _without_memory(self.state, problem)
        if losses == self._losses:  # else a request has found out more meanwhile
            self._become(state)

    def request_failed(self, problem: str, gone: bool) -> None:
        """Hear that a request failed on the line: a `gone` engine is not ready, until it is asked, which is now."""
        if self.state.ready:
            self._doubted.set()
        if gone:
            self._losses += 1
            self._become(_without_memory(self.state, problem))

    def _become(self, state: EngineState) -> None:
        before, self.state = self.state, state
        self._metrics.engine_up.set(self.state.ready)
        self._metrics.engine_restarts.value = self.state.restarts
        if self.state.ready != before.ready:
            _log.log(
                logging.INFO if self.state.ready else logging.WARNING,
                "the engine is ready" if self.state.ready else "the engine is not ready",
                extra={"generation": self.state.generation, "reason": self.state.problem},
            )

    def _read(self, said: Mapping[str, Any]) -> EngineState:
        told = _TOLD.validate_python(said)
        base = told.get("base") or {}
        digest = base.get("digest") or ""
        wrong_base = digest not in ("", self._base.digest)
        problem = None if told["ready"] else "the engine is starting"
        if wrong_base:
            problem = (
                f"the engine has base model {base.get('name')!r} (digest {digest[:12]}…), "
                f"this gateway {self._base.name!r} ({self._base.digest[:12]}…); start both with the same --model"
            )
        pins = told.get("pins")
        return EngineState(
            problem=problem,
            wrong_base=wrong_base,
            generation=told.get("generation"),
            restarts=told.get("restarts") or 0,
            max_model_len=told.get("max_model_len"),
            adapters={adapter["id"]: adapter for adapter in told.get("adapters") or ()},
            pins=None if pins is None else {pin["id"]: pin for pin in pins},
            memory=told.get("memory"),
        )


def _without_memory(state: EngineState, problem: str) -> EngineState:
    return replace(state, problem=problem, wrong_base=False, adapters={}, pins=None, memory=None)
