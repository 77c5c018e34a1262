"""How fast a run goes, measured on its latest steps, and so how long the rest takes. Plain numbers."""

from __future__ import annotations

from collections import deque

from loradock_adapters.training.losses import Step

_WINDOW = 20  # steps; lengths of examples vary


class Pace:
    """Fed with every step. The first one of a process warms caches up and is left out as soon as there is another."""

    def __init__(self) -> None:
        self._latest: deque[Step] = deque(maxlen=_WINDOW)
        self._warm = False

    def stepped(self, step: Step) -> None:
        if len(self._latest) == 1 and not self._warm:
            self._latest.clear()
            self._warm = True
        self._latest.append(step)

    @property
    def seconds_a_step(self) -> float:
        """0 before the first step."""
        return sum(step.seconds for step in self._latest) / len(self._latest) if self._latest else 0.0

    @property
    def tokens_per_second(self) -> float:
        seconds = sum(step.seconds for step in self._latest)
        return sum(step.tokens for step in self._latest) / seconds if seconds else 0.0

    def remaining_seconds(self, total_steps: int) -> float:
        """For the steps that are left; evaluations come on top."""
        return (total_steps - self._latest[-1].step) * self.seconds_a_step if self._latest else 0.0


def span(seconds: float) -> str:
    """A length of time as people say it: `45 s`, `12 min`, `3.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
