"""In which numbers a processor serves a base: the rule behind LORADOCK_DTYPE=auto, for the engine and for the plan.

Pure arithmetic; who asks says which processor and how much memory there is. Of processors only: a GPU multiplies bf16.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from loradock_adapters.base_weights import NUMBER_BYTES
from loradock_adapters.processor import Processor

ServingDtype = Literal["float32", "bfloat16"]
Dtype = Literal["float32", "bfloat16", "float16"]
"""What a person may choose."""

# The engine's libraries, buffers of a step and compiled code take about 2 GiB, its key/value cache 1 GiB as it is set.
BESIDES_BYTES = 3 << 30


@dataclass(frozen=True, slots=True)
class Choice:
    """`reason`: a clause for logs and tables, which names the processor or the memory that decided."""

    dtype: Dtype
    reason: str


def choose_dtype(
    processor: Processor,
    checkpoint_dtype: str,
    parameters: int,
    memory_bytes: int,
    *,
    besides_bytes: int = BESIDES_BYTES,
) -> Choice:
    """What LORADOCK_DTYPE=auto is: float32 where the processor does not multiply bf16 and the memory holds it, else
    bfloat16.

    `checkpoint_dtype`: as config.json has it ("bfloat16"). `memory_bytes`: what the engine may use of this machine.
    `besides_bytes`: what it needs of that for everything but weights.
    """
    if processor.multiplies_bf16:
        return Choice("bfloat16", f"{processor.description} multiplies bfloat16{_rounded(checkpoint_dtype)}")
    slow = f"{processor.description} has no instructions for bfloat16"
    needed = NUMBER_BYTES["float32"] * parameters + besides_bytes
    if needed > memory_bytes:
        return Choice(
            "bfloat16",
            f"{slow} and would be faster in float32, but that needs {gib(needed)} of the {gib(memory_bytes)} there "
            f"are{_rounded(checkpoint_dtype)}",
        )
    return Choice("float32", f"{slow}: float32 is several times faster; its weights take {gib(4 * parameters)}")


def _rounded(checkpoint_dtype: str) -> str:
    name = checkpoint_dtype.removeprefix("torch.")
    if name == "bfloat16":
        return ""
    return (
        f"; the checkpoint's {name} is rounded to it (LORADOCK_DTYPE={name} keeps it)" if name in NUMBER_BYTES else ""
    )


def gib(count: int) -> str:
    """Bytes in GiB, for people."""
    return f"{count / (1 << 30):.1f} GiB"
