"""s3://bucket/folder and what else fsspec knows: the adapter's files in a folder, or one archive.

S3 goes through obstore, everything else through fsspec and the package it asks for. Keys and endpoints come from the
environment of this process, as those libraries read them.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

from loradock_adapters.errors import SourceInvalid, SourceMissing, SourceUnavailable
from loradock_adapters.sources.archive import has_archive_name
from loradock_adapters.sources.members import CHUNK_BYTES
from loradock_adapters.sources.retries import Passing, persistently
from loradock_adapters.sources.selection import adapter_names
from loradock_adapters.sources.transfer import Transfer
from loradock_adapters.sources.uri import SourceUri

_MOST_LISTED = 10_000


class Place(Protocol):
    """A folder elsewhere, or the file itself under the empty name. Methods raise Passing and SourceRefused."""

    def sizes(self) -> Mapping[str, int | None]:
        """The files directly in it, with their bytes."""

    def whole_size(self) -> int | None:
        """The bytes of the file under the empty name."""

    def pieces(self, name: str, start: int) -> Iterator[bytes]:
        """A file's bytes from `start` on."""


def fetch_from_bucket(uri: SourceUri, scratch: Path, transfer: Transfer, *, pickles: bool) -> Path:
    """The folder with the files, or an archive file. Raises SourceRefused in one of its forms."""
    place: Place = _S3(uri, transfer) if uri.scheme == "s3" else _Fsspec(uri, transfer)
    if uri.segments and has_archive_name(uri.segments[-1]):
        archive = scratch / "archive"
        transfer.expect(persistently(place.whole_size, transfer))
        _copy(place, "", archive, transfer)
        return archive
    sizes = persistently(place.sizes, transfer)
    names = adapter_names(sizes, str(uri), pickles=pickles)
    known = [sizes[name] for name in names]
    transfer.expect(None if None in known else sum(size or 0 for size in known))
    folder = scratch / "adapter"
    folder.mkdir()
    for name in names:
        _copy(place, name, folder / name, transfer)
        expected, got = sizes[name], (folder / name).stat().st_size
        if expected is not None and got != expected:
            raise SourceUnavailable(
                f"{name} in {uri} had {expected} bytes and then {got}", "it must not change meanwhile", "try again"
            )
    return folder


def _copy(place: Place, name: str, target: Path, transfer: Transfer) -> None:
    """Into a new file, from where the last attempt ended."""
    begin = transfer.done
    with target.open("xb") as file:

        def attempt() -> None:
            transfer.rewind(begin + file.tell())
            for piece in place.pieces(name, file.tell()):
                transfer.advance(len(piece))
                file.write(piece)

        persistently(attempt, transfer)


class _S3:
    """An object is read in the version that was listed, also when it has to be taken up again."""

    def __init__(self, uri: SourceUri, transfer: Transfer) -> None:
        try:
            import obstore
            from obstore.store import S3Store
        except ImportError as error:
            raise SourceInvalid(
                f"the source {uri} cannot be used", "S3 needs a package", "pip install 'loradock[s3]'"
            ) from error
        self._obstore = obstore
        self._uri = uri
        self._prefix = "/".join(uri.segments)
        self._versions: dict[str, str | None] = {}
        limits = transfer.limits
        self._store = S3Store(
            uri.authority,
            client_options={
                "connect_timeout": timedelta(seconds=limits.connect),
                "read_timeout": timedelta(seconds=limits.silence),
                "timeout": timedelta(seconds=limits.timeout),
                "allow_http": _plain_http(),
            },
            retry_config={"max_retries": 0},  # trying again is ours: it can be ended in between
        )

    def sizes(self) -> Mapping[str, int | None]:
        prefix = f"{self._prefix}/" if self._prefix else ""
        found: dict[str, int | None] = {}
        with self._explained():
            pages = self._obstore.list(self._store, prefix or None, chunk_size=1000)
            for entry in itertools.chain.from_iterable(itertools.islice(pages, _MOST_LISTED // 1000)):
                name = entry["path"].removeprefix(prefix)
                if "/" not in name:
                    found[name] = entry["size"]
                    self._versions[name] = entry["e_tag"]
        return found

    def whole_size(self) -> int | None:
        with self._explained():
            found = self._obstore.head(self._store, self._prefix)
        self._versions[""] = found["e_tag"]
        return found["size"]

    def pieces(self, name: str, start: int) -> Iterator[bytes]:
        key = "/".join(part for part in (self._prefix, name) if part)
        options: Any = {"if_match": self._versions[name]} if self._versions.get(name) else {}
        with self._explained():
            got = self._obstore.get(self._store, key, options=options | ({"range": {"offset": start}} if start else {}))
            for piece in got.stream(min_chunk_size=1):  # as they come: what is gathered first is lost with a break
                yield bytes(piece)

    def _explained(self) -> _Explained:
        return _Explained(self._uri, self._obstore.exceptions.BaseError)


def _plain_http() -> bool:
    """Whether the operator named an endpoint without TLS; obstore wants to hear that twice."""
    endpoints = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    return any(os.environ.get(name, "").startswith("http://") for name in endpoints)


class _Fsspec:
    """Any other file system; its errors are OSErrors, and mostly passing ones."""

    def __init__(self, uri: SourceUri, transfer: Transfer) -> None:
        from fsspec.core import url_to_fs

        self._uri = uri
        try:
            self._files, self._path = url_to_fs(str(uri))
        except (ImportError, ValueError) as error:
            raise SourceInvalid(
                f"the source {uri} cannot be used", str(error)[:200], "install what it names, or take another way"
            ) from error

    def sizes(self) -> Mapping[str, int | None]:
        with _Explained(self._uri):
            entries = self._files.ls(self._path, detail=True)
        return {
            entry["name"].rstrip("/").rpartition("/")[2]: entry.get("size")
            for entry in entries[:_MOST_LISTED]
            if entry.get("type") == "file"
        }

    def whole_size(self) -> int | None:
        with _Explained(self._uri):
            size = self._files.info(self._path).get("size")
        return size if isinstance(size, int) else None

    def pieces(self, name: str, start: int) -> Iterator[bytes]:
        path = f"{self._path.rstrip('/')}/{name}" if name else self._path
        with _Explained(self._uri), self._files.open(path, "rb") as file:
            file.seek(start)
            while piece := file.read(CHUNK_BYTES):
                yield piece


class _Explained:
    """Turns a library's errors, `own` and OSErrors, into ours."""

    def __init__(self, uri: SourceUri, own: type[Exception] = OSError) -> None:
        self._uri = uri
        self._own = own

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, FileNotFoundError) or _says(error, "404"):
            raise SourceMissing(f"{self._uri} is not there", "", "correct the address") from error
        refused = type(error).__name__ in ("PermissionDeniedError", "UnauthenticatedError")
        if refused or isinstance(error, PermissionError) or _says(error, "401|403"):
            raise SourceUnavailable(
                f"{self._uri} may not be read", "the other side refused", "set a key that may, in the environment"
            ) from error
        if isinstance(error, (OSError, self._own)):
            text = str(error).partition("\n")[0][:300] or type(error).__name__
            if _says(error, r"4\d\d") and not _says(error, "408|429"):
                raise SourceUnavailable(f"{self._uri} cannot be fetched", text, "correct the address") from error
            raise Passing(text) from error


def _says(error: BaseException | None, codes: str) -> bool:
    # What is wrong with a listing obstore says only in the text.
    return re.search(rf"status code: (?:{codes})\b", str(error)) is not None
