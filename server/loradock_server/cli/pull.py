"""`loradock adapters pull`: a version's files from a running server into a new folder, verified against its digest."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from io import BufferedReader, RawIOBase
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from loradock_adapters.digest import folder_digest
from loradock_adapters.errors import AdapterMalformed, InvalidName
from loradock_adapters.files import growing_folder
from loradock_adapters.folder_tar import unpack
from loradock_adapters.names import AdapterRef, ModelName
from loradock_adapters.peft_folder import ADAPTER_FILES, SIGNATURE_FILE
from loradock_adapters.signing import Signature, document
from loradock_server.cli.answers import object_in
from loradock_server.cli.client import AdminClient, adapter_path, version_path
from loradock_server.cli.connection import find_connection
from loradock_server.cli.errors import JsonObject, Refused, Unreadable
from loradock_server.cli.options import AsJson, ServerUrl
from loradock_server.cli.output import Output, answering, fields
from loradock_server.cli.wording import cell, size

RECORD_FILE = "version.json"
"""What the registry knows of the version; beside the adapter's files, and no part of them."""

_ARCHIVE_BYTES = 64 << 10  # headers around a handful of files
_RECORDED = ("id", "name", "version", "digest", "size_bytes", "rank", "target_modules", "base_digest", "source")
_RECORDED_TOO = ("created_at", "created_by", "manifest")


def pull(
    model: Annotated[
        str, typer.Argument(metavar="NAME[@VERSION|@ALIAS]", help="Which version; NAME alone is its live one.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder.")],
    url: ServerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Export a version into a new folder, with its manifest.

    The files are those that were registered: their digest is compared. version.json says what the registry knows of
    them; signature.json comes too if the version is signed. OUT is there whole or not at all, and can be registered
    again.
    """
    with answering(as_json) as output:
        wanted = _read_name(model)
        _require_free(out)
        with AdminClient(find_connection(url)) as client:
            ref = _resolve(client, wanted)
            version = client.get(version_path(ref.id))
            with _growing(out) as folder:
                _download(client, ref, version, folder, output)
                record = {name: version.get(name) for name in (*_RECORDED, *_RECORDED_TOO)}
                _write_signature(folder, version)
                (folder / RECORD_FILE).write_text(json.dumps(record, indent=2) + "\n")
        output.document({**record, "path": str(out)})
        output.say(f"pulled {ref} into {out}")
        output.say(fields({"digest": f"sha256:{version.get('digest')}", "size": size(version.get("size_bytes"))}))
        output.hint(f"loradock adapters check {out}", f"loradock adapters register {ref.name} {out}")


def _read_name(model: str) -> ModelName:
    try:
        return ModelName.parse(model)
    except InvalidName as error:
        raise Unreadable(str(error)) from error


def _require_free(out: Path) -> None:
    try:
        taken = out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir())))
    except OSError as error:
        raise Unreadable(f"{out} cannot be used: {error.strerror}") from error
    if taken:
        raise Unreadable(f"{out} is there already", fix="name a new folder; nothing is overwritten")


def _resolve(client: AdminClient, wanted: ModelName) -> AdapterRef:
    if wanted.version is not None:
        return AdapterRef(wanted.name, wanted.version)
    aliases = object_in(client.get(adapter_path(wanted.name)), "aliases")
    target = aliases.get(wanted.alias or "")
    if isinstance(target, int):
        return AdapterRef(wanted.name, target)
    if target is None:
        known = ", ".join(sorted(aliases)) or "none"
        raise Refused(f"{wanted.name} has no alias {wanted.alias!r}; it has {known}")
    shares = " ".join(f"{version}={weight}" for version, weight in dict(target).items())
    raise Refused(
        f"{wanted} is divided between versions: {shares}", fix=f"name one: {wanted.name}@{next(iter(dict(target)))}"
    )


@contextlib.contextmanager
def _growing(out: Path) -> Iterator[Path]:
    """A folder that takes OUT's place when the block ends well, and is gone otherwise."""
    try:
        with growing_folder(out) as folder:
            yield folder
            folder.chmod(0o755)
    except OSError as error:
        raise Unreadable(f"{out} cannot be made: {error.strerror or error}") from error


def _download(client: AdminClient, ref: AdapterRef, version: JsonObject, folder: Path, output: Output) -> None:
    expected = version.get("size_bytes")
    limit = expected if isinstance(expected, int) else 0
    columns = (TextColumn("pulling"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with output.progress(*columns) as bar, client.download(f"{version_path(ref.id)}/files") as (total, pieces):
        task = bar.add_task("pull", total=total)
        stream = BufferedReader(_Stream(pieces, limit + _ARCHIVE_BYTES, lambda count: bar.advance(task, count)))
        try:
            unpack(stream, folder, names=ADAPTER_FILES, limit_bytes=limit)
        except AdapterMalformed as error:
            raise Refused(f"what the server sent is not {ref}: {error}", fix="try again") from error
    found = folder_digest(folder)
    if found != version.get("digest"):
        raise Refused(
            f"what came is not {ref}: its digest is {found}, the version's {cell(version.get('digest'))}",
            fix="try again; if it happens twice: loradock doctor, on the server's machine",
        )


def _write_signature(folder: Path, version: JsonObject) -> None:
    found = object_in(version, "signature")
    if not found:
        return
    digest = str(version.get("digest"))
    try:
        signature = Signature.parse(f"{found.get('public_key')}.{found.get('signature')}")
    except ValueError as error:
        raise Refused(f"the signature that came is none: {error}", fix="try again") from error
    (folder / SIGNATURE_FILE).write_bytes(document(digest, signature))


class _Stream(RawIOBase):
    """Pieces that come over the network, as a file that tells how much was read. More than the limit is an error."""

    def __init__(self, pieces: Iterator[bytes], limit: int, advance: Callable[[int], None]) -> None:
        self._pieces = pieces
        self._left = limit
        self._advance = advance
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    # Any buffer: what the type of RawIOBase.readinto says is private to typeshed.
    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._left -= len(piece)
            if self._left < 0:
                raise AdapterMalformed("it is longer than the version's files", where="archive")
            self._rest = memoryview(piece)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        self._advance(count)
        return count
