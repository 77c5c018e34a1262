"""What a client can name instead of sending bytes: a path or URI that this server fetches, or a stored digest.

Fetching blocks for minutes, so each fetch has a thread of its own: the loop's common ones answer requests.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from loradock_adapters.errors import BlobCorrupt, BlobMissing, DigestUnknown, SourceInvalid, SourceUnavailable
from loradock_adapters.sources import Fetched, Progress, SourceRules, fetched
from loradock_adapters.store import Store

STORED = "sha256:"
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(slots=True)
class Named:
    """A path or URI, fetched under the operator's rules; what is written lies below `parent` meanwhile."""

    source: str
    rules: SourceRules
    parent: Path
    _origin: str | None = field(default=None, init=False)

    @property
    def label(self) -> str:
        return self._origin or "not fetched yet"

    @property
    def asked(self) -> str:
        return self.source

    @asynccontextmanager
    async def fetched(self, progress: Progress) -> AsyncIterator[Path]:
        """Raises SourceRefused."""
        stop = threading.Event()
        opened = fetched(self.source, self.rules, parent=self.parent, progress=progress, stop=stop)
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="loradock-fetch")
        try:
            got = await _entered(opened, thread, stop)
            try:
                self._origin = got.origin
                yield got.folder
            finally:
                await asyncio.shield(asyncio.wrap_future(thread.submit(opened.__exit__, None, None, None)))
        finally:
            thread.shutdown(wait=False)


async def _entered(
    opened: AbstractContextManager[Fetched], thread: ThreadPoolExecutor, stop: threading.Event
) -> Fetched:
    """Enter in the thread; whoever is cancelled meanwhile leaves nothing behind."""

    def enter() -> Fetched:
        got = opened.__enter__()
        if stop.is_set():
            opened.__exit__(None, None, None)
            raise SourceUnavailable("the fetch was cancelled", "", "ask again")
        return got

    def leave(entering: asyncio.Future[Fetched]) -> None:
        if entering.exception() is None:  # it was done at the moment it was cancelled
            threading.Thread(target=opened.__exit__, args=(None, None, None)).start()

    entering = asyncio.wrap_future(thread.submit(enter))
    try:
        return await asyncio.shield(entering)
    except asyncio.CancelledError:
        stop.set()
        entering.add_done_callback(leave)
        raise


@dataclass(frozen=True, slots=True)
class Stored:
    """Bytes that somebody registered before, by their digest: nothing has to be sent again."""

    digest: str
    store: Store

    @property
    def label(self) -> str:
        return f"{STORED}{self.digest}"

    @property
    def asked(self) -> str:
        return self.label

    @asynccontextmanager
    async def fetched(self, progress: Progress) -> AsyncIterator[Path]:
        """Raises SourceInvalid; DigestUnknown also for bytes that rotted here, which an upload puts right."""
        if not _DIGEST.fullmatch(self.digest):
            raise SourceInvalid(
                f"{ascii(self.digest[:80])} is no digest", "it is sha256: and 64 hexadecimal digits", "correct it"
            )
        try:
            folder = await asyncio.to_thread(self.store.fetch, self.digest)
        except BlobMissing as error:
            raise DigestUnknown(f"no adapter with the digest {self.digest} is here", "", "upload its files") from error
        except BlobCorrupt as error:
            raise DigestUnknown(f"what is here of {self.digest} is damaged", "", "upload its files") from error
        yield folder
