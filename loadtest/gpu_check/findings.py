"""What a check found, step by step, and the report of it in Markdown and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from time import monotonic
from typing import Any

Figure = float | int | str


@dataclass(slots=True)
class Step:
    """One thing that was checked. `problem`: why it failed, else empty; `skipped`: why it was not done, else empty."""

    name: str
    what: str
    figures: dict[str, Figure] = field(default_factory=dict)
    problem: str = ""
    skipped: str = ""
    seconds: float = 0.0

    @property
    def verdict(self) -> str:
        return "FAIL" if self.problem else "SKIPPED" if self.skipped else "PASS"

    def must(self, holds: bool, problem: str) -> None:
        """Note the first thing that does not hold."""
        if not holds and not self.problem:
            self.problem = problem

    def line(self) -> str:
        """Its verdict and figures, for a terminal."""
        shown = ", ".join(f"{name} {shown_figure(value)}" for name, value in self.figures.items())
        return " · ".join(
            part for part in (f"{self.verdict:7} {self.name}", shown, self.problem or self.skipped) if part
        )


@dataclass(slots=True)
class Findings:
    """All steps of a run, on what machine, and with what."""

    about: dict[str, Figure]
    say: Callable[[str], None]
    steps: list[Step] = field(default_factory=list)
    table: str = ""

    @property
    def passed(self) -> bool:
        """Whether something was checked and nothing failed."""
        return bool(self.steps) and not any(step.problem for step in self.steps)

    @contextmanager
    def step(self, name: str, what: str) -> Iterator[Step]:
        """A step for the block; an exception there is its failure, and the steps after it are still taken."""
        step = Step(name, what)
        self.steps.append(step)
        self.say(f"        {name}: {what}")
        began = monotonic()
        try:
            yield step
        except Exception as error:  # noqa: BLE001  # the boundary: whatever it is, the report says it
            step.problem = f"{type(error).__name__}: {str(error)[-2000:]}"
        step.seconds = monotonic() - began
        self.say(step.line())

    def as_json(self) -> dict[str, Any]:
        return {
            "passed": self.passed,
            "about": self.about,
            "steps": [
                {"verdict": step.verdict, **asdict(step), "figures": _finite(step.figures)} for step in self.steps
            ],
        }

    def as_markdown(self) -> str:
        lines = [f"# LoRADock on this machine: {'PASS' if self.passed else 'FAIL'}", "", "| | |", "|---|---|"]
        lines += [f"| {name} | {shown_figure(value)} |" for name, value in self.about.items()]
        lines += ["", "| step | verdict | figures | seconds |", "|---|---|---|---|"]
        for step in self.steps:
            shown = "; ".join(f"{name} {shown_figure(value)}" for name, value in step.figures.items())
            lines.append(f"| {step.name}: {step.what} | **{step.verdict}** | {shown} | {step.seconds:.0f} |")
        for step in self.steps:
            if step.problem or step.skipped:
                lines += ["", f"**{step.name}**: {step.problem or step.skipped}"]
        return "\n".join([*lines, *(("", self.table) if self.table else ())]) + "\n"

    def write(self, folder: Path) -> Path:
        """report.md and report.json in `folder`; returns the former's path."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.json").write_text(json.dumps(self.as_json(), indent=2) + "\n", encoding="utf-8")
        path = folder / "report.md"
        path.write_text(self.as_markdown(), encoding="utf-8")
        return path


def _finite(figures: dict[str, Figure]) -> dict[str, Figure]:
    """JSON has no infinity, which is how far answers are apart that share no likely token."""
    return {
        name: value if not isinstance(value, float) or isfinite(value) else str(value)
        for name, value in figures.items()
    }


def shown_figure(value: Figure) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
