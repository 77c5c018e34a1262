"""Every answer as it came, one JSON line each, so that nothing is asked twice after an interruption.

A record is found by what was asked: the same request has the same key, any other does not. It knows no metric.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from loradock_adapters.evaluating.errors import CannotEvaluate

_MAX_BYTES = 2 << 30


def key_of(**asked: Any) -> str:
    """sha256 of what was asked, whatever the order of its fields."""
    text = json.dumps(asked, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class Journal:
    """The file `path`, held by one run at a time; use it as a context manager.

    Raises CannotEvaluate when another run holds it or it cannot be read or written. Half a line at the end, which a
    kill leaves, is cut off.
    """

    def __init__(self, path: Path, *, fresh: bool = False) -> None:
        self._path = path
        self._found: dict[str, Mapping[str, Any]] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            self._file = os.fdopen(descriptor, "r+b")
        except OSError as error:
            raise CannotEvaluate(f"cannot write {path}: {error.strerror}", fix="name a folder with --out") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(self._file.fileno()).st_size > _MAX_BYTES:
                raise CannotEvaluate(f"{path} has more than {_MAX_BYTES} bytes", fix="--fresh begins it anew")
            if fresh:
                self._file.truncate(0)
            self._read()
        except OSError as error:
            self._file.close()
            raise CannotEvaluate(
                f"another run is writing {path}" if isinstance(error, BlockingIOError) else f"{path}: {error.strerror}",
                fix="wait for it, or name another folder with --out",
            ) from error
        except CannotEvaluate:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._found)

    def get(self, key: str) -> Mapping[str, Any] | None:
        """What was answered to that, if it was."""
        return self._found.get(key)

    def put(self, key: str, record: Mapping[str, Any]) -> None:
        """Keep an answer. It is in the file when this returns. Raises CannotEvaluate."""
        line = json.dumps({"key": key, **record}, ensure_ascii=True, separators=(",", ":")) + "\n"
        try:
            self._file.write(line.encode())
            self._file.flush()
        except OSError as error:
            raise CannotEvaluate(f"cannot write {self._path}: {error.strerror}", fix="make room") from error
        self._found[key] = record

    def _read(self) -> None:
        whole = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            whole += len(line)
            try:
                record = json.loads(line)
                key = record.pop("key")
            except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
                continue  # not ours, or damaged: it is asked again
            if isinstance(key, str):
                self._found[key] = record
        self._file.seek(whole)
        self._file.truncate()
