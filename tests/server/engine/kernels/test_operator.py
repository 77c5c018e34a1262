"""The operator that stands in compiled graphs for our arithmetic."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip("torch")

import torch

from loradock_server.engine.kernels import operator


class Recorder:
    """Stands for a punica wrapper: adds one to what it is given."""

    def __init__(self, *, no_lora: bool) -> None:
        self.no_lora = no_lora
        self.shapes: list[tuple[int, ...]] = []

    def add_lora_linear(self, y: torch.Tensor, x: torch.Tensor, *_: object) -> None:
        self.shapes.append((*x.shape, *y.shape))
        y += 1


def layer(recorder: Recorder) -> SimpleNamespace:
    operator.use_python()
    made = SimpleNamespace(punica_wrapper=recorder, lora_a_stacked=(), lora_b_stacked=(), output_slices=(3,))
    operator.adopt(made)
    return made


def test_a_layer_adds_to_its_own_output_by_its_own_wrapper() -> None:
    one, other = Recorder(no_lora=False), Recorder(no_lora=False)
    layer(other)
    given = torch.zeros(2, 3)
    out = operator.apply_lora_to_output(layer(one), torch.ones(2, 4), given)
    assert out is given
    assert out.eq(1).all()
    assert one.shapes == [(2, 4, 2, 3)]
    assert other.shapes == []


def test_a_batch_without_adapters_costs_nothing() -> None:
    idle = Recorder(no_lora=True)
    assert operator.apply_lora_to_output(layer(idle), torch.ones(2, 4), torch.zeros(2, 3)).eq(0).all()
    assert idle.shapes == []


def test_a_batch_dimension_of_one_is_seen_through() -> None:
    recorder = Recorder(no_lora=False)
    assert operator.apply_lora_to_output(layer(recorder), torch.ones(1, 2, 4), torch.zeros(1, 2, 3)).eq(1).all()
    assert recorder.shapes == [(2, 4, 2, 3)]


def test_a_layout_that_no_kernel_walks_is_copied_first_or_refused() -> None:
    mine = layer(Recorder(no_lora=False))
    across = torch.zeros(3, 2).T
    out = operator.apply_lora_to_output(mine, torch.ones(4, 2).T, across)
    assert out.is_contiguous()
    assert out.eq(1).all()
    with pytest.raises(ValueError, match=r"\(2, 2, 3\)"):
        operator.apply_lora_to_output(mine, torch.ones(2, 2, 4), torch.zeros(2, 2, 3))


def test_the_operator_tells_torch_what_it_changes() -> None:
    mine = layer(Recorder(no_lora=False))
    torch.library.opcheck(operator.add_lora, (torch.zeros(2, 3), torch.ones(2, 4), mine.loradock_number))
