"""From a pickle of weights to safetensors, without running what a stranger pickled.

torch's weights_only reader builds tensors and plain containers and refuses everything else. What it cannot know is
how much memory an archive asks for, so that is counted first. Imports torch only when called.
"""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any

from loradock_adapters.errors import AdapterMalformed
from loradock_adapters.files import open_regular


def convert_pickle(source: Path, target: Path, *, max_bytes: int) -> int:
    """Write the tensors in `source` to the safetensors file `target`; return how many there are.

    Raises AdapterMalformed for anything but a flat dictionary of dense tensors that take at most `max_bytes`,
    AdapterUnreadable or OSError where it cannot be read.
    """
    import torch
    from safetensors.torch import save_file

    _check_size(source, max_bytes)
    try:
        with open_regular(source) as file:
            found = torch.load(file, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a stranger's pickle can make the reader raise anything
        reason = str(error).partition("\n")[0][:200]
        raise AdapterMalformed(f"torch refuses to read it with weights_only: {reason}", where=source.name) from error
    tensors = _flat(found, source.name, max_bytes)
    # Views of one storage would be written twice or not at all; each gets its own numbers.
    save_file(
        {name: tensor.clone().contiguous() for name, tensor in tensors.items()}, target, metadata={"format": "pt"}
    )
    target.chmod(0o644)
    return len(tensors)


def _check_size(source: Path, max_bytes: int) -> None:
    with open_regular(source) as file:
        if not zipfile.is_zipfile(file):
            size = file.seek(0, 2)
        else:
            try:
                size = sum(entry.file_size for entry in zipfile.ZipFile(file).infolist())
            except zipfile.BadZipFile as error:
                raise AdapterMalformed(f"the archive is broken: {error}", where=source.name) from error
    if size > max_bytes:
        raise AdapterMalformed(f"it holds {size} bytes; at most {max_bytes} are read", where=source.name)


def _flat(found: Any, where: str, max_bytes: int) -> dict[str, Any]:
    import torch

    if not isinstance(found, dict) or not found:
        raise AdapterMalformed(f"it holds a {type(found).__name__}, not tensors by name", where=where)
    size = 0
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor) or value.layout is not torch.strided:
            raise AdapterMalformed(f"{str(name)[:120]!r} is no dense tensor, but a {type(value).__name__}", where=where)
        if value.device.type != "cpu" or value.is_quantized:
            raise AdapterMalformed(f"{name[:120]!r} is no plain tensor", where=where)
        # A view can claim any size over a storage of one number.
        size += math.prod(value.shape) * value.element_size()
    if size > max_bytes:
        raise AdapterMalformed(f"its tensors take {size} bytes; at most {max_bytes} are read", where=where)
    return dict(found)
