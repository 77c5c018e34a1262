"""The kernel that torch calls without Python, by an operator of its own with the same schema."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("numba")

from loradock_server.engine.kernels.choice import LAYOUTS, Way  # noqa: E402
from loradock_server.engine.kernels.segments import Segment  # noqa: E402
from loradock_server.engine.kernels.slots import LayerSlots, pack  # noqa: E402
from tests.server.engine.kernels.ways import HERE, compiled, needs, run_compiled  # noqa: E402

if HERE.level == "none":
    pytest.skip(f"needs avx2: {HERE.name}", allow_module_level=True)

from loradock_server.engine.kernels import native  # noqa: E402

FEATURES, WIDTHS, RANKS = 64, (32, 16), (16, 5)  # RANKS: by slot
EIGHT_ROWS = np.array([[0, 3, 1], [3, 4, 0], [6, 8, 1]], dtype=np.int64)  # rows 4 and 5 are the base's
NOTHING = np.empty((0, 3), dtype=np.int64)


@pytest.fixture(scope="module", params=[pytest.param("paired", marks=needs("avx512-bf16")), "wide"])
def way(request: pytest.FixtureRequest) -> Way:
    chosen: Way = request.param
    return chosen


def make_layer(seed: int, way: Way) -> LayerSlots:
    torch.manual_seed(seed)
    layer = LayerSlots(len(RANKS), FEATURES, WIDTHS)
    for slot, rank in enumerate(RANKS):
        a = [torch.randn(rank, FEATURES).bfloat16() for _ in WIDTHS]
        layer.put(slot, pack(a, [torch.randn(width, rank).bfloat16() for width in WIDTHS], layout=LAYOUTS[way]))
    return layer


@pytest.fixture(scope="module")
def layers(way: Way) -> list[LayerSlots]:
    return [make_layer(0, way), make_layer(1, way)]


@pytest.fixture(scope="module")
def steps(layers: list[LayerSlots], way: Way) -> list[native.Step]:
    room = compiled(way, torch.bfloat16)[1]
    return [native.Step(room), native.Step(room, threads=3)]


def kernel(layers: list[tuple[LayerSlots, native.Step]], way: Way) -> Any:
    return native.make_kernel(layers, compiled(way, torch.bfloat16)[0], 2)


@pytest.fixture(scope="module")
def operator(layers: list[LayerSlots], steps: list[native.Step], way: Way) -> Iterator[Callable[..., None]]:
    library = torch.library.Library("loradock_test", "DEF")
    library.define("add_lora(Tensor(a!) y, Tensor x, int number) -> ()")
    native.register("loradock_test::add_lora", kernel(list(zip(layers, steps, strict=True)), way))
    yield torch.ops.loradock_test.add_lora.default
    library._destroy()


def tensors() -> tuple[Any, Any]:
    torch.manual_seed(2)
    return torch.randn(8, FEATURES).bfloat16(), torch.randn(8, sum(WIDTHS)).bfloat16()


def directly(x: Any, y: Any, layer: LayerSlots, way: Way) -> Any:
    expected = y.clone()
    run_compiled(way, expected, x, layer, [Segment(*row) for row in EIGHT_ROWS.tolist()])
    return expected


def test_each_number_is_its_own_layer_and_adds_what_the_kernel_adds(
    layers: list[LayerSlots], steps: list[native.Step], operator: Callable[..., None], way: Way
) -> None:
    """The second one divides its rows among threads."""
    for number, (layer, step) in enumerate(zip(layers, steps, strict=True)):
        x, y = tensors()
        expected = directly(x, y, layer, way)
        assert not torch.equal(expected, y)
        step.begin(EIGHT_ROWS)
        operator(y, x, number)
        assert torch.equal(y, expected)


def test_a_layer_belongs_to_one_step_and_steps_without_adapters_touch_nothing(
    steps: list[native.Step], operator: Callable[..., None]
) -> None:
    steps[0].begin(NOTHING)
    steps[1].begin(EIGHT_ROWS)
    x, y = tensors()
    before = y.clone()
    operator(y, x, 0)
    assert torch.equal(y, before)
    operator(y, x, 1)
    assert not torch.equal(y, before)


def test_rows_that_lie_apart_and_a_batch_dimension_of_one_are_walked(
    layers: list[LayerSlots], steps: list[native.Step], operator: Callable[..., None], way: Way
) -> None:
    x, y = tensors()
    expected = directly(x, y, layers[0], way)
    wide_x, wide_y = torch.zeros(1, 8, FEATURES + 24).bfloat16(), torch.zeros(1, 8, sum(WIDTHS) + 8).bfloat16()
    wide_x[0, :, :FEATURES], wide_y[0, :, : sum(WIDTHS)] = x, y
    steps[0].begin(EIGHT_ROWS)
    operator(wide_y[..., : sum(WIDTHS)], wide_x[..., :FEATURES], 0)
    assert torch.equal(wide_y[0, :, : sum(WIDTHS)], expected)
    assert not wide_y[..., sum(WIDTHS) :].any()


@pytest.mark.parametrize("odd", ["columns apart", "two batches"])
def test_what_it_cannot_walk_stays_untouched_and_the_next_step_says_so(
    odd: str, layers: list[LayerSlots], way: Way
) -> None:
    step = native.Step(compiled(way, torch.bfloat16)[1])
    library = torch.library.Library("loradock_odd", "DEF")
    library.define("add_lora(Tensor(a!) y, Tensor x, int number) -> ()")
    native.register("loradock_odd::add_lora", kernel([(layers[0], step)], way))
    x, y = tensors()
    y = y.T.contiguous().T if odd == "columns apart" else y.reshape(2, 4, -1)
    before = y.clone()
    step.begin(EIGHT_ROWS)
    torch.ops.loradock_odd.add_lora.default(y, x, 0)
    assert torch.equal(y, before)
    with pytest.raises(RuntimeError, match="without its LoRA deltas"):
        step.begin(EIGHT_ROWS)
    library._destroy()


def test_what_torch_hands_over_is_given_back(steps: list[native.Step], operator: Callable[..., None]) -> None:
    steps[0].begin(EIGHT_ROWS)
    arrays = [np.zeros((8, FEATURES), dtype=np.uint16), np.zeros((8, sum(WIDTHS)), dtype=np.uint16)]
    alive = [weakref.ref(array) for array in arrays]
    x, y = (torch.from_numpy(array).view(torch.bfloat16) for array in arrays)
    del arrays
    for _ in range(10):
        operator(y, x, 0)
    assert [array() is None for array in alive] == [False, False]
    del x, y
    assert [array() is None for array in alive] == [True, True]


def test_a_name_that_torch_does_not_know_is_an_error(
    layers: list[LayerSlots], steps: list[native.Step], way: Way
) -> None:
    with pytest.raises(RuntimeError, match="did not take"):
        native.register("loradock::", kernel([(layers[0], steps[0])], way))
