"""An adapter made ready for the worker outside of it: read, scaled, cast, transposed, laid out as the kernels want it.

What the worker then does between two steps is to map memory and take pointers. Two halves, a process apart, and the
form in which the bytes go from one to the other: a sealed memory file, which nobody can change or cut short under its
reader. Knows the layers' names and shapes, no vLLM.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import mmap
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from loradock_adapters.peft_folder import tensor_name
from loradock_adapters.safetensors_header import TensorFile, TensorInfo

from .kernels.slots import DTYPES, Layout, Packed, pack

ALIGNMENT = 64  # bytes; a cache line, and what vector loads like
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_MADV_POPULATE_READ = 22
_PREFIX = 8  # bytes that say how long the index is, little-endian


@dataclass(frozen=True, slots=True)
class Slice:
    """One of a layer's outputs. `module`: what PEFT calls it, such as model.layers.0.self_attn.q_proj.

    `start`: the first of the module's outputs that are this slice's, where several slices are one module's.
    """

    module: str
    width: int
    start: int = 0


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer that takes adapters. `name`: what the engine calls it; `features`: its inputs."""

    name: str
    features: int
    slices: tuple[Slice, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """How the engine's layers want adapters. `dtype`: what it computes in.

    `unused` are modules of the base that have no part in what the engine computes; an adapter may touch them.
    """

    layers: tuple[Layer, ...]
    dtype: torch.dtype
    layout: Layout
    unused: tuple[str, ...] = ()

    @property
    def modules(self) -> Mapping[str, int]:
        """The modules that take adapters, with the number of their outputs."""
        widths: dict[str, int] = {}
        for layer in self.layers:
            for one in layer.slices:
                widths[one.module] = max(widths.get(one.module, 0), one.start + one.width)
        return widths

    def to_plain(self) -> dict[str, Any]:
        """As dicts, lists and strings, for a wire."""
        return {**asdict(self), "dtype": str(self.dtype).removeprefix("torch.")}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Plan:
        layers = tuple(
            Layer(layer["name"], layer["features"], tuple(Slice(**one) for one in layer["slices"]))
            for layer in plain["layers"]
        )
        return cls(layers, getattr(torch, plain["dtype"]), plain["layout"], tuple(plain["unused"]))


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


def stage(weights: Path, plan: Plan, scale_of: Callable[[str], float]) -> Staged:
    """Lay out the adapter in the safetensors file `weights`.

    `scale_of(module)` is what PEFT multiplies the module's B·A with. In the layout "lines" it stays beside the weights,
    which keep their 16 bits; else it is folded into B before the one rounding to the engine's dtype. Blocking: some ten
    ms for 20 MB. Raises ValueError when a tensor belongs to no layer or does not
    fit it, AdapterUnreadable for a file that is not sound.
    """
    file = TensorFile.open(weights)
    widths = plan.modules
    mine = {tensor_name(module, side) for module in (*widths, *plan.unused) for side in "AB"}
    if strangers := sorted(file.tensors.keys() - mine):
        raise ValueError(f"{strangers[0]} belongs to no layer that takes adapters")
    packed = {}
    with file.reading() as read:
        for layer in plan.layers:
            pairs = [_pair(file, read, layer, one, widths) for one in layer.slices]
            scales = [
                1.0 if a is None else scale_of(one.module) for one, (a, _) in zip(layer.slices, pairs, strict=True)
            ]
            if found := _packed(pairs, scales, plan):
                packed[layer.name] = found
    return _sealed(packed)


_Pair = tuple[torch.Tensor | None, torch.Tensor | None]


def _pair(file: TensorFile, read: Callable[[str], Any], layer: Layer, one: Slice, widths: Mapping[str, int]) -> _Pair:
    """A slice's (rank, in) A and (width, rank) B as they are; None and None where the adapter leaves it alone."""
    a, b = (file.tensors.get(tensor_name(one.module, side)) for side in "AB")
    if a is None and b is None:
        return None, None
    if a is None or len(a.shape) != 2 or a.shape[1] != layer.features:
        raise ValueError(f"{one.module}: lora_A {_found(a)}, (rank, {layer.features}) fits")
    if b is None or b.shape != (widths[one.module], a.shape[0]):
        raise ValueError(f"{one.module}: lora_B {_found(b)}, ({widths[one.module]}, {a.shape[0]}) fits")
    both = []
    for info in (a, b):
        values = torch.from_numpy(read(info.name))
        values = values.view(torch.bfloat16) if info.dtype == "BF16" else values
        both.append(values[one.start : one.start + one.width] if info is b else values)
    return both[0], both[1]


def _packed(pairs: Sequence[_Pair], scales: Sequence[float], plan: Plan) -> Packed | None:
    """A layer's pairs in the plan's layout."""
    if plan.layout == "lines":
        found = {x.dtype if x.dtype.itemsize == 2 else plan.dtype for pair in pairs for x in pair if x is not None}
        # Of one dtype all: float32 holds what either of the others holds.
        kept = found.pop() if len(found) == 1 else torch.float32
        as_kept = [tuple(None if x is None else x.to(kept) for x in pair) for pair in pairs]
        return pack([a for a, _ in as_kept], [b for _, b in as_kept], layout=plan.layout, scales=scales)
    a = [None if a is None else a.to(plan.dtype) for a, _ in pairs]
    b = [
        None if b is None else (b if scale == 1 else b.float() * scale).to(plan.dtype)
        for (_, b), scale in zip(pairs, scales, strict=True)
    ]
    return pack(a, b, layout=plan.layout)


def _found(info: TensorInfo | None) -> str:
    return "is missing" if info is None else f"has shape {info.shape}"


_Place = tuple[int, tuple[int, ...]]


def _sealed(packed: Mapping[str, Packed]) -> Staged:
    """One memory file: length of the index, index, tensors.

    The index has for each layer its dtype's number, its scales, and offset and shape of each tensor.
    """
    index: dict[str, tuple[int, tuple[float, ...], list[_Place | None]]] = {}
    end = 0
    for name, layer in packed.items():
        places: list[_Place | None] = []
        for tensor in (layer.a, *layer.b):
            places.append(None if tensor is None else (end, tuple(tensor.shape)))
            end += 0 if tensor is None else _aligned(tensor.nbytes)
        index[name] = DTYPES.index(layer.a.dtype), layer.scales, places
    head = json.dumps(index).encode()
    head += b" " * (_aligned(_PREFIX + len(head)) - _PREFIX - len(head))
    head = len(head).to_bytes(_PREFIX, "little") + head
    descriptor = os.memfd_create("loradock-adapter", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, len(head) + end)
        os.pwrite(descriptor, head, 0)
        for name, layer in packed.items():
            for place, tensor in zip(index[name][2], (layer.a, *layer.b), strict=True):
                if place is not None and tensor is not None:
                    _write(descriptor, tensor.view(torch.uint8).numpy().data.cast("B"), len(head) + place[0])
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(descriptor)
        raise
    return Staged(descriptor, len(head) + end)


def _write(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


def unstage(path: Path) -> dict[str, Packed]:
    """The other half: map that memory into this process, and return each layer's tensors as views of it.

    The memory lives as long as a view of it, whatever becomes of the process that staged it. Raises OSError.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_PREFIX), "little")
        index = json.loads(file.read(length))
        # Private, so that torch may believe it could write; nobody does, and so no page is ever copied.
        memory = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE)
    with contextlib.suppress(OSError):  # kernels before 5.14: then the first use pays
        memory.madvise(_MADV_POPULATE_READ)
    tensors = torch.frombuffer(memory, dtype=torch.uint8)[_PREFIX + length :]

    def view(place: list[Any] | None, dtype: torch.dtype) -> torch.Tensor | None:
        if place is None:
            return None
        offset, shape = place
        return tensors[offset : offset + math.prod(shape) * dtype.itemsize].view(dtype).view(shape)

    found = {}
    for name, (number, scales, places) in index.items():
        a, *b = (view(place, DTYPES[number]) for place in places)
        assert a is not None
        found[name] = Packed(a, tuple(b), tuple(scales))
    return found


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
