"""What one start of the engine wrote: read from its part of a log file, or kept while it passes through.

Bounded in size whatever the engine writes. Knows no meaning; `start_failure` and `start_phases` do.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

# Of each end of a start's output: what broke first lies near the beginning or, after a long one, near the end.
KEPT_BYTES = 1 << 20

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
# nanobind's report at the end of a process; its last line lacks its end, and another's words follow it.
_LEAKS = re.compile(
    rb"^(?:(?:nanobind: (?:leaked|this is likely)| - leaked | - \.\.\. skipped ).*\n?|See https://nanobind\S*?\.html\n?)"
)


class StartLog(Protocol):
    """Where an engine's output goes, and what it was since the last `begin`."""

    def begin(self) -> IO[bytes]:
        """A file that the next process writes to; the caller closes it when the process has it."""

    def text(self) -> str:
        """What was written since, without colours; at most twice KEPT_BYTES, the middle left out."""


@dataclass(frozen=True, slots=True)
class Place:
    """Byte offsets in a log: where the present start begins, and up to where somebody has read."""

    start: int
    read: int


class LogFile:
    """A file that grows from start to start."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = path.stat().st_size if path.exists() else 0

    @property
    def place(self) -> Place:
        """Where the present start begins, nothing of it read."""
        return Place(self._offset, self._offset)

    def since(self, place: Place) -> tuple[bytes, Place]:
        """What was written since, at most KEPT_BYTES at a time, and the place after it."""
        try:
            with self.path.open("rb") as file:
                file.seek(place.read)
                data = file.read(KEPT_BYTES)
        except OSError:
            return b"", place
        return data, Place(place.start, place.read + len(data))

    def begin(self) -> IO[bytes]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self.path.open("ab")
        self._offset = file.tell()
        return file

    def text(self) -> str:
        try:
            with self.path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                # A file that became shorter was cut or replaced by whoever rotates logs: all of it is newer.
                start = self._offset if size >= self._offset else 0
                file.seek(start)
                data = file.read(KEPT_BYTES)
                rest = max(start + len(data), size - KEPT_BYTES)
                file.seek(rest)
                return readable(data + (b"\n" if rest > start + len(data) else b"") + file.read(KEPT_BYTES))
        except OSError:
            return ""


class Passing:
    """Passes the engine's output on to `target` (our own standard error), all but native libraries' leak reports."""

    def __init__(self, target: IO[bytes] | None = None) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._head, self._tail = bytearray(), bytearray()
        self._thread: threading.Thread | None = None

    def begin(self) -> IO[bytes]:
        read, write = os.pipe()
        with self._lock:
            self._head, self._tail = bytearray(), bytearray()
        # A thread: our standard error may block for as long as its reader likes, and the event loop must not.
        self._thread = threading.Thread(target=self._pass_on, args=(read,), name="engine-output", daemon=True)
        self._thread.start()
        return os.fdopen(write, "wb")

    def text(self) -> str:
        thread = self._thread
        if thread is not None:
            thread.join(1.0)  # all writers are gone, so it is about to end
        with self._lock:
            return readable(bytes(self._head + self._tail))

    def _pass_on(self, descriptor: int) -> None:
        target = self._target or sys.stderr.buffer
        with os.fdopen(descriptor, "rb") as source:
            for written in iter(lambda: source.readline(KEPT_BYTES), b""):
                line = without_leak_report(written)
                with self._lock:
                    kept = self._head if len(self._head) < KEPT_BYTES else self._tail
                    kept += line
                    del self._tail[:-KEPT_BYTES]
                try:
                    target.write(line)
                    target.flush()
                except (OSError, ValueError):  # nobody reads any more; the engine must be able to write on
                    continue


def without_leak_report(line: bytes) -> bytes:
    """What is left of a line without nanobind's report, which says nothing to anybody but the library's author."""
    return _LEAKS.sub(b"", line)


def readable(data: bytes) -> str:
    """Bytes of a log as text without colours, control characters (but line ends) and invalid bytes."""
    text = _ESCAPES.sub("", data.decode(errors="replace")).replace("\r\n", "\n").replace("\r", "\n")
    return "".join(c if c in "\n\t" or c.isprintable() else " " for c in text)
