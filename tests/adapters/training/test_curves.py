"""What is seen of a run while it goes on: sparklines, the page, speed and the time that is left, the log."""

from __future__ import annotations

import io
import json
import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from rich.console import Console

from loradock_adapters.training.errors import TrainingError
from loradock_adapters.training.log import TrainingLog, read_log
from loradock_adapters.training.losses import Course, LossPoint, Step
from loradock_adapters.training.pace import Pace, span
from loradock_adapters.training.page import LivePage, write_page
from loradock_adapters.training.progress import Lines, LiveCurves
from loradock_adapters.training.sparkline import sparkline


def step(number: int, loss: float = 1.0, seconds: float = 2.0) -> Step:
    return Step(number, loss, 1e-4, 0.5, tokens=100, seconds=seconds)


def test_a_sparkline_falls_as_the_values_do() -> None:
    assert sparkline([8, 7, 6, 5, 4, 3, 2, 1], 8) == "█▇▆▅▄▃▂▁"
    assert sparkline(list(range(100, 0, -1)), 4) == "█▆▃▁"
    assert sparkline([1.0, 1.0], 8) == "▁▁"
    assert sparkline([1.0, math.nan, 0.0], 8) == "█x▁"
    assert sparkline([math.inf], 8) == "x"
    assert sparkline([], 8) == ""


def test_speed_is_that_of_the_latest_steps_without_the_first() -> None:
    pace = Pace()
    pace.stepped(step(1, seconds=60.0))
    assert pace.seconds_a_step == 60.0

    for number in range(2, 12):
        pace.stepped(step(number))

    assert (pace.seconds_a_step, pace.tokens_per_second) == (2.0, 50.0)
    assert pace.remaining_seconds(total_steps=111) == 200.0


@pytest.mark.parametrize(("seconds", "said"), [(4, "4 s"), (99, "99 s"), (300, "5 min"), (9000, "2.5 h")])
def test_times_are_said_as_people_say_them(seconds: float, said: str) -> None:
    assert span(seconds) == said


def test_without_a_terminal_there_is_a_line_now_and_then() -> None:
    now = 0.0
    said: list[str] = []
    lines = Lines(said.append, clock=lambda: now)
    lines.phase("training")
    for number in range(1, 101):
        now += 2.0
        lines.stepped(step(number), 100)
    lines.evaluated(LossPoint(100, 0.5))

    assert said[0] == "training"
    assert said[1] == "step 4 of 100: loss 1.000, 2.00 s a step, 50 tokens/s, 3 min left"
    assert len(said) == 10  # one soon, one every 30 s, the last step, the evaluation
    assert said[-2:] == [
        "step 100 of 100: loss 1.000, 2.00 s a step, 50 tokens/s, 0 s left",
        "step 100: held-out loss 0.500",
    ]


def test_a_terminal_shows_both_curves_and_is_given_back() -> None:
    screen = io.StringIO()
    with LiveCurves(Console(file=screen, force_terminal=True, width=100)) as curves:
        curves.evaluated(LossPoint(0, 4.0))
        for number in range(1, 31):
            curves.stepped(step(number, loss=4.0 - 0.1 * number), 30)
        curves.evaluated(LossPoint(30, 1.0))
    shown = screen.getvalue()

    assert "train" in shown
    assert "held-out" in shown
    assert "30/30" in shown
    assert "2.00 s a step, 50 tokens/s" in shown
    assert shown.rstrip().endswith("\x1b[?25h")  # the cursor


def svg_of(path: Path) -> ElementTree.Element:
    text = path.read_text()
    return ElementTree.fromstring(text[text.index("<svg") : text.index("</svg>") + 6])


def test_the_page_needs_nothing_from_elsewhere_and_draws_every_evaluation(tmp_path: Path) -> None:
    course = Course(tuple(step(n, 3.0 / n) for n in range(1, 2001)), (LossPoint(0, 3.0), LossPoint(2000, 0.4)))
    write_page(tmp_path / "loss.html", "<b>name</b>", course, state="done")
    text = (tmp_path / "loss.html").read_text()

    assert "<b>name" not in text
    assert "http" not in text.replace("http-equiv", "")
    assert "<script" not in text
    assert "prefers-color-scheme: dark" in text
    assert "http-equiv" not in text
    drawn = svg_of(tmp_path / "loss.html")
    lines = {line.attrib["class"]: line.attrib["points"].split() for line in drawn.iter("polyline")}
    assert len(lines["line held"]) == len(list(drawn.iter("circle"))) == 2
    assert 600 < len(lines["line train"]) <= 801
    assert len(text) < 60_000


@pytest.mark.parametrize("course", [Course(), Course((step(1, math.nan),), (LossPoint(0, math.inf),))])
def test_a_page_of_nothing_or_of_no_numbers_is_a_page(tmp_path: Path, course: Course) -> None:
    write_page(tmp_path / "loss.html", "name", course, state="")

    assert svg_of(tmp_path / "loss.html").tag == "svg"


def test_a_live_page_is_rewritten_in_time_and_reloads_itself(tmp_path: Path) -> None:
    now = 0.0
    page = LivePage(tmp_path / "loss.html", "name", Course(), clock=lambda: now)
    page.stepped(step(1), 10)
    first = (tmp_path / "loss.html").read_text()
    page.stepped(step(2), 10)
    assert (tmp_path / "loss.html").read_text() == first
    now = 3.0
    page.stepped(step(3), 10)

    text = (tmp_path / "loss.html").read_text()
    assert "step 3 of 10, 2.00 s a step, 50 tokens/s, 14 s left" in text
    assert 'http-equiv="refresh"' in text
    assert [path.name for path in tmp_path.iterdir()] == ["loss.html"]


def test_a_log_is_read_up_to_the_line_that_a_kill_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    with TrainingLog(path) as log:
        log.evaluated(LossPoint(0, 2.0))
        for number in (1, 2, 3):
            log.stepped(step(number, loss=1 / 3))
        log.evaluated(LossPoint(3, 1.5))
    with path.open("a") as file:
        file.write('{"step": 4, "lo')

    assert read_log(path) == log.course
    assert log.course.tokens == 300

    with TrainingLog(path, after=2) as again:
        assert again.course == log.course.until(2)
        again.stepped(step(3, loss=0.5))
    numbers = [json.loads(line)["step"] for line in path.read_text().splitlines()]
    assert numbers == [0, 1, 2, 3]
    assert read_log(path).losses.train[-1].loss == 0.5


def test_a_log_that_is_gone_cannot_be_gone_on_with(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"cannot read .*train\.jsonl.*--restart"):
        TrainingLog(tmp_path / "train.jsonl", after=2)
