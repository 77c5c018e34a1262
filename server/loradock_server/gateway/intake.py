"""Where an adapter's bytes come from: one `Source` for each way, all opened alike.

A source brings the files into a folder on this machine and says what the version is to remember of where they came
from. It judges no content (`check` does), gives no number and knows no route. What a client can name lies in
`named_sources`; how bytes are fetched, in `loradock_adapters.sources`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from loradock_adapters.sources import AllowList, Progress, SourceLimits, SourceRules, parse_uri, scheme_of
from loradock_adapters.store import Store
from loradock_server.gateway.asgi import Body
from loradock_server.gateway.errors import BadRequest, TooLarge, WrongMediaType
from loradock_server.gateway.named_sources import STORED, Named, Stored
from loradock_server.gateway.uploads import received_folder
from loradock_server.settings import Settings

__all__ = ["Progress", "Source", "Upload", "source_limits", "source_named"]


class Source(Protocol):
    """One adapter's files, not fetched yet."""

    @property
    def label(self) -> str:
        """What the version records as its source, final once fetched. Never a secret; with the revision if any."""

    @property
    def asked(self) -> str:
        """How the request named it; "" for files that came with the request."""

    def fetched(self, progress: Progress) -> AbstractAsyncContextManager[Path]:
        """The folder with the files; what was made for it is gone when the block ends.

        Entering may take long: it must be cancellable, and must not block the event loop. The block may be left in
        another task than it was entered in. Raises GatewayError or LoraDockError.
        """


@dataclass(frozen=True, slots=True)
class Upload:
    """Files, or one archive of them, in the body of the request; they are put below `parent`."""

    content_type: str
    body: Body
    parent: Path
    limits: SourceLimits
    announced: int | None = None  # the request's content-length

    @property
    def label(self) -> str:
        return "upload"

    @property
    def asked(self) -> str:
        return ""

    @asynccontextmanager
    async def fetched(self, progress: Progress) -> AsyncIterator[Path]:
        """Raises BadRequest, TooLarge, ClientGone, ArchiveRefused and SourceTooLarge."""
        receiving = received_folder(self.content_type, self._counted(progress), self.parent, self.limits)
        try:
            folder = await receiving.__aenter__()
        except (TooLarge, BadRequest, WrongMediaType):
            await self.body.drain()
            raise
        try:
            yield folder
        finally:
            await receiving.__aexit__(None, None, None)

    async def _counted(self, progress: Progress) -> AsyncIterator[bytes]:
        count = 0
        async for chunk in self.body:
            count += len(chunk)
            progress(count, self.announced)
            yield chunk


def source_named(source: str, settings: Settings, store: Store) -> Source:
    """The source that a client names by a string: a path, a URI, or the digest of bytes that are here already.

    Raises SourceRefused for what can be refused without looking.
    """
    if source.startswith(STORED):
        return Stored(source.removeprefix(STORED), store)
    allowed = AllowList.of(settings.source_prefixes)
    if scheme_of(source) is not None:
        allowed.require(parse_uri(source))
    rules = SourceRules(allowed, settings.source_roots, source_limits(settings))
    return Named(source, rules, settings.home / "tmp")


def source_limits(settings: Settings) -> SourceLimits:
    """What the operator allows of any source."""
    return SourceLimits(max_bytes=settings.max_adapter_bytes, timeout=settings.source_timeout)
