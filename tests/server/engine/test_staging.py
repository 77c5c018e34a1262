"""An adapter laid out for the kernels, and what another process finds there."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from safetensors.torch import save_file

from loradock_adapters.errors import AdapterUnreadable
from loradock_server.engine.kernels.slots import Layout, Packed, pack
from loradock_server.engine.staging import Layer, Plan, Slice, stage, unstage

QKV = Layer("layers.0.qkv", 24, (Slice("layers.0.q", 48), Slice("layers.0.k", 16), Slice("layers.0.v", 16)))
DOWN = Layer("layers.0.down", 72, (Slice("layers.0.down", 32),))
PLAN = Plan((QKV, DOWN), torch.float32, "plain")


def tensors_of(ranks: dict[str, int], dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    made = torch.Generator().manual_seed(0)
    found = {}
    for layer in (QKV, DOWN):
        for one in layer.slices:
            if rank := ranks.get(one.module):
                a, b = torch.randn(rank, layer.features, generator=made), torch.randn(one.width, rank, generator=made)
                found[f"base_model.model.{one.module}.lora_A.weight"] = a.to(dtype)
                found[f"base_model.model.{one.module}.lora_B.weight"] = b.to(dtype)
    return found


def saved(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder / "adapter_model.safetensors"


def same(one: Packed | None, other: Packed | None) -> bool:
    assert one is not None
    assert other is not None
    return (
        one.scales == other.scales
        and torch.equal(one.a, other.a)
        and all(
            (x is None and y is None) or (x is not None and y is not None and torch.equal(x, y))
            for x, y in zip(one.b, other.b, strict=True)
        )
    )


@pytest.mark.parametrize("kept_as", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("dtype", "layout"),
    [
        (torch.float32, "plain"),
        (torch.bfloat16, "plain"),
        (torch.bfloat16, "paired"),
        (torch.float32, "lines"),
        (torch.bfloat16, "lines"),
    ],
    ids=str,
)
def test_each_layer_comes_out_as_if_it_had_been_packed_in_place(
    tmp_path: Path, dtype: torch.dtype, layout: Layout, kept_as: torch.dtype
) -> None:
    tensors = tensors_of({"layers.0.q": 3, "layers.0.v": 16, "layers.0.down": 5}, kept_as)
    scales = {"layers.0.q": 0.3, "layers.0.v": 2.0, "layers.0.down": 1.0}

    staged = stage(saved(tmp_path, tensors), replace(PLAN, dtype=dtype, layout=layout), lambda module: scales[module])
    found = unstage(staged.path)
    staged.close()  # what was mapped stays

    def expected(layer: Layer) -> Packed | None:
        halves = [
            (tensors.get(f"base_model.model.{m}.lora_A.weight"), tensors.get(f"base_model.model.{m}.lora_B.weight"))
            for m in (one.module for one in layer.slices)
        ]
        factors = [scales.get(one.module, 1.0) for one in layer.slices]
        if layout == "lines":  # as they are in 16 bits, with the scale beside them
            kept = kept_as if kept_as.itemsize == 2 else dtype
            a, b = ([None if half is None else half.to(kept) for half in side] for side in zip(*halves, strict=True))
            return pack(a, b, layout=layout, scales=factors)
        return pack(
            [None if a is None else a.to(dtype) for a, _ in halves],
            [None if b is None else (b.float() * f).to(dtype) for (_, b), f in zip(halves, factors, strict=True)],
            layout=layout,
        )

    assert found.keys() == {QKV.name, DOWN.name}
    assert same(found[QKV.name], expected(QKV))
    assert same(found[DOWN.name], expected(DOWN))
    for packed in found.values():
        views = [packed.a, *(b for b in packed.b if b is not None)]
        assert [view.data_ptr() % 64 for view in views] == [0] * len(views)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_layer_of_several_types_is_kept_in_the_one_that_holds_all(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = tensors_of({"layers.0.q": 3, "layers.0.k": 2, "layers.0.down": 2}, torch.bfloat16)
    tensors |= {name: x.half() for name, x in tensors.items() if ".k." in name}
    staged = stage(saved(tmp_path, tensors), replace(PLAN, dtype=dtype, layout="lines"), lambda module: 0.7)
    found = unstage(staged.path)
    staged.close()
    assert found[QKV.name].a.dtype == torch.float32
    assert found[DOWN.name].a.dtype == torch.bfloat16
    # Lines of 16 ranks: the fourth and fifth are those of k.
    exact = tensors["base_model.model.layers.0.k.lora_A.weight"].float()
    assert torch.equal(found[QKV.name].a[0, :, 3:5].T, exact)


def test_a_layer_that_the_adapter_leaves_alone_is_not_there(tmp_path: Path) -> None:
    staged = stage(saved(tmp_path, tensors_of({"layers.0.k": 2})), PLAN, lambda module: 1.0)
    found = unstage(staged.path)
    assert list(found) == [QKV.name]
    assert [b is None for b in found[QKV.name].b] == [True, False, True]
    staged.close()


def _rows_seen(path: Path) -> int:
    return int(unstage(path)[QKV.name].a.shape[0])


def test_another_process_of_this_user_reads_it_and_none_can_change_or_cut_it(tmp_path: Path) -> None:
    staged = stage(saved(tmp_path, tensors_of({"layers.0.q": 7})), PLAN, lambda module: 1.0)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_rows_seen, (staged.path,)) == 7
    with staged.path.open("r+b") as file:
        with pytest.raises(PermissionError):
            os.pwrite(file.fileno(), b"x", 100)
        with pytest.raises(PermissionError):
            os.ftruncate(file.fileno(), 10)
    path = staged.path
    staged.close()
    staged.close()
    assert not path.exists()


def test_what_does_not_fit_the_layers_is_refused_by_name(tmp_path: Path) -> None:
    def refused(tensors: dict[str, torch.Tensor], said: str) -> None:
        with pytest.raises(ValueError, match=said):
            stage(saved(tmp_path, tensors), PLAN, lambda module: 1.0)

    good = tensors_of({"layers.0.q": 4})
    a, b = good
    refused(good | {"base_model.model.layers.9.q.lora_A.weight": torch.ones(4, 24)}, r"layers\.9\.q.* no layer")
    refused(good | {a: torch.ones(4, 25)}, r"layers\.0\.q: lora_A has shape \(4, 25\), \(rank, 24\) fits")
    refused(good | {b: torch.ones(48, 5)}, r"layers\.0\.q: lora_B has shape \(48, 5\), \(48, 4\) fits")
    refused({a: good[a]}, r"lora_B is missing")
    refused({b: good[b]}, r"lora_A is missing")


def test_a_file_that_is_no_safetensors_file_leaves_no_memory_behind(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"nonsense" * 9)
    gc.collect()  # which closes what earlier tests left, or does it later
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(AdapterUnreadable):
        stage(tmp_path / "x", PLAN, lambda module: 1.0)
    path = saved(tmp_path, tensors_of({"layers.0.q": 4}))
    scales: dict[str, float] = {}
    with pytest.raises(KeyError):
        stage(path, PLAN, lambda module: scales[module])
    assert set(os.listdir("/proc/self/fd")) <= before


def test_a_plan_survives_the_wire() -> None:
    wired = json.loads(json.dumps(PLAN.to_plain()))
    assert Plan.from_plain(wired) == PLAN
