"""Under which name a gateway asks the engine for its usage records: one that the next gateway in its place has too.

A gateway that is killed leaves records in the engine that nobody has counted. The one that is started after it from
the same home folder takes the same name, and gets them. Of several on one home each has a name of its own: a file
that it holds locked as long as it lives.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import uuid
from pathlib import Path

FOLDER = "gateways"
MAX_PLACES = 1000

_ID = re.compile(rb"[0-9a-f]{32}")
_log = logging.getLogger(__name__)


class Identity:
    """A gateway's name, `id`, until `release`; the kernel releases it for one that was killed."""

    def __init__(self, id: str, held: int | None) -> None:
        self.id = id
        self._held = held

    @classmethod
    def take(cls, home: Path) -> Identity:
        """The first free name of this home folder. Where none can be kept, a new one, and a warning."""
        try:
            (home / FOLDER).mkdir(parents=True, exist_ok=True, mode=0o700)
            for place in range(1, MAX_PLACES + 1):
                if (found := _take(home / FOLDER / str(place))) is not None:
                    return found
            problem = f"{MAX_PLACES} gateways run from it"
        except OSError as error:
            problem = str(error)
        _log.warning("no lasting name from %s (%s); usage that a kill leaves in the engine is lost", home, problem)
        return cls(uuid.uuid4().hex, None)

    def release(self) -> None:
        """Let the next one have it."""
        if self._held is not None:
            os.close(self._held)
            self._held = None


def _take(path: Path) -> Identity | None:
    """The name in this file, a new one if it has none; None when another gateway holds it. Raises OSError."""
    held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        there = os.pread(held, 64, 0).strip()
        if not _ID.fullmatch(there):
            there = uuid.uuid4().hex.encode()
            os.ftruncate(held, 0)
            os.pwrite(held, there + b"\n", 0)
            os.fsync(held)
    except BlockingIOError:
        os.close(held)
        return None
    except BaseException:
        os.close(held)
        raise
    return Identity(there.decode(), held)
