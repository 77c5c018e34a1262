"""An adapter made ready for the worker outside of it: read, scaled, cast, transposed, laid out as the kernels want it.

What the worker then does between two steps is to map memory and take pointers. Two halves, a process apart, and the
form in which the bytes go from one to the other: a sealed memory file, which nobody can change or cut short under its
reader. Knows the layers' names and shapes, no vLLM.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from loradock_adapters.peft_folder import tensor_name
from loradock_adapters.safetensors_header import TensorFile

from .kernels.slots import Packed

ALIGNMENT = 64  # bytes; a cache line, and what vector loads like
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_MADV_POPULATE_READ = 22
_PREFIX = 8  # bytes that say how long the index is, little-endian


@dataclass(frozen=True, slots=True)
class Slice:
    """One of a layer's outputs. `module`: its name in checkpoints, such as model.layers.0.self_attn.q_proj."""

    module: str
    width: int


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer that takes adapters. `name`: what the engine calls it; `features`: its inputs."""

    name: str
    features: int
    slices: tuple[Slice, ...]


def layers_to_plain(layers: Sequence[Layer]) -> list[dict[str, Any]]:
    """As dicts and lists, for a wire."""
    return [asdict(layer) for layer in layers]


def layers_from_plain(plain: Sequence[Mapping[str, Any]]) -> tuple[Layer, ...]:
    return tuple(
        Layer(layer["name"], layer["features"], tuple(Slice(**one) for one in layer["slices"])) for layer in plain
    )


class Staged:
    """An adapter laid out in memory. `path` can be opened by this user's other processes until `close`."""

    def __init__(self, descriptor: int, size_bytes: int) -> None:
        self._descriptor = descriptor
        self.size_bytes = size_bytes

    @property
    def path(self) -> Path:
        return Path(f"/proc/{os.getpid()}/fd/{self._descriptor}")

    def close(self) -> None:
        """Give the memory back. Idempotent."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor goes: `offset` in numbers from the start, `shape` as it is laid out."""

    offset: int
    shape: tuple[int, int]
    turned: bool  # B: transposed and scaled
    module: str


def stage(weights: Path, layers: Sequence[Layer], scale_of: Callable[[str], float], dtype: torch.dtype) -> Staged:
    """Lay out the adapter in the safetensors file `weights` for these layers, in `dtype`.

    `scale_of(module)` is what PEFT multiplies the module's B·A with; it is folded into B before the one rounding to
    `dtype`. Blocking: some ms for 20 MB. Raises ValueError when a tensor belongs to no layer or does not fit it,
    AdapterUnreadable for a file that is not sound.
    """
    file = TensorFile.open(weights)
    index, places, numbers = _arrange(file, layers, dtype.itemsize)
    head = json.dumps(index).encode()
    head += b" " * (-(_PREFIX + len(head)) % ALIGNMENT)  # so that the numbers begin at an aligned place
    head = len(head).to_bytes(_PREFIX, "little") + head
    size = len(head) + numbers * dtype.itemsize
    descriptor = os.memfd_create("loradock-adapter", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, size)
        with mmap.mmap(descriptor, size) as memory:
            memory[: len(head)] = head
            _fill(torch.frombuffer(memory, dtype=dtype, offset=len(head), count=numbers), file, places, scale_of)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(descriptor)
        raise
    return Staged(descriptor, size)


def _fill(
    numbers: torch.Tensor, file: TensorFile, places: Mapping[str, _Place], scale_of: Callable[[str], float]
) -> None:
    for info, values in file.read_each():
        place = places[info.name]
        source = torch.from_numpy(values)
        if info.dtype == "BF16":
            source = source.view(torch.bfloat16)
        if place.turned:
            scale = scale_of(place.module)
            source = (source if scale == 1 else (source.float() * scale).to(numbers.dtype)).T
        numbers[place.offset :][: source.numel()].view(place.shape).copy_(source)


def _arrange(file: TensorFile, layers: Sequence[Layer], itemsize: int) -> tuple[dict[str, Any], dict[str, _Place], int]:
    """The index, the place of each tensor by its name, and how many numbers there are in all.

    index: layer name → [offset of A, its rows, then for each slice rank and offset of B], offsets in numbers.
    """
    step = ALIGNMENT // itemsize
    index: dict[str, Any] = {}
    places: dict[str, _Place] = {}
    end = 0
    for layer in layers:
        present = [one for one in layer.slices if tensor_name(one.module, "A") in file.tensors]
        if not present:
            continue
        start, rows, entry = end, 0, []
        for one in present:
            a = file.tensors[tensor_name(one.module, "A")]
            if len(a.shape) != 2 or a.shape[1] != layer.features:
                raise ValueError(f"{a.name}: shape {a.shape} does not fit {layer.features} inputs")
            places[a.name] = _Place(start + rows * layer.features, (a.shape[0], a.shape[1]), turned=False, module="")
            rows += a.shape[0]
        end = _aligned(start + rows * layer.features, step)
        for one in layer.slices:
            if one not in present:
                entry += [0, 0]
                continue
            b = file.tensors.get(tensor_name(one.module, "B"))
            rank = file.tensors[tensor_name(one.module, "A")].shape[0]
            if b is None or b.shape != (one.width, rank):
                found = "is missing" if b is None else f"has shape {b.shape}"
                raise ValueError(f"{one.module}: lora_B {found}, ({one.width}, {rank}) fits")
            places[b.name] = _Place(end, (rank, one.width), turned=True, module=one.module)
            entry += [rank, end]
            end = _aligned(end + rank * one.width, step)
        index[layer.name] = [start, rows, *entry]
    if strangers := sorted(file.tensors.keys() - places.keys()):
        raise ValueError(f"{strangers[0]} belongs to no layer that takes adapters")
    return index, places, end


def unstage(path: Path, layers: Mapping[str, tuple[int, Sequence[int]]], dtype: torch.dtype) -> dict[str, Packed]:
    """The other half: map that memory into this process, and return each layer's tensors as views of it.

    `layers`: features and slice widths by layer name. The memory lives as long as a view of it, whatever becomes of
    the process that staged it. Raises OSError.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_PREFIX), "little")
        index = json.loads(file.read(length))
        # Private, so that torch may believe it could write; nobody does, and so no page is ever copied.
        memory = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE)
    with contextlib.suppress(OSError):  # kernels before 5.14: then the first use pays
        memory.madvise(_MADV_POPULATE_READ)
    start = _PREFIX + length
    numbers = torch.frombuffer(memory, dtype=dtype, offset=start, count=(len(memory) - start) // dtype.itemsize)
    return {name: _views(numbers, entry, *layers[name]) for name, entry in index.items()}


def _views(numbers: torch.Tensor, entry: Sequence[int], features: int, widths: Sequence[int]) -> Packed:
    start, rows, *slices = entry
    ranks, offsets = slices[::2], slices[1::2]
    return Packed(
        numbers[start : start + rows * features].view(rows, features),
        tuple(
            numbers[offset : offset + rank * width].view(rank, width) if rank else None
            for rank, offset, width in zip(ranks, offsets, map(int, widths), strict=True)
        ),
    )


def _aligned(number: int, step: int) -> int:
    return -(-number // step) * step
