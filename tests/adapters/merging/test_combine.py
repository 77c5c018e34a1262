"""Several adapters made into one: what PEFT's methods give, what is refused, and that it is an adapter as any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from loradock_adapters.base_model import BaseModel
from loradock_adapters.check import Limits, check_adapter
from loradock_adapters.merging.combine import Part, combine
from loradock_adapters.merging.errors import MergeError
from tests.adapters.merging.conftest import MakeAdapter

MODULE = "base_model.model.model.layers.0.self_attn.q_proj"


def effect(folder: Path, scale: float) -> torch.Tensor:
    """What the adapter adds to one module's weights."""
    tensors = load_file(folder / "adapter_model.safetensors")
    return scale * tensors[f"{MODULE}.lora_B.weight"].float() @ tensors[f"{MODULE}.lora_A.weight"].float()


def test_cat_is_the_exact_weighted_sum_and_its_rank_the_sum_of_ranks(
    make_adapter: MakeAdapter, tiny_base: Path, tmp_path: Path
) -> None:
    one, other = make_adapter("one", seed=1, rank=4), make_adapter("other", seed=2, rank=2)
    facts = combine([Part(one, 0.7), Part(other, -0.3)], tiny_base, tmp_path / "both", method="cat")

    wanted = 0.7 * effect(one, 2.0) - 0.3 * effect(other, 2.0)
    found = effect(tmp_path / "both", facts.alpha / facts.rank)
    assert facts.rank == 6
    assert (found - wanted).abs().max() < 0.01 * wanted.abs().max()  # bf16
    assert check_adapter(tmp_path / "both", BaseModel.read(tiny_base), Limits()).ok


@pytest.mark.parametrize("method", ["linear", "ties", "dare_linear", "dare_ties"])
def test_the_others_keep_the_rank_and_give_the_same_for_the_same_seed(
    make_adapter: MakeAdapter, tiny_base: Path, tmp_path: Path, method: Any
) -> None:
    parts = [Part(make_adapter("one", seed=1)), Part(make_adapter("other", seed=2), 0.5)]
    first, second = (combine(parts, tiny_base, tmp_path / name, method=method) for name in ("a", "b"))
    assert first.rank == 4
    assert first == second
    assert check_adapter(tmp_path / "a", BaseModel.read(tiny_base), Limits()).ok


@pytest.mark.parametrize(
    ("weights", "options", "said"),
    [
        ([1.0], {}, "one adapter alone"),
        ([1.0, 0.0], {}, r"a weight is 0\.0"),
        ([1.0, float("nan")], {}, "a weight is nan"),
        ([1.0, 1.0], {"density": 0.0, "method": "ties"}, r"the density is 0\.0"),
        ([1.0, 1.0], {"method": "linear"}, "ranks 4, 2; linear takes adapters of one rank"),
    ],
)
def test_what_makes_no_sense_is_refused_and_leaves_nothing(
    make_adapter: MakeAdapter, tiny_base: Path, tmp_path: Path, weights: list[float], options: Any, said: str
) -> None:
    folders = [make_adapter("one", seed=1, rank=4), make_adapter("other", seed=2, rank=2)]
    parts = [Part(folder, weight) for folder, weight in zip(folders, weights, strict=False)]
    with pytest.raises(MergeError, match=said):
        combine(parts, tiny_base, tmp_path / "both", **{"method": "cat", **options})
    assert not (tmp_path / "both").exists()
