"""Adapters sent as multipart/form-data, written to disk as they arrive and never over the limit.

Files that belong to an adapter are taken under their own plain names, or one archive of them. It judges no content.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from loradock_adapters.peft_folder import ADAPTER_FILES, JUDGED_FILES
from loradock_adapters.sources import SUFFIXES, SourceLimits, has_archive_name, unpack
from loradock_server.gateway.errors import BadRequest, TooLarge, WrongMediaType

_FIELD = b"file"
_IGNORED = frozenset({"loss.png"})  # part of what training writes, not of the adapter
_ARCHIVE = "archive"  # what one is called here, whatever its name
_WRITE_BYTES = 1 << 20
_MAX_HEADER_BYTES = 4096
# Boundaries and part headers around at most a handful of files.
_FORM_BYTES = 64 << 10


@asynccontextmanager
async def received_folder(
    content_type: str, body: AsyncIterator[bytes], parent: Path, limits: SourceLimits
) -> AsyncIterator[Path]:
    """A temporary folder below `parent` with the uploaded files, unpacked; it is gone when the block ends.

    Raises WrongMediaType for another kind of body, BadRequest for a bad form, TooLarge once too many bytes have come,
    ArchiveRefused and SourceTooLarge for an archive.
    """
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data":
        raise WrongMediaType(
            "send multipart/form-data with parts named `file`, or JSON with `source`; "
            f"the content type is {content_type[:100]!r}"
        )
    if not boundary:
        raise BadRequest("the content type multipart/form-data names no boundary; send `; boundary=…` with it")
    folder = await asyncio.to_thread(_make_folder, parent)
    try:
        form = _Form(folder, limits.max_bytes)
        try:
            await _read(boundary, body, form)
        finally:
            await asyncio.to_thread(form.close)
        if not form.names:
            raise BadRequest(
                "the form has no part named `file`; send adapter_config.json and adapter_model.safetensors"
            )
        yield await asyncio.to_thread(_unpacked, folder, limits) if _ARCHIVE in form.names else folder
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


async def _read(boundary: bytes, body: AsyncIterator[bytes], form: _Form) -> None:
    parser = MultipartParser(
        boundary,
        {
            "on_part_begin": form.on_part_begin,
            "on_header_field": form.on_header_field,
            "on_header_value": form.on_header_value,
            "on_header_end": form.on_header_end,
            "on_headers_finished": form.on_headers_finished,
            "on_part_data": form.on_part_data,
            "on_end": form.on_end,
        },
    )
    try:
        async for chunk in body:
            form.count(len(chunk))
            parser.write(chunk)
            if form.buffered >= _WRITE_BYTES:
                await asyncio.to_thread(form.flush)
        parser.finalize()
    except MultipartParseError as error:
        raise BadRequest(f"the multipart body cannot be read: {error}") from error
    if not form.ended:
        raise BadRequest("the multipart body ends before its last boundary; send it again")
    await asyncio.to_thread(form.flush)


def _unpacked(folder: Path, limits: SourceLimits) -> Path:
    archive = folder / _ARCHIVE
    inside = unpack(archive, folder / "unpacked", limits)
    archive.unlink()
    return inside


def _make_folder(parent: Path) -> Path:
    parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="upload-", dir=parent))


@dataclass(slots=True)
class _Form:
    """The parser calls `on_*`, without blocking: data is buffered until `flush`."""

    folder: Path
    limit: int
    names: set[str] = field(default_factory=set)
    ended: bool = False
    buffered: int = 0
    _received: int = 0
    _header_field: bytes = b""
    _header_value: bytes = b""
    _disposition: bytes = b""
    _name: str | None = None
    _pending: list[tuple[str, bytes]] = field(default_factory=list)
    _files: dict[str, BinaryIO] = field(default_factory=dict)

    def count(self, size: int) -> None:
        self._received += size
        if self._received > self.limit + _FORM_BYTES:
            raise TooLarge(
                f"the upload has more than {self.limit} bytes; this server allows {self.limit} for an adapter, "
                "all files together (LORADOCK_MAX_ADAPTER_BYTES)"
            )

    def on_part_begin(self) -> None:
        self._disposition = self._header_field = self._header_value = b""
        self._name = None

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_field = _grown(self._header_field, data[start:end])

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value = _grown(self._header_value, data[start:end])

    def on_header_end(self) -> None:
        if self._header_field.lower() == b"content-disposition":
            self._disposition = self._header_value
        self._header_field = self._header_value = b""

    def on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        if options.get(b"name") != _FIELD:
            raise BadRequest(f"the form has a part named {options.get(b'name', b'')[:80]!r}; only `file` is taken")
        name = options.get(b"filename", b"").decode("utf-8", "replace")
        if name in _IGNORED:
            return
        if has_archive_name(name):
            name = _ARCHIVE
        elif name not in ADAPTER_FILES | JUDGED_FILES:
            raise BadRequest(
                f"file name {name[:80]!r} does not belong to an adapter; send {', '.join(sorted(ADAPTER_FILES))}, "
                f"or one archive ({', '.join(SUFFIXES)})"
            )
        if name in self.names:
            raise BadRequest(f"file {name!r} was sent twice; send it once")
        self.names.add(name)
        if _ARCHIVE in self.names and len(self.names) > 1:
            raise BadRequest("an archive was sent beside other files; send either the one or the others")
        self._name = name
        self._pending.append((name, b""))

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._name is not None:
            self._pending.append((self._name, data[start:end]))
            self.buffered += end - start

    def on_end(self) -> None:
        self.ended = True

    def flush(self) -> None:
        for name, data in self._pending:
            if name not in self._files:
                self._files[name] = (self.folder / name).open("xb")
            self._files[name].write(data)
        self._pending.clear()
        self.buffered = 0

    def close(self) -> None:
        for file in self._files.values():
            file.close()


def _grown(header: bytes, data: bytes) -> bytes:
    if len(header) + len(data) > _MAX_HEADER_BYTES:
        raise BadRequest(f"a part's header has more than {_MAX_HEADER_BYTES} bytes")
    return header + data
