"""train.jsonl: a line for every optimiser step and every evaluation, written while the run goes on.

A run that goes on after an interruption reads its past here, so each line is flushed at once, and a line that a kill
cut off is dropped.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from loradock_adapters.files import read_capped
from loradock_adapters.training.errors import TrainingError
from loradock_adapters.training.losses import Course, LossPoint, Step

LOG_FILE = "train.jsonl"
_LARGEST_BYTES = 1 << 30


class TrainingLog:
    """The file, and the course it tells; a context manager.

    `steps` and `held_out` keep what was there up to `after`, the step that a run goes on from; the rest is cut off.
    """

    def __init__(self, path: Path, after: int = 0) -> None:
        course = read_log(path).until(after) if after else Course()
        self._steps, self._held_out = [*course.steps], [*course.held_out]
        whole = path.with_name(path.name + ".new")
        whole.write_text("".join(map(_line, _merged(course))), encoding="utf-8")
        whole.replace(path)
        self._file = path.open("a", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def course(self) -> Course:
        return Course(tuple(self._steps), tuple(self._held_out))

    def stepped(self, step: Step) -> None:
        self._steps.append(step)
        self._write(step)

    def evaluated(self, point: LossPoint) -> None:
        self._held_out.append(point)
        self._write(point)

    def sync(self) -> None:
        """See to it that everything is on the disk: a checkpoint that counts on it is about to appear."""
        os.fsync(self._file.fileno())

    def _write(self, record: Step | LossPoint) -> None:
        self._file.write(_line(record))
        self._file.flush()


def read_log(path: Path) -> Course:
    """What a log tells; what follows a line that is no record is left out. Raises TrainingError if there is none."""
    try:
        text = read_capped(path, _LARGEST_BYTES).decode("utf-8", errors="replace")
    except OSError as error:
        raise TrainingError(f"cannot read {path}: {error}; train again with --restart") from error
    steps: list[Step] = []
    held_out: list[LossPoint] = []
    for line in text.split("\n"):
        try:
            record: dict[str, Any] = json.loads(line)
            if "held_out_loss" in record:
                held_out.append(LossPoint(int(record["step"]), float(record["held_out_loss"])))
            else:
                steps.append(Step(**record))
        except (ValueError, TypeError, KeyError, RecursionError):
            break
    return Course(tuple(steps), tuple(held_out))


def _merged(course: Course) -> list[Step | LossPoint]:
    """In the order in which they were written: an evaluation follows the step after which it was made."""
    return sorted([*course.steps, *course.held_out], key=lambda record: (record.step, isinstance(record, LossPoint)))


def _line(record: Step | LossPoint) -> str:
    told = {"step": record.step, "held_out_loss": record.loss} if isinstance(record, LossPoint) else asdict(record)
    return json.dumps(told) + "\n"
