"""The processor's speed is this machine's, and a plan's time follows from it."""

from __future__ import annotations

import builtins
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loradock_adapters.planning.device import CPU
from loradock_adapters.planning.duration import step_seconds
from loradock_adapters.planning.families import parse_shape
from loradock_adapters.planning.lora_size import lora_size
from loradock_adapters.planning.processor import timed_processor
from loradock_adapters.planning.training import Run
from loradock_adapters.planning.training_dtype import TrainingDtype
from tests.adapters.planning.test_shape import LLAMA_3_8B

MEASURED = Path(__file__).parents[3] / "loadtest/plan"
LLAMA = parse_shape(LLAMA_3_8B, name="llama")
LORA = lora_size(LLAMA, 8, ["q_proj"])


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_processor_is_timed_where_training_could_run(dtype: TrainingDtype) -> None:
    device = timed_processor(LLAMA, dtype)
    assert not device.is_gpu
    assert device.tflops is not None
    assert device.unpacked_per_second is not None
    assert 1e-4 < device.tflops < 1e3
    assert 1e5 < device.unpacked_per_second < 1e15


def test_without_what_training_needs_no_time_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = builtins.__import__

    def without(name: str, *args: Any, **more: Any) -> Any:
        if name.startswith("bitsandbytes"):
            raise ModuleNotFoundError(name)
        return usual(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    assert timed_processor(LLAMA, "float32") == CPU
    assert step_seconds(LLAMA, LORA, Run("lora", on_gpu=False), CPU) is None


def test_nf4_costs_a_processor_its_unpacking_and_half_the_speed_twice_the_time() -> None:
    fast = replace(CPU, tflops=1.0, unpacked_per_second=1e9)
    slow = replace(CPU, tflops=0.5, unpacked_per_second=0.5e9)

    def seconds(run: Run) -> tuple[float, float]:
        one, other = step_seconds(LLAMA, LORA, run, fast), step_seconds(LLAMA, LORA, run, slow)
        assert one is not None
        assert other is not None
        return one, other

    lora, qlora = Run("lora", on_gpu=False), Run("qlora", on_gpu=False)
    assert seconds(qlora)[0] - seconds(lora)[0] == pytest.approx(2 * LLAMA.linear_parameters / 1e9)
    for run in (lora, qlora, replace(qlora, checkpointing=True)):
        assert seconds(run)[1] == pytest.approx(2 * seconds(run)[0])


def test_the_recorded_steps_of_a_quiet_processor_are_met() -> None:
    recorded = json.loads((MEASURED / "cpu.json").read_text())
    shape = parse_shape(recorded["shapes"]["smollm2-135m-instruct"], name="smollm2")
    assert len(recorded["quiet"]) == 5
    for run in recorded["quiet"]:
        device = replace(CPU, tflops=run["tflops"], unpacked_per_second=run["unpacked_per_second"])
        wanted = replace(
            Run(run["method"], False, run["batch_size"], run["sequence_length"], run["checkpointing"]),
            dtype=run.get("dtype", "bfloat16"),
        )
        planned = step_seconds(shape, lora_size(shape, run["rank"], run["targets"]), wanted, device)
        assert planned == pytest.approx(run["seconds_a_step"], rel=0.1)
