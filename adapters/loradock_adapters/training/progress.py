"""How a training run tells what it is doing: one small protocol, a silent sibling and a rich progress bar.

Knows nothing of torch; numbers come in as plain ints and floats.
"""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class TrainingProgress(Protocol):
    """Told of each phase, each optimiser step and each evaluation, from the thread that trains."""

    def phase(self, what: str) -> None: ...

    def stepped(self, step: int, total: int, loss: float | None) -> None: ...

    def evaluated(self, step: int, loss: float) -> None: ...


class Silent:
    """Says nothing."""

    def phase(self, what: str) -> None: ...

    def stepped(self, step: int, total: int, loss: float | None) -> None: ...

    def evaluated(self, step: int, loss: float) -> None: ...


class ProgressBar:
    """A live bar with train and held-out loss; a context manager, so that the terminal is given back."""

    def __init__(self, console: Console) -> None:
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[losses]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self._task: TaskID = self._bar.add_task("starting", total=None, losses="")
        self._train: float | None = None
        self._held_out: float | None = None

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def phase(self, what: str) -> None:
        self._bar.update(self._task, description=what)

    def stepped(self, step: int, total: int, loss: float | None) -> None:
        self._train = self._train if loss is None else loss
        self._bar.update(self._task, completed=step, total=total, losses=self._losses())

    def evaluated(self, step: int, loss: float) -> None:
        self._held_out = loss
        self._bar.update(self._task, losses=self._losses())

    def _losses(self) -> str:
        parts = [
            f"{name} {value:.3f}"
            for name, value in (("loss", self._train), ("held-out", self._held_out))
            if value is not None
        ]
        return "  ".join(parts)
