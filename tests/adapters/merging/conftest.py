"""Adapters of the tiny Llama of the training tests, made by PEFT itself with numbers that act."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from loradock_adapters.training.export import write_adapter
from tests.adapters.training.conftest import one_thread, tiny_base

__all__ = ["one_thread", "tiny_base"]

RECIPE = 'name = "made"\nbase = "a/b"\n[data]\ntrain = "x"\n[quantization]\ntype = "{}"\n'
MakeAdapter = Callable[..., Path]


@pytest.fixture
def make_adapter(tiny_base: Path, tmp_path: Path) -> MakeAdapter:
    """A new adapter folder; `trained_on` is what its manifest says."""

    def make(name: str, *, seed: int, rank: int = 4, trained_on: str | None = None) -> Path:
        torch.manual_seed(seed)
        base = AutoModelForCausalLM.from_pretrained(tiny_base)
        config = LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=2 * rank, target_modules=["q_proj", "down_proj"])
        model = get_peft_model(base, config)
        for parameter_name, parameter in model.named_parameters():
            if "lora_B" in parameter_name:
                torch.nn.init.normal_(parameter, std=0.2)
        write_adapter(model, tmp_path / name, base_name="a/b")
        if trained_on is not None:
            manifest = {"recipe": {"text": RECIPE.format(trained_on)}}
            (tmp_path / name / "manifest.json").write_text(json.dumps(manifest))
        return tmp_path / name

    return make


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [{"prompt": f"question {n}", "completion": f"answer {n * 7}"} for n in range(6)]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path / "data.jsonl"
