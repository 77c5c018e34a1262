"""Where adapters come from: `fetched` brings any source into a folder on this machine, and takes it away again.

A path (folder or archive), an upload's archive, hf://, http(s)://, s3:// and what else fsspec knows. It judges no
adapter (`check` does), and asks no server of ours.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from loradock_adapters.sources.allowed import AllowList
from loradock_adapters.sources.archive import SUFFIXES, check_sha256, has_archive_name, unpack
from loradock_adapters.sources.limits import SourceLimits
from loradock_adapters.sources.local import local_source
from loradock_adapters.sources.transfer import Progress, Transfer, unheard
from loradock_adapters.sources.uri import HUB, WEB, SourceUri, parse_uri, scheme_of

__all__ = [
    "SUFFIXES",
    "AllowList",
    "Fetched",
    "Progress",
    "SourceLimits",
    "SourceRules",
    "SourceUri",
    "fetched",
    "has_archive_name",
    "parse_uri",
    "scheme_of",
    "unheard",
    "unpack",
]


@dataclass(frozen=True, slots=True)
class SourceRules:
    """What may be fetched. `roots` are the folders whose paths count, None for all (people on their own machine).

    `pickles`: whether weights in a pickle are worth fetching; only who repairs them has a use for them.
    """

    allowed: AllowList = field(default_factory=AllowList.everything)
    roots: tuple[Path, ...] | None = None
    limits: SourceLimits = SourceLimits()
    pickles: bool = False


@dataclass(frozen=True, slots=True)
class Fetched:
    """The folder to check, and where it came from, to be kept: no secret, the exact revision if there is one."""

    folder: Path
    origin: str


@contextmanager
def fetched(
    source: str,
    rules: SourceRules,
    *,
    parent: Path | None = None,
    progress: Progress = unheard,
    stop: threading.Event | None = None,
) -> Iterator[Fetched]:
    """Bring a path's or URI's adapter here; what was written (below `parent`) is gone when the block ends.

    Blocks; setting `stop` from another thread ends it. Raises SourceRefused in one of its forms, and OSError when
    this machine cannot write.
    """
    if parent is not None:
        parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="source-", dir=parent, ignore_cleanup_errors=True) as made:
        scratch = Path(made)
        if scheme_of(source) is None:
            path = local_source(source, rules.roots)
            yield Fetched(path if path.is_dir() else unpack(path, scratch / "unpacked", rules.limits), str(path))
            return
        uri = parse_uri(source)
        rules.allowed.require(uri)
        transfer = Transfer(str(uri), rules.limits, progress, stop or threading.Event())
        yield _fetch(uri, rules, transfer, scratch)


def _fetch(uri: SourceUri, rules: SourceRules, transfer: Transfer, scratch: Path) -> Fetched:
    # Imported when asked for: a gateway that fetches nothing starts without these libraries.
    if uri.scheme == HUB:
        from loradock_adapters.sources.hub import fetch_from_hub

        folder, origin = fetch_from_hub(uri, scratch, transfer, pickles=rules.pickles)
        return Fetched(folder, origin)
    if uri.scheme in WEB:
        from loradock_adapters.sources.web import download

        found = scratch / "archive"
        download(uri, found, rules.allowed, transfer)
    else:
        from loradock_adapters.sources.buckets import fetch_from_bucket

        found = fetch_from_bucket(uri, scratch, transfer, pickles=rules.pickles)
    if found.is_file():
        if uri.sha256 is not None:
            check_sha256(found, uri.sha256)
        found = unpack(found, scratch / "unpacked", rules.limits)
    return Fetched(found, str(uri))
