"""Many things asked at once, and the first error said as it is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Protocol, TypeVar

from loradock_adapters.evaluating.errors import EvaluatingError

Found = TypeVar("Found")


class Progress(Protocol):
    """Told what will be asked before it is, how much there is to do, and of each thing done."""

    def say(self, what: str) -> None: ...

    def begin(self, what: str, total: int) -> None: ...

    def advance(self) -> None: ...


async def all_of(asked: Sequence[Awaitable[Found]]) -> list[Found]:
    """All results, in order. The first error ends the others and is raised."""

    async def one(awaitable: Awaitable[Found]) -> Found:
        return await awaitable

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(awaitable)) for awaitable in asked]
    except BaseExceptionGroup as errors:
        known, other = errors.split(EvaluatingError)
        if known is None or other is not None:
            raise
        error: BaseException = known
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None
    return [task.result() for task in tasks]
