"""How large a base model's weights are, from the headers of its files; no weight is read."""

from __future__ import annotations

from pathlib import Path

from loradock_adapters.base_model import INDEX_FILE, MAX_JSON_BYTES, SINGLE_FILE
from loradock_adapters.errors import AdapterUnreadable, BaseModelError
from loradock_adapters.files import read_capped
from loradock_adapters.safetensors_header import DTYPE_BYTES, TensorFile
from loradock_adapters.strict_json import parse_object

NUMBER_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})


def weights_bytes(folder: Path, dtype: str) -> int:
    """What the weights take in memory in `dtype` (float32, float16, bfloat16); other kinds of numbers stay as they are.

    Raises BaseModelError when the files cannot be read.
    """
    try:
        total = 0
        for path in _files(folder):
            for tensor in TensorFile.open(path, max_header_bytes=100 << 20).tensors.values():
                size = NUMBER_BYTES[dtype] if tensor.dtype in _FLOATS else DTYPE_BYTES[tensor.dtype]
                total += tensor.parameters * size
    except (AdapterUnreadable, OSError, ValueError) as error:
        raise BaseModelError(f"{folder}: {error}") from error
    return total


def _files(folder: Path) -> list[Path]:
    if not (folder / INDEX_FILE).exists():
        return [folder / SINGLE_FILE]
    shards = parse_object(read_capped(folder / INDEX_FILE, MAX_JSON_BYTES)).get("weight_map")
    if not isinstance(shards, dict):
        raise BaseModelError(f"{folder / INDEX_FILE} has no weight_map")
    # Only plain names: an index is a stranger's file.
    return [folder / name for name in sorted({Path(str(shard)).name for shard in shards.values()})]
