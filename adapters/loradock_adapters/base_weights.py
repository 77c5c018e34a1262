"""How large a base model's weights are, from the headers of its files; no weight is read."""

from __future__ import annotations

from pathlib import Path

from loradock_adapters.base_layers import weight_files
from loradock_adapters.errors import AdapterUnreadable, BaseModelError
from loradock_adapters.safetensors_header import DTYPE_BYTES, TensorFile

NUMBER_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})


def weights_bytes(folder: Path, dtype: str) -> int:
    """What the weights take in memory in `dtype` (float32, float16, bfloat16); other kinds of numbers stay as they are.

    Raises BaseModelError when the files cannot be read.
    """
    try:
        total = 0
        for path in weight_files(folder):
            for tensor in TensorFile.open(path, max_header_bytes=100 << 20).tensors.values():
                size = NUMBER_BYTES[dtype] if tensor.dtype in _FLOATS else DTYPE_BYTES[tensor.dtype]
                total += tensor.parameters * size
    except (AdapterUnreadable, OSError, ValueError) as error:
        raise BaseModelError(f"{folder}: {error}") from error
    return total
