"""Checkpoints in the folder of a run that is under way: each appears in one rename, and counts only when it is whole.

The Trainer writes into `writing/`; what is there was broken off. Knows files, no torch.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loradock_adapters.files import read_capped, sync_file, sync_folder
from loradock_adapters.strict_json import parse_object

CONTENTS_FILE = "loradock.json"
BEST_FILE = "best.safetensors"
KEPT = 2
"""The newest, and the one before in case a disk lied about it."""

_NAME = re.compile(r"checkpoint-(\d{1,9})")
_LARGEST_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`facts`: what the run wrote down beside the Trainer's own files."""

    step: int
    folder: Path
    facts: dict[str, Any]


class Checkpoints:
    """Those of one run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.writing = folder / "writing"

    def sweep(self) -> None:
        """Remove what was broken off."""
        shutil.rmtree(self.writing, ignore_errors=True)

    def all(self) -> list[Checkpoint]:
        """The whole ones, newest first."""
        found = []
        for path in self._folder.glob("checkpoint-*"):
            name = _NAME.fullmatch(path.name)
            facts = None if name is None else _whole(path)
            if name is not None and facts is not None:
                found.append(Checkpoint(int(name[1]), path, facts))
        return sorted(found, key=lambda checkpoint: checkpoint.step, reverse=True)

    def newest(self) -> Checkpoint | None:
        return next(iter(self.all()), None)

    def publish(self, step: int, facts: dict[str, Any]) -> None:
        """What the Trainer wrote into `writing/` becomes the checkpoint of this step; older ones go."""
        made = self.writing / f"checkpoint-{step}"
        sizes = {path.name: path.stat().st_size for path in made.iterdir() if path.is_file()}
        (made / CONTENTS_FILE).write_text(json.dumps({"files": sizes, "facts": facts}) + "\n", encoding="utf-8")
        for path in made.iterdir():
            sync_file(path)
        sync_folder(made)
        place = self._folder / made.name
        self._remove(place)
        made.rename(place)
        sync_folder(self._folder)
        for old in self.all()[KEPT:]:
            self._remove(old.folder)

    def remove_all(self) -> None:
        """Whole ones, damaged ones, and what is being written."""
        for path in self._folder.glob("checkpoint-*"):
            shutil.rmtree(path, ignore_errors=True)
        self.sweep()

    def _remove(self, folder: Path) -> None:
        """In one move out of sight, so that half of it is never taken for a whole one."""
        if folder.exists():
            gone = self.writing / f"gone-{folder.name}"
            shutil.rmtree(gone, ignore_errors=True)
            folder.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)


def _whole(folder: Path) -> dict[str, Any] | None:
    """A checkpoint's facts if every file of it has the size it was written with."""
    try:
        contents = parse_object(read_capped(folder / CONTENTS_FILE, _LARGEST_BYTES))
        files, facts = contents["files"], contents["facts"]
        same = all((folder / Path(name).name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError, AttributeError):
        return None
    return facts if same and isinstance(facts, dict) else None
