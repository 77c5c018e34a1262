"""Adding a version, whoever asks: fetch the bytes, then check, store and register them.

It knows no route and no way that bytes can come: an `Order` and a `Source` in, a registered version out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from loradock_adapters.registry import Actor
from loradock_server.gateway.intake import Source
from loradock_server.gateway.registration import Registered
from loradock_server.gateway.services import Services
from loradock_server.gateway.stages import Stage, Tell, unheard


@dataclass(frozen=True, slots=True)
class Order:
    """What to register as, for whom, and which alias is to point to it (None: none)."""

    name: str
    by: Actor
    alias: str | None


async def add_version(services: Services, order: Order, source: Source, *, tell: Tell = unheard) -> Registered:
    """Raises what the source raises, and all that `Registrar.register` does."""
    services.registrar.check_name(order.name)
    async with source.fetched(partial(tell, Stage.FETCHING)) as folder:
        return await services.registrar.register(
            order.name, folder, source=source.label, by=order.by, alias=order.alias, tell=tell
        )
