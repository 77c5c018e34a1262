"""What the plan says of a run that was measured and written down, as `measure` and the JSON files beside it have it."""

from __future__ import annotations

from typing import Any

from loradock_adapters.planning.device import CPU
from loradock_adapters.planning.lora_size import lora_size
from loradock_adapters.planning.shape import ModelShape
from loradock_adapters.planning.training import Run, training_memory


def planned_bytes(shape: ModelShape, run: dict[str, Any], *, on_gpu: bool) -> int:
    """Bytes at the peak: of a GPU's own tensors, or of the whole process on CPU."""
    wanted = Run(
        run["method"],
        on_gpu,
        run["batch_size"],
        run["sequence_length"],
        run["checkpointing"],
        run["double_quantization"],
        dropout=run["dropout"] > 0,
        dtype=run.get("dtype", "bfloat16"),  # those recorded before there was another
    )
    peak = training_memory(shape, lora_size(shape, run["rank"], run["targets"]), wanted).size_bytes
    return peak if on_gpu else CPU.needs(peak)
