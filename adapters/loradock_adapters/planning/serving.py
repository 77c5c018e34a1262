"""The memory of a server: the base once, the key/value cache, adapters in slots and in memory.

On a GPU vLLM sets a slot aside for every module at the highest rank, used or not; on CPU this project's slots are
pointers to what is in memory. It knows no engine's own overhead: buffers, graphs, the process.
"""

from __future__ import annotations

from dataclasses import dataclass

from loradock_adapters.planning.lora_size import LoraSize
from loradock_adapters.planning.shape import ModelShape
from loradock_adapters.planning.terms import Sum, Term

BF16 = 2


@dataclass(frozen=True, slots=True)
class Service:
    """`streams` requests at once of `context` tokens each; `slots` adapters in a batch, `adapters` in memory.

    `max_rank` is the highest that is allowed, by which a GPU's slots are made.
    """

    on_gpu: bool
    streams: int = 16
    context: int = 2048
    slots: int = 8
    max_rank: int = 64
    adapters: int = 64


def kv_bytes_per_token(shape: ModelShape) -> int:
    """Keys and values of one token in all layers, in bf16."""
    return 2 * BF16 * shape.layers * shape.kv_dim


def serving_memory(shape: ModelShape, lora: LoraSize, service: Service) -> Sum:
    """What the engine's device holds; on a GPU the adapters in memory are in the host's, see `host_memory`."""
    token = kv_bytes_per_token(shape)
    tokens = service.streams * service.context
    terms = [
        Term("base weights", BF16 * shape.parameters, f"{shape.parameters:,} numbers × 2 bytes (bf16), once"),
        Term(
            "key/value cache",
            tokens * token,
            f"{service.streams} streams × {service.context} tokens × {token:,} bytes "
            f"(k and v × {shape.layers} layers × {shape.kv_dim} × 2 bytes)",
        ),
    ]
    if service.on_gpu:
        each = service.max_rank * sum(m.in_features + m.out_features for m in shape.linears.values()) * shape.layers
        terms.append(
            Term(
                "slots",
                service.slots * each * BF16,
                f"{service.slots} slots × {each:,} numbers × 2 bytes (every linear module at rank {service.max_rank})",
            )
        )
    else:
        terms += [Term("slots", 0, f"{service.slots} slots: pointers on CPU"), *host_memory(lora, service).terms]
    return Sum(tuple(terms))


def host_memory(lora: LoraSize, service: Service) -> Sum:
    """Adapters that wait in main memory, at their true rank."""
    how = f"{service.adapters} adapters × {lora.parameters:,} numbers × 2 bytes (bf16)"
    return Sum((Term("adapters in memory", service.adapters * lora.file_bytes, how),))
