"""`<out>/<name>.partial`: where a run lives until its adapter is whole, one process at a time.

Holds checkpoints, the log, the curve, and run.json that says which run this is.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Self

from loradock_adapters.training.checkpoints import Checkpoint, Checkpoints
from loradock_adapters.training.errors import CannotResume, TrainingError
from loradock_adapters.training.identity import RunIdentity
from loradock_adapters.training.log import LOG_FILE

SUFFIX = ".partial"


class Partial:
    """The folder, locked while this is open; a context manager."""

    def __init__(self, out: Path, name: str) -> None:
        self.folder = out / (name + SUFFIX)
        self.checkpoints = Checkpoints(self.folder)
        self.log_path = self.folder / LOG_FILE
        self._lock = -1

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise TrainingError(
                f"another process trains in {self.folder}; wait for it, or choose another --out"
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._lock)

    def begin(self, identity: RunIdentity, *, resume: bool, restart: bool) -> tuple[Checkpoint | None, list[str]]:
        """Where to go on, None for the beginning; and how the surroundings differ from what they were.

        Raises CannotResume for another run's checkpoints, and for checkpoints that nobody said what to do with.
        """
        self.checkpoints.sweep()
        found = None if restart else self.checkpoints.newest()
        if found is None:
            self._clear()
            identity.write(self.folder)
            return None, []
        if not resume:
            raise CannotResume(
                f"{self.folder} has a run that was broken off after step {found.step}: --resume goes on with it, "
                "--restart throws it away"
            )
        before = RunIdentity.read(self.folder)
        differences = ["what it was made from is not recorded"] if before is None else identity.differences(before)
        if before is None or differences:
            raise CannotResume(
                f"the run in {self.folder}, broken off after step {found.step}, is another one: "
                + "; ".join(differences)
                + "; undo the change, or throw the run away with --restart"
            )
        return found, identity.other_surroundings(before)

    def discard(self) -> None:
        """Nothing of it is needed any more."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _clear(self) -> None:
        for path in self.folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != ".lock":
                path.unlink()
