"""A strict reader of safetensors files: which tensors a file holds, and one tensor's numbers.

The header is a stranger's JSON with byte offsets into the rest of the file, so everything is checked before
anything is believed: sizes, duplicate keys, overlaps, gaps, truncation. It knows no adapter and no torch.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loradock_adapters.errors import AdapterMalformed, AdapterUnreadable
from loradock_adapters.files import open_regular
from loradock_adapters.strict_json import parse_object

MAX_HEADER_BYTES = 16 << 20
MAX_DIMENSIONS = 8
METADATA = "__metadata__"

DTYPE_BYTES: Mapping[str, int] = MappingProxyType(
    {
        "F64": 8,
        "F32": 4,
        "F16": 2,
        "BF16": 2,
        "F8_E4M3": 1,
        "F8_E5M2": 1,
        "I64": 8,
        "I32": 4,
        "I16": 2,
        "I8": 1,
        "U64": 8,
        "U32": 4,
        "U16": 2,
        "U8": 1,
        "BOOL": 1,
    }
)
_NUMPY = MappingProxyType({"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"})


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies: `start` and `end` are byte offsets from the beginning of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def parameters(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class TensorFile:
    """A safetensors file whose header was found sound; `tensors` is in the order of the data."""

    path: Path
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    size_bytes: int

    @classmethod
    def open(cls, path: Path, *, max_header_bytes: int = MAX_HEADER_BYTES) -> TensorFile:
        """Read and check the header. Raises AdapterUnreadable or AdapterMalformed, whose message says what is wrong."""
        try:
            with open_regular(path) as file:
                size = os.fstat(file.fileno()).st_size
                length = _header_length(file.read(8), size, max_header_bytes)
                header = file.read(length)
            if len(header) < length:
                raise ValueError("the file became shorter while it was read")
            return cls._parse(path, parse_object(header), 8 + length, size)
        except OSError as error:
            raise AdapterUnreadable(_reason(error), where=path.name) from error
        except ValueError as error:
            raise AdapterMalformed(str(error), where=path.name) from error

    def read(self, name: str) -> NDArray[Any]:
        """One floating-point tensor; BF16 comes as float32, the others as they are.

        Raises KeyError for an unknown name, AdapterUnreadable for other types or a file that has changed.
        """
        info = self.tensors[name]
        with self._opened() as file:
            values = self._stored(file, info)
        if info.dtype == "BF16":
            # bfloat16 is the upper half of a float32.
            return (values.astype(np.uint32) << 16).view(np.float32)
        return values

    @contextmanager
    def reading(self) -> Iterator[Callable[[str], NDArray[Any]]]:
        """For many tensors: a function that gives one by name as it is stored, BF16 as its bits in uint16.

        It and this raise what `read` raises.
        """
        with self._opened() as file:
            yield lambda name: self._stored(file, self.tensors[name])

    @contextmanager
    def _opened(self) -> Iterator[BufferedReader]:
        try:
            with open_regular(self.path) as file:
                yield file
        except OSError as error:
            raise AdapterUnreadable(_reason(error), where=self.path.name) from error

    def _stored(self, file: BufferedReader, info: TensorInfo) -> NDArray[Any]:
        if info.dtype not in _NUMPY:
            raise AdapterUnreadable(
                f"type {info.dtype} cannot be read; use F32, F16 or BF16", where=f"{self.path.name}: {info.name}"
            )
        values: NDArray[Any] = np.empty(info.parameters, _NUMPY[info.dtype])
        file.seek(info.start)
        if values.size and file.readinto(values.data.cast("B")) != values.nbytes:
            raise AdapterUnreadable("the file became shorter while it was read", where=self.path.name)
        return values.reshape(info.shape)

    @classmethod
    def _parse(cls, path: Path, header: dict[str, Any], data_start: int, size: int) -> TensorFile:
        metadata = header.pop(METADATA, {})
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError(f"{METADATA} is not a map of strings")
        found = [_tensor(name, facts, data_start) for name, facts in header.items()]
        found.sort(key=lambda info: (info.start, info.end))
        position = data_start
        for info in found:
            if info.start != position:
                problem = "overlaps another tensor" if info.start < position else "leaves a gap before it"
                raise ValueError(f"tensor {_shown(info.name)} {problem}")
            position = info.end
        if position != size:
            raise ValueError(f"the tensors end at byte {position}, the file at byte {size}")
        tensors = MappingProxyType({info.name: info for info in found})
        return cls(path, tensors, MappingProxyType(metadata), size)


def _header_length(prefix: bytes, size: int, limit: int) -> int:
    if len(prefix) < 8:
        raise ValueError(f"{size} bytes are too few for a safetensors file")
    length = int.from_bytes(prefix, "little")
    if length > limit:
        raise ValueError(f"the header claims {length} bytes; at most {limit} are read")
    if 8 + length > size:
        raise ValueError(f"the header claims {length} bytes, but the file has {size} in all: it is cut short")
    return length


def _tensor(name: str, facts: Any, data_start: int) -> TensorInfo:
    if not isinstance(facts, dict) or facts.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {_shown(name)} needs dtype, shape and data_offsets, and nothing else")
    dtype, shape, offsets = facts["dtype"], facts["shape"], facts["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise ValueError(f"tensor {_shown(name)} has the unknown type {_shown(str(dtype))}")
    if not _naturals(shape) or len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"tensor {_shown(name)} has a shape that is no list of up to {MAX_DIMENSIONS} sizes")
    if not _naturals(offsets) or len(offsets) != 2:
        raise ValueError(f"tensor {_shown(name)} has data_offsets that are not two positions")
    needed = math.prod(shape) * DTYPE_BYTES[dtype]
    start, end = offsets
    if end - start != needed:
        raise ValueError(f"tensor {_shown(name)} needs {needed} bytes for its shape, but has {end - start}")
    return TensorInfo(name, dtype, tuple(shape), data_start + start, data_start + end)


def _naturals(value: Any) -> bool:
    # 2**53 keeps products small enough to print; bool is an int in Python, but not in JSON.
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 53 for item in value)


def _shown(name: str) -> str:
    return repr(name if len(name) <= 120 else name[:117] + "...")


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
