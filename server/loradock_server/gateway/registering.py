"""Adding a version, whoever asks: fetch the bytes, then check, store and register them.

It knows no route and no way that bytes can come: an `Order` and a `Source` in, a registered version out.
"""

from __future__ import annotations

from dataclasses import dataclass

from loradock_adapters.registry import Actor
from loradock_server.gateway.intake import Progress, Source
from loradock_server.gateway.registration import Registered
from loradock_server.gateway.services import Services


@dataclass(frozen=True, slots=True)
class Order:
    """What to register as, for whom, and which alias is to point to it (None: none)."""

    name: str
    by: Actor
    alias: str | None


def unheard(done: int, total: int | None) -> None:
    """The progress nobody asked for."""


async def add_version(services: Services, order: Order, source: Source, *, progress: Progress = unheard) -> Registered:
    """Raises what the source raises, and InvalidName, NameTaken, AdapterRejected, AdapterUnreadable, AdapterConflict,
    StoreError, RegistryError.
    """
    services.registrar.check_name(order.name)
    async with source.fetched(progress) as folder:
        return await services.registrar.register(
            order.name, folder, source=source.label, by=order.by, alias=order.alias
        )
