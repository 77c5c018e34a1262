"""In which numbers a run computes: the rule behind training.compute_dtype = "auto", for training and for the plan.

Pure arithmetic. The base that learns nothing may be held in fewer bits (NF4, bf16); these are the numbers of the
products and of what lies between them. What learns is float32 in any case.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from loradock_adapters.planning.serving_dtype import gib
from loradock_adapters.processor import Processor

TrainingDtype = Literal["bfloat16", "float32"]
Wanted = Literal["auto", "bfloat16", "float32"]
"""What a recipe may say."""

BYTES: dict[TrainingDtype, int] = {"bfloat16": 2, "float32": 4}
"""Of one number."""


@dataclass(frozen=True, slots=True)
class DtypeChoice:
    """`reason`: a clause for logs, manifests and tables, which names what decided."""

    dtype: TrainingDtype
    reason: str


def choose_training_dtype(
    wanted: Wanted, processor: Processor | None, float32_bytes: int | None, memory_bytes: int
) -> DtypeChoice:
    """bfloat16 on a GPU (`processor` is None) and where the processor multiplies it; else float32, if it fits.

    `float32_bytes`: what the run would need in float32, None where that is not known; of `memory_bytes` there are.
    """
    if wanted != "auto":
        return DtypeChoice(wanted, "the recipe says so")
    if processor is None:
        return DtypeChoice("bfloat16", "a GPU trains")
    if processor.multiplies_bf16:
        return DtypeChoice("bfloat16", f"{processor.description} multiplies bfloat16")
    slow = f"{processor.description} has no instructions for bfloat16"
    if float32_bytes is not None and float32_bytes > memory_bytes:
        return DtypeChoice(
            "bfloat16",
            f"{slow} and would be many times faster in float32, but that needs {gib(float32_bytes)} of the "
            f"{gib(memory_bytes)} there are: a smaller batch or gradient checkpointing may fit",
        )
    return DtypeChoice("float32", f"{slow}: float32 is many times faster")
