"""The files of a PEFT folder, or one archive, on their way to a server: found, opened, counted. Judges nothing."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from loradock_adapters.digest import FileEntry, entries_digest
from loradock_adapters.peft_folder import ADAPTER_FILES, JUDGED_FILES, SIGNATURE_FILE
from loradock_adapters.signing import SigningKey, document, sign_digest
from loradock_server.cli.errors import Unreadable

REQUIRED = ("adapter_config.json", "adapter_model.safetensors")
OPTIONAL = ("README.md", "manifest.json", *sorted(JUDGED_FILES))  # the last ones: for the server's judgement only
_PICKLE = "adapter_model.bin"
_PIECE_BYTES = 1 << 20


class CountedFile:
    """A file that tells `advance` how many bytes were read; just enough of a file for httpx to stream it."""

    def __init__(self, file: BinaryIO, advance: Callable[[int], None]) -> None:
        self._file = file
        self._advance = advance

    def read(self, count: int = -1) -> bytes:
        piece = self._file.read(count)
        self._advance(len(piece))
        return piece

    def fileno(self) -> int:
        return self._file.fileno()


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """Opened files by plain name, and their size in bytes together."""

    files: dict[str, BinaryIO]
    size_bytes: int

    def parts(self, advance: Callable[[int], None]) -> list[tuple[str, tuple[str, CountedFile, str]]]:
        """The multipart form, in the shape httpx takes; `advance` hears of every piece sent."""
        return [("file", (name, CountedFile(file, advance), _content_type(name))) for name, file in self.files.items()]


@contextmanager
def open_adapter(folder: Path, key: SigningKey | None = None) -> Iterator[AdapterFiles]:
    """Open the files of `folder` that belong to an adapter, with a signature by `key` if there is one.

    Symbolic links are followed, because hub caches consist of them. Raises Unreadable when the folder or
    one of the two required files is missing or cannot be read.
    """
    require_folder(folder)
    _require_files(folder)
    with ExitStack() as stack:
        files: dict[str, BinaryIO] = {}
        for name in (*REQUIRED, *OPTIONAL):
            file = _open_regular(folder / name)
            if file is not None:
                files[name] = stack.enter_context(file)
        if key is not None:
            files[SIGNATURE_FILE] = stack.enter_context(_signature(files, key))
        yield AdapterFiles(files, sum(os.fstat(file.fileno()).st_size for file in files.values()))


def _signature(files: dict[str, BinaryIO], key: SigningKey) -> BinaryIO:
    """signature.json over the files as they are open here, which nobody can exchange any more."""
    entries = []
    for name in sorted(ADAPTER_FILES & files.keys()):
        file = files[name]
        sha256 = hashlib.sha256()
        while piece := file.read(_PIECE_BYTES):
            sha256.update(piece)
        entries.append(FileEntry(name, file.tell(), sha256.hexdigest()))
        file.seek(0)
    digest = entries_digest(entries)
    signature = tempfile.TemporaryFile()  # noqa: SIM115  # the caller's stack closes it
    signature.write(document(digest, sign_digest(digest, key)))
    signature.seek(0)
    return signature


@contextmanager
def open_archive(path: Path) -> Iterator[AdapterFiles]:
    """Open one archive, which is sent as it is. Raises Unreadable."""
    file = _open_regular(path)
    if file is None:
        raise Unreadable(f"{path} does not exist")
    with file:
        yield AdapterFiles({path.name: file}, os.fstat(file.fileno()).st_size)


def require_folder(folder: Path) -> None:
    """Raise Unreadable unless `folder` is a folder that we may list."""
    if not folder.exists():
        raise Unreadable(f"{folder} does not exist", fix="give the folder that PEFT's save_pretrained wrote")
    if not folder.is_dir():
        raise Unreadable(f"{folder} is not a folder", fix=f"give the folder it lies in: {folder.parent}")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise Unreadable(f"{folder} may not be read by this user", fix="change its mode, or use another user")


def _require_files(folder: Path) -> None:
    missing = [name for name in REQUIRED if not (folder / name).exists()]
    if REQUIRED[1] in missing and (folder / _PICKLE).exists():
        raise Unreadable(
            f"{folder} has its weights in {_PICKLE}, a pickle, which can run code when it is read; "
            f"only {REQUIRED[1]} is taken",
            fix=f"loradock adapters check {folder} --fix OUT converts it without running any",
        )
    if missing:
        raise Unreadable(
            f"{folder} lacks {' and '.join(missing)}; an adapter needs {' and '.join(REQUIRED)}",
            fix="give the folder that PEFT's save_pretrained wrote",
        )


def _open_regular(path: Path) -> BinaryIO | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unreadable(f"cannot read {path}: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Unreadable(f"{path} is not a regular file")
    return open(descriptor, "rb")


def _content_type(name: str) -> str:
    if name.endswith(".json"):
        return "application/json"
    return "text/markdown" if name.endswith(".md") else "application/octet-stream"
