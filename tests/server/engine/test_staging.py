"""An adapter laid out for the kernels, and what another process finds there."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from safetensors.torch import save_file

from loradock_adapters.errors import AdapterUnreadable
from loradock_server.engine.kernels.slots import Packed, pack
from loradock_server.engine.staging import Layer, Slice, layers_from_plain, layers_to_plain, stage, unstage

QKV = Layer("layers.0.qkv", 24, (Slice("layers.0.q", 40), Slice("layers.0.k", 8), Slice("layers.0.v", 8)))
DOWN = Layer("layers.0.down", 72, (Slice("layers.0.down", 24),))
SHAPES = {layer.name: (layer.features, [one.width for one in layer.slices]) for layer in (QKV, DOWN)}


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
    return torch.equal(one.a, other.a) and all(
        (x is None and y is None) or (x is not None and y is not None and torch.equal(x, y))
        for x, y in zip(one.b, other.b, strict=True)
    )


@pytest.mark.parametrize("kept_as", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_each_layer_comes_out_as_if_it_had_been_packed_in_place(
    tmp_path: Path, dtype: torch.dtype, kept_as: torch.dtype
) -> None:
    tensors = tensors_of({"layers.0.q": 3, "layers.0.v": 16, "layers.0.down": 5}, kept_as)
    scales = {"layers.0.q": 0.3, "layers.0.v": 2.0, "layers.0.down": 1.0}

    staged = stage(saved(tmp_path, tensors), (QKV, DOWN), lambda module: scales[module], dtype)
    found = unstage(staged.path, SHAPES, dtype)
    staged.close()  # what was mapped stays

    def expected(layer: Layer) -> Packed | None:
        halves = [
            (tensors.get(f"base_model.model.{m}.lora_A.weight"), tensors.get(f"base_model.model.{m}.lora_B.weight"))
            for m in (one.module for one in layer.slices)
        ]
        factors = [scales.get(one.module, 1.0) for one in layer.slices]
        return pack(
            [None if a is None else a.to(dtype) for a, _ in halves],
            [None if b is None else (b.float() * f).to(dtype) for (_, b), f in zip(halves, factors, strict=True)],
        )

    assert found.keys() == SHAPES.keys()
    assert same(found[QKV.name], expected(QKV))
    assert same(found[DOWN.name], expected(DOWN))
    assert all(
        view.data_ptr() % 64 == 0 for packed in found.values() for view in (packed.a, packed.b[0]) if view.numel()
    )


def test_a_layer_that_the_adapter_leaves_alone_is_not_there(tmp_path: Path) -> None:
    staged = stage(saved(tmp_path, tensors_of({"layers.0.k": 2})), (QKV, DOWN), lambda module: 1.0, torch.float32)
    found = unstage(staged.path, SHAPES, torch.float32)
    assert list(found) == [QKV.name]
    assert [b is None for b in found[QKV.name].b] == [True, False, True]
    staged.close()


def _rows_seen(path: Path) -> int:
    return int(unstage(path, SHAPES, torch.float32)[QKV.name].a.shape[0])


def test_another_process_of_this_user_reads_it_and_none_can_change_or_cut_it(tmp_path: Path) -> None:
    staged = stage(saved(tmp_path, tensors_of({"layers.0.q": 7})), (QKV, DOWN), lambda module: 1.0, torch.float32)
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
            stage(saved(tmp_path, tensors), (QKV, DOWN), lambda module: 1.0, torch.float32)

    good = tensors_of({"layers.0.q": 4})
    a, b = good
    refused(good | {"base_model.model.layers.9.q.lora_A.weight": torch.ones(4, 24)}, r"layers\.9\.q.* no layer")
    refused(good | {a: torch.ones(4, 25)}, r"does not fit 24 inputs")
    refused(good | {b: torch.ones(40, 5)}, r"layers\.0\.q: lora_B has shape \(40, 5\), \(40, 4\) fits")
    refused({a: good[a]}, r"lora_B is missing")
    refused({b: good[b]}, r"no layer")


def test_a_file_that_is_no_safetensors_file_leaves_no_memory_behind(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"nonsense" * 9)
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(AdapterUnreadable):
        stage(tmp_path / "x", (QKV,), lambda module: 1.0, torch.float32)
    path = saved(tmp_path, tensors_of({"layers.0.q": 4}))
    scales: dict[str, float] = {}
    with pytest.raises(KeyError):
        stage(path, (QKV,), lambda module: scales[module], torch.float32)
    assert set(os.listdir("/proc/self/fd")) == before


def test_the_layers_survive_the_wire() -> None:
    assert layers_from_plain(layers_to_plain((QKV, DOWN))) == (QKV, DOWN)
