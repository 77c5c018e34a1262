"""Running work that outlives the request that asked for it, and telling every gateway how far it is.

The registry keeps what is told; here are the tasks, their signs of life, and the look for those whose gateway died. It
knows no route, and of the work only that it tells of its stages and ends in an answer.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from loradock_adapters.errors import RegistryError
from loradock_adapters.registry import Actor, Begun, Claim, Operation, OperationTable, Sign
from loradock_server.drain import Drain
from loradock_server.gateway.background import Background
from loradock_server.gateway.errors import OperationLost, ShuttingDown, explain
from loradock_server.gateway.stages import Stage, Tell

BEAT_SECONDS = 0.5
LOOK_SECONDS = 5.0
# Without a sign of life for so long, by the observer's own clock, the gateway that ran it is gone.
LOST_SECONDS = 30.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the work comes to: what would have been answered to somebody who waited for it."""

    status: int
    body: Mapping[str, Any]

    @classmethod
    def of(cls, error: BaseException) -> Answer:
        explained = explain(error)
        return cls(explained.status, json.loads(explained.body))

    @property
    def succeeded(self) -> bool:
        return self.status < 400

    @property
    def final(self) -> bool:
        """Whether asking again can only give the same; what was our own trouble may pass."""
        return self.status < 500

    def as_dict(self) -> dict[str, Any]:
        return {"status": self.status, "body": dict(self.body)}


Work = Callable[[Tell], Awaitable[Answer]]


class Operations:
    """The operations of one gateway, named `runner` in the registry."""

    def __init__(self, table: OperationTable, background: Background, drain: Drain, runner: str) -> None:
        self._table = table
        self._background = background
        self._drain = drain
        self._runner = runner
        self._heard: dict[str, tuple[Stage, int, int | None]] = {}
        self._seen: dict[Sign, float] = {}

    async def begin(self, kind: str, adapter: str, *, by: Actor, claim: Claim | None) -> Begun:
        """Raises ClaimReused, RegistryError."""
        return await asyncio.to_thread(self._table.begin, kind, adapter, runner=self._runner, by=by, claim=claim)

    def start(self, operation: Operation, work: Work, held: AsyncExitStack) -> asyncio.Task[Answer]:
        """Do the work, then give back what is `held` for it. The task never fails but by cancellation."""
        return self._background.start(self._run(operation.id, work, held))

    async def follow(self) -> None:
        """Show signs of life and look for those of others, until cancelled."""
        looked = -LOOK_SECONDS
        while True:
            try:
                await self._beat()
                if time.monotonic() - looked >= LOOK_SECONDS:
                    looked = time.monotonic()
                    await self._look()
            except RegistryError as error:
                _log.warning("operations cannot be told of: %s", error)
            await asyncio.sleep(BEAT_SECONDS)

    async def _run(self, id: str, work: Work, held: AsyncExitStack) -> Answer:
        self._heard[id] = (Stage.FETCHING, 0, None)

        def tell(stage: Stage, done: int, total: int | None) -> None:
            self._heard[id] = (stage, done, total)

        try:
            # A gateway that leaves waits for this as for a request.
            with self._drain.answering():
                async with held:
                    answer = await work(tell)
        except asyncio.CancelledError:
            gone = ShuttingDown("the gateway shut down before it was done; ask for it again")
            await self._finish(id, Answer.of(gone))
            raise
        except Exception as error:  # noqa: BLE001  # the boundary of what would have been a request
            answer = Answer.of(error)
            if answer.status == 500:
                _log.error("operation %s failed", id, exc_info=error)
        await self._finish(id, answer)
        return answer

    async def _finish(self, id: str, answer: Answer) -> None:
        stage, done, total = self._heard.pop(id)
        try:
            await asyncio.to_thread(self._table.tell, id, stage, done, total)
            await asyncio.to_thread(
                self._table.finish, id, succeeded=answer.succeeded, answer=answer.as_dict(), final=answer.final
            )
        except RegistryError as error:  # it will be taken for lost
            _log.error("the end of operation %s could not be recorded: %s", id, error)

    async def _beat(self) -> None:
        for id, (stage, done, total) in list(self._heard.items()):
            await asyncio.to_thread(self._table.tell, id, stage, done, total)

    async def _look(self) -> None:
        now = time.monotonic()
        signs = await asyncio.to_thread(self._table.running)
        self._seen = {sign: self._seen.get(sign, now) for sign in signs}
        for sign, since in self._seen.items():
            if now - since < LOST_SECONDS:
                continue
            error = OperationLost(f"the gateway that ran it gave no sign of life for {LOST_SECONDS:g} s; ask again")
            if await asyncio.to_thread(self._table.lose, sign, Answer.of(error).as_dict()):
                _log.warning("operation %s of gateway %s is lost", sign.id, sign.runner)
