"""How a training run tells what it is doing: one small protocol, and siblings for silence, terminals and log files.

Knows nothing of torch; numbers come in as plain records.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from loradock_adapters.training.losses import LossPoint, Step
from loradock_adapters.training.pace import Pace, span
from loradock_adapters.training.smoothing import smooth
from loradock_adapters.training.sparkline import sparkline

_LINE_SECONDS = 30.0  # between two lines in a log file
_FIRST_STEPS = 4


class TrainingProgress(Protocol):
    """Told of each phase, each optimiser step and each evaluation, from the thread that trains."""

    def phase(self, what: str) -> None: ...

    def stepped(self, step: Step, total: int) -> None: ...

    def evaluated(self, point: LossPoint) -> None: ...


class Silent:
    """Says nothing."""

    def phase(self, what: str) -> None: ...

    def stepped(self, step: Step, total: int) -> None: ...

    def evaluated(self, point: LossPoint) -> None: ...


class Several:
    """Tells each of them."""

    def __init__(self, *told: TrainingProgress) -> None:
        self._told = told

    def phase(self, what: str) -> None:
        for one in self._told:
            one.phase(what)

    def stepped(self, step: Step, total: int) -> None:
        for one in self._told:
            one.stepped(step, total)

    def evaluated(self, point: LossPoint) -> None:
        for one in self._told:
            one.evaluated(point)


class Lines:
    """A line now and then, for output that is no terminal."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._say, self._clock = say, clock
        self._pace = Pace()
        self._said = clock()
        self._steps = 0

    def phase(self, what: str) -> None:
        self._say(what)

    def stepped(self, step: Step, total: int) -> None:
        self._pace.stepped(step)
        self._steps += 1
        due = self._clock() - self._said >= _LINE_SECONDS
        # Soon after the start, since that tells how long it will take.
        if due or self._steps == _FIRST_STEPS or step.step == total:
            self._said = self._clock()
            self._say(f"step {step.step} of {total}: loss {step.loss:.3f}, {_speed(self._pace, total)}")

    def evaluated(self, point: LossPoint) -> None:
        self._say(f"step {point.step}: held-out loss {point.loss:.3f}")


class LiveCurves:
    """On a terminal: a bar, both losses as curves, speed and the time that is left; a context manager, so that the
    terminal is given back.
    """

    def __init__(self, console: Console) -> None:
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[speed]}"),
            console=console,
        )
        self._task = self._bar.add_task("starting", total=None, speed="")
        self._console = console
        self._pace = Pace()
        self._train: list[float] = []
        self._held_out: list[LossPoint] = []
        self._live = Live(get_renderable=self._drawn, console=console, refresh_per_second=4)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def phase(self, what: str) -> None:
        self._bar.update(self._task, description=what)

    def stepped(self, step: Step, total: int) -> None:
        self._pace.stepped(step)
        self._train.append(step.loss)
        self._bar.update(self._task, completed=step.step, total=total, speed=_speed(self._pace, total))

    def evaluated(self, point: LossPoint) -> None:
        self._held_out.append(point)

    def _drawn(self) -> Group:
        curves = [
            _curve(name, values, self._console.width, colour)
            for name, values, colour in (
                ("train", smooth(list(self._train)), "blue"),
                ("held-out", [point.loss for point in list(self._held_out)], "yellow"),
            )
            if values
        ]
        return Group(*curves, self._bar)


def _curve(name: str, values: Sequence[float], width: int, colour: str) -> Text:
    """`train    2.713 ▇▅▃▂▁ 0.412`, the smoothed loss from the first step on."""
    drawn = sparkline(values, max(8, min(60, width - 28)))
    return Text(f"{name:<9}{values[0]:6.3f} ") + Text(drawn, colour) + Text(f" {values[-1]:.3f}", "bold")


def _speed(pace: Pace, total: int) -> str:
    return (
        f"{pace.seconds_a_step:.2f} s a step, {pace.tokens_per_second:.0f} tokens/s, "
        f"{span(pace.remaining_seconds(total))} left"
    )
