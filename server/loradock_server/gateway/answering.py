"""How a registration is answered: when it is done, or at once with an operation that tells how far it is.

Clients ask for the latter by `Prefer: respond-async`, and by `Idempotency-Key` for one registration however often they
send it. It knows no route; `registering` does the work and `operations` runs it.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Header
from starlette.responses import JSONResponse

from loradock_adapters.digest import folder_digest
from loradock_adapters.registry import Claim, Operation
from loradock_server.gateway.errors import BadRequest, OperationRuns
from loradock_server.gateway.intake import Progress, Source, Upload
from loradock_server.gateway.operations import Answer
from loradock_server.gateway.registering import Order, add_version
from loradock_server.gateway.registration import Registered
from loradock_server.gateway.services import Services
from loradock_server.gateway.stages import Tell, unheard
from loradock_server.gateway.views import operation_view

REGISTER = "adapter.register"
OPERATIONS = "/admin/operations"
LONGEST_WAIT_SECONDS = 60
_KEY = re.compile(r"[\x20-\x7e]{1,255}")


@dataclass(frozen=True, slots=True)
class Wish:
    """`later`: answer with the operation if it takes longer than `wait_seconds`. `key`: the idempotency key."""

    later: bool = False
    wait_seconds: int = 0
    key: str | None = None


def read_wish(prefer: str | None, key: str | None) -> Wish:
    """What the headers ask for; preferences that we do not know are nothing to us. Raises BadRequest for the key."""
    if key is not None and not _KEY.fullmatch(key):
        raise BadRequest(
            f"the Idempotency-Key has {len(key)} characters; it takes 1 to 255 of visible ASCII, a UUID for instance",
            param="Idempotency-Key",
        )
    wishes = [part.strip().lower() for part in (prefer or "").split(",")]
    # Of a longer number the first digits are more than enough.
    waits = [
        int(seconds[:4]) for wish in wishes if (seconds := wish.removeprefix("wait=")) != wish and seconds.isdecimal()
    ]
    return Wish("respond-async" in wishes, min([*waits, LONGEST_WAIT_SECONDS]) if waits else 0, key)


def _wish(
    prefer: Annotated[
        str | None,
        Header(
            description="`respond-async`: answer 202 with an operation instead of waiting for the end; with `wait=N` "
            f"wait up to N seconds first (at most {LONGEST_WAIT_SECONDS})."
        ),
    ] = None,
    idempotency_key: Annotated[
        str | None,
        Header(
            description="1 to 255 visible ASCII characters. The same key with the same request is done once and "
            "answered alike for a week; with another request it is 422 `idempotency_key_reused`."
        ),
    ] = None,
) -> Wish:
    return read_wish(prefer, idempotency_key)


Wished = Annotated[Wish, Depends(_wish)]
"""A route's parameter: how the request wants to be answered."""


async def register_as_wished(services: Services, order: Order, source: Source, wish: Wish) -> JSONResponse:
    """Raises what `add_version` does, ClaimReused, and OperationRuns when the same is being done already."""
    if not wish.later and wish.key is None:
        answer = await _register(services, order, source, unheard)
        return JSONResponse(answer.body, answer.status)
    async with AsyncExitStack() as held:
        if isinstance(source, Upload):  # its bytes are in this request only
            source = _Here(await held.enter_async_context(source.fetched(_unseen)), source.label)
        claim = None if wish.key is None else Claim(wish.key, await asyncio.to_thread(_fingerprint, order, source))
        begun = await services.operations.begin(REGISTER, order.name, by=order.by, claim=claim)
        if not begun.created:
            return _again(begun.operation, wish)
        arrived = source
        task = services.operations.start(
            begun.operation, lambda tell: _register(services, order, arrived, tell), held.pop_all()
        )
    if wish.later:
        await asyncio.wait({task}, timeout=wish.wait_seconds)
        if not (task.done() and wish.wait_seconds):
            return _accepted(begun.operation)
    answer = await asyncio.shield(task)
    return _answered(answer.status, answer.body)


async def _register(services: Services, order: Order, source: Source, tell: Tell) -> Answer:
    done = await add_version(services, order, source, tell=tell)
    return Answer(201 if done.created else 200, _registered(services, done))


def _registered(services: Services, done: Registered) -> dict[str, object]:
    ref = done.ref
    adapter = services.table.catalogue.adapters.get(ref.name)
    return {
        "object": "adapter.version",
        "id": ref.id,
        "name": ref.name,
        "version": ref.version,
        "digest": done.digest,
        "created": done.created,
        "aliases": [] if adapter is None else adapter.aliases_of(ref.version),
        "report": done.report.as_dict(),
        "probe": done.probed.as_dict(),
    }


def _again(operation: Operation, wish: Wish) -> JSONResponse:
    """The answer to a request that came before under the same key."""
    if wish.later:
        return _accepted(operation)
    if operation.answer is None:
        raise OperationRuns(
            f"the same request is being worked on as operation {operation.id}; see GET {OPERATIONS}/{operation.id}, "
            "or send it again later"
        )
    return _answered(operation.answer["status"], operation.answer["body"])


def _accepted(operation: Operation) -> JSONResponse:
    headers = {
        "location": f"{OPERATIONS}/{operation.id}",
        "preference-applied": "respond-async",
        "retry-after": "1",
    }
    return JSONResponse(operation_view(operation), 202, headers)


def _answered(status: int, body: object) -> JSONResponse:
    return JSONResponse(body, status, {"retry-after": "5"} if status in (429, 503) else None)


def _fingerprint(order: Order, source: Source) -> str:
    """What makes two requests the same one. Files count by their bytes: how a form divides them is chance."""
    what = folder_digest(source.folder) if isinstance(source, _Here) else source.asked
    return hashlib.sha256(f"{order.name}\0{order.alias}\0{what}".encode("utf-8", "surrogatepass")).hexdigest()


def _unseen(done: int, total: int | None) -> None:
    pass


@dataclass(frozen=True, slots=True)
class _Here:
    """A source whose files have come; whoever holds them lets them go."""

    folder: Path
    label: str
    asked: str = ""

    @asynccontextmanager
    async def fetched(self, progress: Progress) -> AsyncIterator[Path]:
        yield self.folder
