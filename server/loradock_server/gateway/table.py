"""Which adapter version a client's `model` means, held in memory and following the registry.

Resolving touches no database. The table asks for the registry's revision when `signal` says so and reads what
changed; after a write of our own `refresh()` does so at once. It knows no HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass

from loradock_adapters.adapter_settings import NOTHING_SAID, AdapterSettings
from loradock_adapters.base_model import BaseModel
from loradock_adapters.errors import AdapterNotFound, RegistryError
from loradock_adapters.names import AdapterRef
from loradock_adapters.rate_limits import NO_LIMITS, RateLimits
from loradock_adapters.registry import Catalogue, Registry, Route, VersionRecord
from loradock_server.gateway.errors import ModelNotFound
from loradock_server.gateway.near_names import NearNames
from loradock_server.gateway.siblings import Siblings
from loradock_server.gateway.signal import ChangeSignal

_CACHED_NAMES = 4096

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Target:
    """What will answer a request: one adapter version, or the base model when `ref` and `digest` are None.

    `model` is the name the engine knows it by, `alias` the alias the client used, if it used one.
    """

    model: str
    ref: AdapterRef | None = None
    digest: str | None = None
    alias: str | None = None
    signature: str | None = None
    settings: AdapterSettings = NOTHING_SAID


class RoutingTable:
    """The names this gateway serves right now. `pins`: the live versions to be kept in memory, id to digest, those that
    were pinned first at the front; `pin_signatures`: id to signature, of those that have one.
    """

    def __init__(
        self,
        registry: Registry,
        base: BaseModel,
        base_name: str,
        base_limits: RateLimits = NO_LIMITS,
        siblings: Siblings | None = None,
    ) -> None:
        self._registry = registry
        self._siblings = siblings or Siblings(None, 1, 1)
        self._base = base
        self.base_name = base_name
        self.catalogue = Catalogue()
        self.pins: Mapping[str, str] = {}
        self.pin_signatures: Mapping[str, str] = {}
        # Read whenever the registry changed, before the table says that it has seen the change.
        self.read_along: list[Callable[[], Awaitable[None]]] = []
        self._routes: dict[str, Route | None] = {}
        self._targets: dict[str, Target] = {}  # of those routes that lead to one version, whatever the key
        self._near: NearNames | None = None
        self._reading = asyncio.Lock()
        self._base_target = Target(base_name, settings=AdapterSettings.stored(base_limits.document()))

    @property
    def base_digest(self) -> str:
        """Of the base model that is served."""
        return self._base.digest

    def resolve(self, model: str, key: str = "", visible: re.Pattern[str] | None = None) -> Target:
        """The target of a client's model name. Never falls back to the base model.

        Where traffic is split, equal keys get equal versions. A name that `visible` does not match (None: all are) does
        not exist for this client, whether it does or not. Raises ModelNotFound, VersionRetired.
        """
        if visible is not None and visible.match(self._name(model)) is None:
            raise self._unknown(model, visible)
        if model in self._targets:
            return self._targets[model]
        if model not in self._routes:
            if len(self._routes) >= _CACHED_NAMES:
                self._forget()
            self._routes[model] = self._route(model, visible)
        route = self._routes[model]
        if route is None:
            return self._base_target
        try:
            record = route.pick(key)
        except AdapterNotFound as error:
            raise ModelNotFound(f"model {_shown(model)} does not exist: {error}") from error
        if reason := self.why_not_served(record):
            raise ModelNotFound(f"model {_shown(model)} {reason}")
        target = Target(
            record.ref.id, record.ref, record.digest, route.alias, _signature(record), route.adapter.settings
        )
        if route.split.only is not None:
            self._targets[model] = target
        return target

    def _forget(self) -> None:
        self._routes.clear()
        self._targets.clear()

    def _name(self, model: str) -> str:
        return model if model == self.base_name else model.partition("@")[0]

    def _route(self, model: str, visible: re.Pattern[str] | None) -> Route | None:
        """None is the way to the base model."""
        if model == self.base_name:
            return None
        try:
            return self.catalogue.route(model)
        except AdapterNotFound as error:
            raise self._missing(model, error, visible) from error

    def _unknown(self, model: str, visible: re.Pattern[str]) -> ModelNotFound:
        """What is said of a name that nobody has, without a look at whether somebody has it."""
        try:
            Catalogue().route(model)
        except AdapterNotFound as error:
            return self._missing(model, error, visible)
        raise AssertionError("an empty catalogue leads nowhere")

    def _missing(self, model: str, error: AdapterNotFound, visible: re.Pattern[str] | None) -> ModelNotFound:
        if self._near is None:
            self._near = NearNames([*self.catalogue.adapters, self.base_name])
        found = self._near.nearest(model, visible)
        hint = f"; did you mean {found!r}?" if found else ""
        return ModelNotFound(f"model {_shown(model)} does not exist: {error}{hint}")

    def why_not_served(self, record: VersionRecord) -> str | None:
        """Why a registered version cannot be answered by our base, as the end of a sentence; None when it can."""
        if record.base_digest == self._base.digest:
            return None
        return (
            f"was registered for another base model (digest {record.base_digest[:12]}…); this server has "
            f"{self.base_name!r} ({self._base.digest[:12]}…). Register it again to have it checked"
        )

    async def refresh(self) -> None:
        """Read the catalogue now. Raises RegistryError; the old one stays then."""
        async with self._reading:
            catalogue = await asyncio.to_thread(self._registry.catalogue, self.catalogue)
            if catalogue.revision != self.catalogue.revision:
                self._siblings.tell()
            for read in self.read_along:
                await read()
            self.catalogue = catalogue
            pins = tuple(self._pins())
            self.pins = {record.ref.id: record.digest for record in pins}
            self.pin_signatures = {r.ref.id: signature for r in pins if (signature := _signature(r)) is not None}
            self._forget()
            self._near = None

    def _pins(self) -> Iterator[VersionRecord]:
        since = {name: adapter.pinned_at for name, adapter in self.catalogue.adapters.items() if adapter.pinned_at}
        for name in sorted(since, key=lambda name: (since[name], name)):
            for live in self.catalogue.adapters[name].live:
                if self.why_not_served(live) is None:
                    yield live

    async def follow(self) -> None:
        """Follow the registry until cancelled. While it cannot be read, the last known names go on being served."""
        failing = False
        with ChangeSignal(self._registry) as signal, self._siblings.heard(signal.look):
            while True:
                await signal.wait()
                try:
                    if await asyncio.to_thread(self._registry.revision) != self.catalogue.revision:
                        await self.refresh()
                    failing = False
                except RegistryError as error:
                    if not failing:
                        _log.error("the registry cannot be read; serving the last known names: %s", error)
                    failing = True


def _signature(record: VersionRecord) -> str | None:
    return None if record.signature is None else record.signature.text


def _shown(model: str) -> str:
    return repr(model if len(model) <= 80 else model[:77] + "...")
