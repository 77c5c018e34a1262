"""Adding a version, whoever asks: fetch the bytes, then check, store and register them.

It knows no route and no way that bytes can come: an `Order` and a `Source` in, a registered version out.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from loradock_adapters.errors import StoreError
from loradock_adapters.registry import Actor
from loradock_server.gateway.errors import DiskFull
from loradock_server.gateway.intake import Source
from loradock_server.gateway.registration import Registered
from loradock_server.gateway.services import Services
from loradock_server.gateway.stages import Stage, Tell, unheard

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True, slots=True)
class Order:
    """What to register as, for whom, and which alias is to point to it (None: none)."""

    name: str
    by: Actor
    alias: str | None


async def add_version(services: Services, order: Order, source: Source, *, tell: Tell = unheard) -> Registered:
    """Raises what the source raises, all that `Registrar.register` does, and DiskFull."""
    services.registrar.check_name(order.name)
    with _full_disk_told():
        return await _add(services, order, source, tell)


async def _add(services: Services, order: Order, source: Source, tell: Tell) -> Registered:
    async with source.fetched(partial(tell, Stage.FETCHING)) as folder:
        return await services.registrar.register(
            order.name, folder, source=source.label, by=order.by, alias=order.alias, tell=tell
        )


@contextmanager
def _full_disk_told() -> Iterator[None]:
    try:
        yield
    except (OSError, StoreError) as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, OSError) and cause.errno in _FULL:
                raise DiskFull(
                    f"there is no space left for the adapter on the server's disk ({cause.strerror}); nothing was "
                    "registered. `loradock gc` frees what no version needs"
                ) from error
            cause = cause.__cause__
        raise
