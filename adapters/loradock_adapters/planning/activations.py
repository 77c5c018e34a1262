"""Bytes that one token leaves in one layer between the forward and the backward pass.

Counted from what transformers' Llama and PEFT's LoRA keep for their gradients, and compared with measured peaks
(docs/training.md). h, kv, f below are the widths of the hidden state, of k or v, and of the MLP; `width` is the bytes
of a number that is computed in: 2 under bf16 autocast, 4 in float32.
"""

from __future__ import annotations

from collections.abc import Collection

from loradock_adapters.planning.shape import ModelShape

_SHARE_A_NORM = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")


def kept_with_lora(
    shape: ModelShape, targets: Collection[str], rank: int, *, shared: bool, dropout: bool, width: int
) -> int:
    """A frozen base keeps no inputs of its own modules, only an adapter's modules do theirs.

    `shared`: a module hands its input to its adapter as it is, so that modules behind one norm keep it once. Else it is
    cast to fp32 and back by PEFT, and each keeps its own; dropout copies in any case.
    """
    h, kv, f = shape.hidden, shape.kv_dim, shape.intermediate
    attention = shape.heads * shape.head_dim
    # Two norms in fp32; q, the attention's output and its contiguous copy; k and v; gate, its activation, and up.
    size = 2 * 4 * h + 3 * width * attention + 2 * width * kv + 3 * width * f
    if not shared or dropout:
        size += sum((width + (1 if dropout else 0)) * shape.linears[name].in_features for name in targets)
    else:
        size += sum(width * h for group in _SHARE_A_NORM if set(group) & set(targets))
        size += width * f if "down_proj" in targets else 0
    return size + width * rank * len(targets)


def kept_in_full(shape: ModelShape, *, width: int) -> int:
    """Weights in fp32 that learn: every module keeps its own input, every norm its fp32 result too."""
    h, kv, f = shape.hidden, shape.kv_dim, shape.intermediate
    attention = shape.heads * shape.head_dim
    return 2 * 2 * 4 * h + 5 * width * h + 3 * width * attention + 2 * width * kv + 4 * width * f


def kept_by_checkpoint(shape: ModelShape, *, width: int) -> int:
    """Only the layer's input."""
    return width * shape.hidden


def in_flight(shape: ModelShape, *, width: int) -> int:
    """Gradients of the MLP's widest tensors while a layer is gone through backwards."""
    return 2 * width * shape.intermediate
