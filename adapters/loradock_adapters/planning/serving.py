"""The memory of a server: the base once, the key/value cache, adapters in slots and in memory.

Weights and cache are in the numbers that are served in (`serving_dtype`), adapters in the 16 bits of their files.

On a GPU vLLM sets a slot aside for every module at the highest rank, used or not; on CPU this project's slots are
pointers to what is in memory. It knows no engine's own overhead: buffers, graphs, the process.
"""

from __future__ import annotations

from dataclasses import dataclass

from loradock_adapters.base_weights import NUMBER_BYTES
from loradock_adapters.planning.lora_size import LoraSize
from loradock_adapters.planning.serving_dtype import Dtype
from loradock_adapters.planning.shape import CacheKind, ModelShape
from loradock_adapters.planning.terms import Sum, Term

_ADAPTER_BYTES = 2  # of a number: the engine keeps what is 16-bit in the file 16-bit in memory


@dataclass(frozen=True, slots=True)
class Service:
    """`streams` requests at once of `context` tokens each; `slots` adapters in a batch, `adapters` in memory.

    `max_rank` is the highest that is allowed, by which a GPU's slots are made. `dtype`: what weights and cache are in.
    """

    on_gpu: bool
    streams: int = 16
    context: int = 2048
    slots: int = 8
    max_rank: int = 64
    adapters: int = 64
    dtype: Dtype = "bfloat16"

    @property
    def width(self) -> int:
        """Bytes of a number."""
        return NUMBER_BYTES[self.dtype]


def kv_bytes_per_token(shape: ModelShape, dtype: Dtype = "bfloat16") -> int:
    """Keys and values of one token in all layers, before a window has passed it."""
    return NUMBER_BYTES[dtype] * sum(kind.layers * kind.numbers for kind in shape.caches)


def serving_memory(shape: ModelShape, lora: LoraSize, service: Service) -> Sum:
    """What the engine's device holds; on a GPU the adapters in memory are in the host's, see `host_memory`."""
    width = service.width
    terms = [
        Term("base weights", width * shape.parameters, f"{shape.parameters:,} numbers × {width} bytes, once"),
        *(_cache(kind, service) for kind in shape.caches),
    ]
    if service.on_gpu:
        each = sum(kind.adapter_numbers(service.max_rank) for kind in shape.linears)
        terms.append(
            Term(
                "slots",
                service.slots * each * width,
                f"{service.slots} slots × {each:,} numbers × {width} bytes "
                f"(every linear module at rank {service.max_rank})",
            )
        )
    else:
        terms += [Term("slots", 0, f"{service.slots} slots: pointers on CPU"), *host_memory(lora, service).terms]
    return Sum(tuple(terms))


def _cache(kind: CacheKind, service: Service) -> Term:
    kept = service.context if kind.window is None else min(service.context, kind.window)
    token = service.width * kind.layers * kind.numbers
    what = "" if kind.window is None else f", a window of {kind.window}"
    return Term(
        "key/value cache",
        service.streams * kept * token,
        f"{service.streams} streams × {kept} tokens × {token:,} bytes "
        f"({kind.layers} layers × {kind.numbers:,} of keys and values × {service.width} bytes{what})",
    )


def host_memory(lora: LoraSize, service: Service) -> Sum:
    """Adapters that wait in main memory, at their true rank."""
    how = f"{service.adapters} adapters × {lora.parameters:,} numbers × {_ADAPTER_BYTES} bytes (bf16)"
    return Sum((Term("adapters in memory", service.adapters * lora.file_bytes, how),))
