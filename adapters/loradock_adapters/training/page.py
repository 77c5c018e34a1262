"""The curves as one HTML file: SVG inside, no script, nothing from elsewhere; light or dark as the reader's system is.

Rewritten while the run goes on, and then it reloads itself.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

from loradock_adapters.training.losses import Course, LossPoint, Step
from loradock_adapters.training.pace import Pace, span
from loradock_adapters.training.smoothing import smooth

PAGE_FILE = "loss.html"
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 760, 380, 56, 40, 16, 16
_MOST_POINTS = 800  # of a curve; more cannot be told apart
_RELOAD_SECONDS = 5
_BETWEEN_SECONDS = 3.0
_TICKS = 5

_STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1c1f23; --dim: #6b7280; --grid: #e5e7eb;
  --each: #b9cfe4; --train: #1f5f99; --held: #c4501b; }
@media (prefers-color-scheme: dark) { :root { --back: #15181c; --text: #e6e8eb; --dim: #98a1ad; --grid: #2b3037;
  --each: #34516d; --train: #6db3f2; --held: #f29a6d; } }
body { margin: 2rem auto; max-width: 800px; padding: 0 1rem; background: var(--back); color: var(--text);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.2rem; } p { color: var(--dim); } svg { width: 100%; height: auto; }
.grid { stroke: var(--grid); } text { fill: var(--dim); font-size: 12px; }
.line { fill: none; stroke-linejoin: round; } .each { stroke: var(--each); stroke-width: 1; }
.train { stroke: var(--train); stroke-width: 2; } .held { stroke: var(--held); stroke-width: 2; }
.dot { fill: var(--held); } .key-train { fill: var(--train); } .key-held { fill: var(--held); }
"""


class LivePage:
    """A progress that keeps the page up to date, a few times a minute at most."""

    def __init__(self, path: Path, title: str, course: Course, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._title, self._clock = path, title, clock
        self._steps, self._held_out = [*course.steps], [*course.held_out]
        self._pace, self._total, self._written = Pace(), 0, -math.inf

    def phase(self, what: str) -> None: ...

    def stepped(self, step: Step, total: int) -> None:
        self._steps.append(step)
        self._pace.stepped(step)
        self._total = total
        if self._clock() - self._written >= _BETWEEN_SECONDS:
            self._write()

    def evaluated(self, point: LossPoint) -> None:
        self._held_out.append(point)
        self._write()

    def _write(self) -> None:
        self._written = self._clock()
        state = "measuring the base"
        if self._steps:
            state = (
                f"step {self._steps[-1].step} of {self._total}, {self._pace.seconds_a_step:.2f} s a step, "
                f"{self._pace.tokens_per_second:.0f} tokens/s, {span(self._pace.remaining_seconds(self._total))} left"
            )
        course = Course(tuple(self._steps), tuple(self._held_out))
        write_page(self._path, self._title, course, state=state, running=True)


def write_page(path: Path, title: str, course: Course, *, state: str, running: bool = False) -> None:
    """Write the page, complete or not at all."""
    reload = f'<meta http-equiv="refresh" content="{_RELOAD_SECONDS}">' if running else ""
    text = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">{reload}\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><h1>{escape(title)}</h1><p>{escape(state)}</p>\n{_svg(course)}\n"
        "<p>Loss per answer token (nats) over optimiser steps.</p></body></html>\n"
    )
    new = path.with_name(path.name + ".new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


def _svg(course: Course) -> str:
    train = [(step.step, step.loss) for step in course.steps]
    smoothed = list(zip([step for step, _ in train], smooth(loss for _, loss in train), strict=True))
    held = [(point.step, point.loss) for point in course.held_out]
    values = [loss for _, loss in (*train, *held) if math.isfinite(loss)]
    highest = max(values, default=1.0) or 1.0
    last = max([step for step, _ in (*train, *held)], default=1) or 1

    def place(point: tuple[int, float]) -> tuple[float, float]:
        step, loss = point
        across = _LEFT + (_WIDTH - _LEFT - _RIGHT) * step / last
        down = _HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - _TOP) * min(loss, highest) / highest
        return round(across, 1), round(down, 1)

    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="train and held-out loss">']
    for tick in range(_TICKS):
        loss, step = highest * tick / (_TICKS - 1), round(last * tick / (_TICKS - 1))
        left, down = place((0, loss))
        across, _ = place((step, 0))
        parts.append(f'<line class="grid" x1="{left}" x2="{_WIDTH - _RIGHT}" y1="{down}" y2="{down}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{down + 4}" text-anchor="end">{loss:.2f}</text>')
        parts.append(f'<text x="{across}" y="{_HEIGHT - _BOTTOM + 20}" text-anchor="middle">{step}</text>')
    for points, kind in ((train, "each"), (smoothed, "train"), (held, "held")):
        parts.append(_line([place(point) for point in _thinned(points)], kind))
    parts += [
        f'<circle class="dot" cx="{across}" cy="{down}" r="3.5"><title>step {step}: {loss:.4f}</title></circle>'
        for (step, loss), (across, down) in ((point, place(point)) for point in held if math.isfinite(point[1]))
    ]
    right = _WIDTH - _RIGHT
    parts.append(f'<text class="key-train" x="{right}" y="{_TOP + 12}" text-anchor="end">train, smoothed</text>')
    if held:
        parts.append(f'<text class="key-held" x="{right}" y="{_TOP + 28}" text-anchor="end">held out</text>')
    return "\n".join([*parts, "</svg>"])


def _line(points: Sequence[tuple[float, float]], kind: str) -> str:
    return f'<polyline class="line {kind}" points="{" ".join(f"{x},{y}" for x, y in points)}"/>'


def _thinned(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Every n-th one, and the last; without what is no number."""
    finite = [point for point in points if math.isfinite(point[1])]
    every = max(1, math.ceil(len(finite) / _MOST_POINTS))
    return [*finite[::every], *(finite[-1:] if len(finite) % every != 1 and every > 1 else [])]
