"""What a start is doing, from the lines that vLLM and we write, and the times that are remembered of it."""

from __future__ import annotations

from pathlib import Path

from loradock_adapters.processor import Processor
from loradock_server.engine.start_phases import (
    COMPILING,
    MOST_KNOWN,
    PHASES,
    PhaseWatch,
    StartTimes,
    announced,
    configuration,
    lasting,
)
from tests.server.engine.test_supervisor import order as order  # the fixture

LOG = (
    (0.0, b"Triton is installed\n"),
    (10.0, b"(Worker pid=2) INFO 12-01 03:00:00 [cpu_model_runner.py:68] Starting to load mod"),
    (10.5, b"el /models/tiny...\n"),
    (12.0, b"[default_loader.py:501] Loading weights took 0.01 seconds\n"),
    (60.0, b"INFO loradock.engine: self-test begins\n"),
    (64.0, b"self-test passed\nINFO loradock.engine: serving on unix:/e.sock\n"),
)


def test_phases_begin_at_their_marks_and_take_the_time_between_them() -> None:
    watch = PhaseWatch()
    began = [phase.name for now, data in LOG for phase in watch.feed(data, now)]
    assert began == ["weights", "model", "self-test"]
    assert watch.served
    assert watch.seconds == {"libraries": 10.5, "weights": 1.5, "model": 48.0, "self-test": 4.0}


def test_times_are_remembered_by_configuration_and_never_without_bound(tmp_path: Path) -> None:
    times = StartTimes(tmp_path / "cache" / "start-times.json")
    assert times.last("a") == {}
    for number in range(MOST_KNOWN + 5):
        times.remember(f"key-{number}", {"libraries": number})
    times.remember("a", {"libraries": 10.04, "model": 48.0})
    assert times.last("a") == {"libraries": 10.0, "model": 48.0}
    assert times.last("key-0") == {}
    times.file.write_text("{ not JSON")
    assert times.last("a") == {}


def test_a_time_is_said_only_where_it_was_measured_here() -> None:
    model = next(phase for phase in PHASES if phase.name == "model")
    assert announced(model, {}, {}, compiles=True) == COMPILING
    assert "about 42 s" in announced(model, {}, {"libraries": 20.0}, compiles=True)
    assert announced(model, {}, {"libraries": 20.0}, compiles=False) == model.words
    assert (
        announced(model, {"model": 7.4}, {"libraries": 20.0}, compiles=True) == f"{model.words} (7 s at the last start)"
    )


def test_the_time_of_the_start_that_compiled_is_none_for_the_next_one() -> None:
    seconds = {"libraries": 10.0, "model": 48.0}
    assert lasting(seconds, compiled=True) == {"libraries": 10.0}
    assert lasting(seconds, compiled=False) == seconds


def test_another_processor_or_length_is_another_configuration(order) -> None:  # type: ignore[no-untyped-def]
    from dataclasses import replace

    here, there = Processor("a", frozenset()), Processor("b", frozenset())
    keys = {configuration(order, here), configuration(order, there), configuration(replace(order, max_rank=9), here)}
    assert len(keys) == 3
