"""Peaks of memory: textbook sums, recorded runs, and what must grow with what."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loadtest.plan.recorded import planned_bytes
from loradock_adapters.planning.families import parse_shape
from loradock_adapters.planning.lora_size import lora_size
from loradock_adapters.planning.reading import read_shape
from loradock_adapters.planning.training import Run, training_memory
from tests.adapters.planning.test_shape import LLAMA_3_8B

MEASURED = Path(__file__).parents[3] / "loadtest/plan"
LLAMA = parse_shape(LLAMA_3_8B, name="llama")


def test_eight_billion_parameters_in_fp32_take_128_gb_before_anything_else() -> None:
    peak = training_memory(LLAMA, lora_size(LLAMA, 8, ["q_proj"]), Run("full", on_gpu=True, batch_size=1))
    billions = {what: round(peak.of(what) / 1e9) for what in ("base weights", "gradients", "optimizer")}
    assert billions == {"base weights": 32, "gradients": 32, "optimizer": 64}


@pytest.mark.parametrize(("file", "on_gpu", "runs", "error"), [("h100", True, 14, 0.05), ("cpu", False, 8, 0.15)])
def test_every_recorded_peak_is_met(file: str, on_gpu: bool, runs: int, error: float) -> None:
    """Of the GPU what its tensors took, of the CPU the whole process."""
    recorded = json.loads((MEASURED / f"{file}.json").read_text())
    shapes = {name: parse_shape(config, name=name) for name, config in recorded["shapes"].items()}
    off = {}
    for run in recorded["runs"]:
        off[json.dumps(run)] = planned_bytes(shapes[run["shape"]], run, on_gpu=on_gpu) / run["peak_bytes"] - 1
    assert len(off) == runs
    assert {run: share for run, share in off.items() if abs(share) > error} == {}


@pytest.mark.parametrize("method", ["lora", "qlora"])
@pytest.mark.parametrize("on_gpu", [True, False])
def test_more_of_anything_takes_more(method: Any, on_gpu: bool) -> None:
    few = Run(method, on_gpu, batch_size=2, sequence_length=256)
    lora = lora_size(LLAMA, 8, ["q_proj"])
    least = training_memory(LLAMA, lora, few).size_bytes
    for more in (replace(few, batch_size=4), replace(few, sequence_length=512), replace(few, dropout=True)):
        assert training_memory(LLAMA, lora, more).size_bytes > least
    for larger in (lora_size(LLAMA, 16, ["q_proj"]), lora_size(LLAMA, 8, ["q_proj", "down_proj"])):
        assert training_memory(LLAMA, larger, few).size_bytes > least
    for less in (replace(few, checkpointing=True), replace(few, optimizer="adamw-8bit")):
        assert training_memory(LLAMA, lora, less).size_bytes < least


def test_nf4_takes_about_a_quarter_of_bf16_and_double_quantisation_less_still() -> None:
    lora = lora_size(LLAMA, 8, ["q_proj"])
    plain = training_memory(LLAMA, lora, Run("lora", on_gpu=True)).of("base weights")
    double = training_memory(LLAMA, lora, Run("qlora", on_gpu=True)).of("base weights")
    single = training_memory(LLAMA, lora, Run("qlora", on_gpu=True, double_quantization=False)).of("base weights")
    assert double < single < 0.4 * plain  # embeddings and head stay in bf16


def test_the_config_of_the_bundled_base_is_readable_if_it_is_here() -> None:
    folder = Path(__file__).parents[3] / "var/base/smollm2-135m-instruct"
    if not folder.is_dir():
        pytest.skip("the base model was not fetched")
    assert read_shape(folder).parameters == 134_515_008
