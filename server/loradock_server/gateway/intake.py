"""Where an adapter's bytes come from: one `Source` for each way, all opened alike.

A source brings the files into a folder on this machine and says what the version is to remember of where they came
from. It judges no content (`check` does), gives no number and knows no route. A new way is a class here, or in a module
of its own, and a line in `source_named`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from loradock_server.gateway.asgi import Body
from loradock_server.gateway.errors import BadRequest, SourceRefused, TooLarge
from loradock_server.gateway.uploads import received_folder
from loradock_server.settings import Settings

Progress = Callable[[int, int | None], None]
"""Hears, from any thread and as often as one likes: bytes that are here, and all there will be (None: unknown)."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")


class Source(Protocol):
    """One adapter's files, not fetched yet."""

    @property
    def label(self) -> str:
        """What the version records as its source. Never a secret; a URI with a revision where there is one."""

    def fetched(self, progress: Progress) -> AbstractAsyncContextManager[Path]:
        """The folder with the files; what was made for it is gone when the block ends.

        Entering may take long: it must be cancellable, and must not block the event loop. The block may be left in
        another task than it was entered in. Raises GatewayError or LoraDockError.
        """


@dataclass(frozen=True, slots=True)
class Upload:
    """Files in the body of the request. `limit`: bytes, all together; they are put below `parent`."""

    content_type: str
    body: Body
    parent: Path
    limit: int
    announced: int | None = None  # the request's content-length

    @property
    def label(self) -> str:
        return "upload"

    @asynccontextmanager
    async def fetched(self, progress: Progress) -> AsyncIterator[Path]:
        """Raises BadRequest, TooLarge and ClientGone."""
        receiving = received_folder(self.content_type, self._counted(progress), self.parent, self.limit)
        try:
            folder = await receiving.__aenter__()
        except (TooLarge, BadRequest):
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


@dataclass(frozen=True, slots=True)
class ServerFolder:
    """A folder on this machine, read where it lies, if the operator opened it (`source_roots`)."""

    path: str
    roots: tuple[Path, ...]

    @property
    def label(self) -> str:
        return self.path

    @asynccontextmanager
    async def fetched(self, progress: Progress) -> AsyncIterator[Path]:
        """Raises SourceRefused."""
        yield await asyncio.to_thread(allowed_folder, self.path, self.roots)


def source_named(uri: str, settings: Settings) -> Source:
    """The source that a client names by a string. Raises BadRequest, SourceRefused."""
    if "\0" in uri:
        raise BadRequest(f"source {uri[:80]!r} has a zero byte", param="source")
    if scheme := _SCHEME.match(uri):
        raise SourceRefused(f"source {uri[:200]!r} has the scheme {scheme[1][:20]!r}; this server takes paths only")
    return ServerFolder(uri, settings.source_roots)


def allowed_folder(source: str, roots: tuple[Path, ...]) -> Path:
    """The folder a client names on this server, if the operator opened it. Raises SourceRefused.

    Links count by where they lead, those inside the folder too. Blocks: call it in a thread.
    """
    opened = [root.resolve() for root in roots]
    if not opened:
        raise SourceRefused("this server takes no paths; upload the files, or set LORADOCK_SOURCE_ROOTS")
    path = Path(source)
    folder = path.resolve()
    # One answer for all of it: what exists outside the roots is nobody's business.
    if not path.is_absolute() or not _inside(folder, opened) or not folder.is_dir():
        raise SourceRefused(
            f"source {source[:200]!r} is not an absolute path of a folder below "
            + " or ".join(str(root) for root in roots)
        )
    for entry in folder.iterdir():
        if not _inside(entry.resolve(), opened):
            raise SourceRefused(f"{entry.name!r} in the source is a link out of the allowed folders; copy the file")
    return folder


def _inside(path: Path, roots: list[Path]) -> bool:
    return any(path.is_relative_to(root) for root in roots)
