"""An adapter merged into its base: the model that is left answers as the adapter did, and the right base is chosen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from loradock_adapters.base_model import BaseModel
from loradock_adapters.errors import AdapterRejected
from loradock_adapters.merging.errors import MergeError
from loradock_adapters.merging.into_base import merge_into_base
from tests.adapters.merging.conftest import MakeAdapter

IDS = torch.arange(40).reshape(2, 20)


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval().float()(input_ids=IDS).logits
    return found


def test_transformers_loads_the_folder_and_it_answers_as_the_adapter_did(
    make_adapter: MakeAdapter, tiny_base: Path, tmp_path: Path
) -> None:
    adapter = make_adapter("adapter", seed=1)
    result = merge_into_base(adapter, tiny_base, tmp_path / "merged")

    merged = AutoModelForCausalLM.from_pretrained(result.folder)
    beside = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_base), adapter)
    plain = logits(AutoModelForCausalLM.from_pretrained(tiny_base))
    moved = (logits(beside) - plain).abs().max()
    assert merged.dtype == torch.bfloat16
    assert (logits(merged) - logits(beside)).abs().max() < 0.05 * moved  # bf16 rounds what the adapter moved by
    assert AutoTokenizer.from_pretrained(result.folder).chat_template
    assert BaseModel.read(result.folder).modules == BaseModel.read(tiny_base).modules
    assert (result.trained_on, result.chosen.as_served) == ("bf16", None)


def test_an_adapter_of_an_nf4_base_is_merged_both_ways_and_the_nearer_one_is_kept(
    make_adapter: MakeAdapter, tiny_base: Path, tmp_path: Path, data: Path
) -> None:
    adapter = make_adapter("adapter", seed=1, trained_on="nf4")
    result = merge_into_base(adapter, tiny_base, tmp_path / "merged", data=data)

    gaps = {one.onto: (one.as_trained, one.as_served) for one in result.tried}
    assert gaps.keys() == {"bf16", "nf4"}
    for onto, (trained, served) in gaps.items():
        assert trained is not None
        assert served is not None
        assert trained.tokens == served.tokens > 0
        # What it was merged onto it is near to, to bf16's rounding, and NF4's is far above that.
        near, far = (trained, served) if onto == "nf4" else (served, trained)
        assert near.mean < 0.2 * far.mean
    assert (result.trained_on, result.chosen.onto) == ("nf4", "nf4")
    record = json.loads((result.folder / "merge.json").read_text())
    assert record["chosen"]["onto"] == "nf4"
    assert "quantization_config" not in json.loads((result.folder / "config.json").read_text())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "data.jsonl", "merged"]


def test_one_that_must_be_measured_and_cannot_be_is_refused_and_one_may_decide_oneself(
    make_adapter: MakeAdapter, tiny_base: Path, tmp_path: Path
) -> None:
    adapter = make_adapter("adapter", seed=1, trained_on="nf4")
    with pytest.raises(MergeError, match="must be measured"):
        merge_into_base(adapter, tiny_base, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    assert merge_into_base(adapter, tiny_base, tmp_path / "merged", onto="bf16").chosen.onto == "bf16"
    with pytest.raises(MergeError, match="exists; move it away"):
        merge_into_base(adapter, tiny_base, tmp_path / "merged", onto="bf16")


def test_what_could_not_be_served_is_not_merged_either(
    make_adapter: MakeAdapter, tiny_base: Path, tmp_path: Path
) -> None:
    adapter = make_adapter("adapter", seed=1)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    with pytest.raises(AdapterRejected):
        merge_into_base(adapter, tiny_base, tmp_path / "merged")
