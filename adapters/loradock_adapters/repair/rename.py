"""A safetensors file under other tensor names: the same bytes after a new header. It parses no number."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from loradock_adapters.files import open_regular
from loradock_adapters.safetensors_header import METADATA, TensorFile


def rename_tensors(file: TensorFile, names: Mapping[str, str], target: Path) -> None:
    """Write `file` to `target` with every tensor in `names` called by its new name. Raises OSError."""
    start = min(info.start for info in file.tensors.values())
    header: dict[str, object] = {METADATA: dict(file.metadata)} if file.metadata else {}
    for info in file.tensors.values():
        header[names.get(info.name, info.name)] = {
            "dtype": info.dtype,
            "shape": list(info.shape),
            "data_offsets": [info.start - start, info.end - start],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # as the format's own library aligns the numbers
    with open_regular(file.path) as source, target.open("xb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        source.seek(start)
        shutil.copyfileobj(source, out, 1 << 20)
