"""The check, the store and the reader on what PEFT and transformers really write, for a tiny Llama."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loradock_adapters.base_model import BaseModel, LinearShape
from loradock_adapters.check import Limits, Report, check_adapter
from loradock_adapters.peft_folder import PeftFolder
from loradock_adapters.store import FolderStore

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs, about their own futures

Make = Callable[..., Path]


def tiny_llama(hidden: int = 32) -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return transformers.LlamaForCausalLM(config)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    folder = tmp_path_factory.mktemp("base") / "tiny-llama"
    tiny_llama().save_pretrained(folder)
    return BaseModel.read(folder)


@pytest.fixture
def make(tmp_path: Path, base: BaseModel) -> Make:
    def make(*, model: Any = None, trained: bool = True, dtype: Any = None, **config: Any) -> Path:
        lora = peft.LoraConfig(**{"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", **config})
        adapted = peft.get_peft_model(tiny_llama() if model is None else model, lora)
        if trained:
            with torch.no_grad():
                for name, parameter in adapted.named_parameters():
                    if "lora_B" in name:
                        parameter.normal_(std=0.02)
        if dtype is not None:
            adapted.to(dtype)
        adapted.peft_config["default"].base_model_name_or_path = f"someone/{base.name}"
        adapted.save_pretrained(tmp_path / "adapter")
        return tmp_path / "adapter"

    return make


def codes(report: Report) -> set[str]:
    return {fault.code for fault in report.faults}


def test_the_base_models_modules_are_the_models_linear_layers(base: BaseModel) -> None:
    linear = {
        name: LinearShape(module.in_features, module.out_features)
        for name, module in tiny_llama().named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    }
    assert base.modules == linear
    assert (base.architecture, base.vocab_size) == ("LlamaForCausalLM", 64)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"target_modules": "all-linear"},
        {"target_modules": r".*\.(q|down)_proj"},
        {"use_rslora": True, "lora_alpha": 16, "lora_dropout": 0.1},
        {"rank_pattern": {"q_proj": 8, r"layers\.1\.self_attn\.v_proj": 2}, "alpha_pattern": {"v_proj": 32}},
        {"layers_to_transform": [1], "layers_pattern": "layers"},
        {"exclude_modules": ["model.layers.0.self_attn.q_proj"]},
        {"target_modules": ["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"]},
        {"init_lora_weights": "gaussian"},
        {"dtype": "bfloat16"},
    ],
    ids=str,
)
def test_what_peft_saves_and_the_engine_can_serve_passes(make: Make, base: BaseModel, config: dict[str, Any]) -> None:
    if "dtype" in config:
        config = {"dtype": getattr(torch, config["dtype"])}
    report = check_adapter(make(**config), base, Limits(max_rank=8))
    assert report.faults == ()
    assert report.parameters > 0


def test_the_numbers_read_are_those_that_peft_saved(make: Make) -> None:
    adapter = PeftFolder.read(make(dtype=torch.bfloat16))
    from safetensors.torch import load_file

    saved = load_file(adapter.folder / "adapter_model.safetensors")
    assert set(saved) == set(adapter.tensors.tensors)
    for name, tensor in saved.items():
        np.testing.assert_array_equal(adapter.tensors.read(name), tensor.float().numpy())


def test_rank_alpha_and_targets_are_reported(make: Make, base: BaseModel) -> None:
    report = check_adapter(make(lora_alpha=24, rank_pattern={"v_proj": 6}), base, Limits(max_rank=8))
    assert (report.rank, report.alpha, report.target_modules) == (6, 24.0, ("q_proj", "v_proj"))
    assert math.isclose(report.parameters, 2 * (4 * (32 + 32) + 6 * (32 + 16)))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"use_dora": True}, {"dora"}),
        ({"lora_bias": True}, {"lora_bias"}),
        ({"modules_to_save": ["lm_head"]}, {"modules_to_save", "embedding"}),
        ({"trainable_token_indices": [1, 2]}, {"trainable_tokens"}),
        ({"target_modules": ["q_proj", "lm_head"]}, {"embedding"}),
        ({"target_modules": ["q_proj", "embed_tokens"]}, {"embedding"}),
        ({"init_lora_weights": "pissa"}, {"unconverted_init"}),
        ({"r": 16}, {"rank"}),
        ({"trained": False}, {"no_effect"}),
    ],
    ids=lambda value: str(sorted(value) if isinstance(value, set) else value),  # a set has no order to go by
)
def test_what_the_engine_would_get_wrong_is_refused(
    make: Make, base: BaseModel, config: dict[str, Any], expected: set[str]
) -> None:
    assert codes(check_adapter(make(**config), base, Limits(max_rank=8))) == expected


def test_an_adapter_of_a_wider_model_is_refused(make: Make, base: BaseModel) -> None:
    assert codes(check_adapter(make(model=tiny_llama(64)), base)) == {"shape"}


def test_an_adapter_of_the_bare_model_without_its_head_is_refused_with_the_right_name(
    make: Make, base: BaseModel
) -> None:
    report = check_adapter(make(model=tiny_llama().model, task_type=None), base)
    assert codes(report) == {"key_names"}
    assert "base_model.model.model.layers." in report.faults[0].limit


def test_a_stored_adapter_is_still_the_same_for_peft(make: Make, tmp_path: Path) -> None:
    adapter = PeftFolder.read(make())
    store = FolderStore(tmp_path / "store")
    blob = store.put(adapter.folder, adapter.files)
    tokens = torch.arange(8).reshape(1, 8)
    answers = []
    for folder in (adapter.folder, store.path(blob.digest)):
        model = peft.PeftModel.from_pretrained(tiny_llama(), folder)
        with torch.no_grad():
            answers.append(model(tokens).logits)
    assert torch.equal(*answers)
    with torch.no_grad():
        assert not torch.equal(answers[0], tiny_llama()(tokens).logits)
