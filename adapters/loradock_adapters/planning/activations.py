"""Bytes that one token leaves in one layer between the forward and the backward pass, under bf16 autocast.

Counted from what transformers' Llama and PEFT's LoRA keep for their gradients, and compared with measured peaks
(docs/training.md). h, kv, f below are the widths of the hidden state, of k or v, and of the MLP.
"""

from __future__ import annotations

from collections.abc import Collection

from loradock_adapters.planning.shape import ModelShape

_SHARE_A_NORM = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")


def kept_with_lora(shape: ModelShape, targets: Collection[str], rank: int, *, quantized: bool, dropout: bool) -> int:
    """A frozen base keeps no inputs of its own modules, only an adapter's modules do theirs.

    A quantised module hands its input to its adapter as it is, so that modules behind one norm keep it once. A plain
    one is cast to fp32 and back by PEFT, dropout copies in any case: then each keeps its own.
    """
    h, kv, f = shape.hidden, shape.kv_dim, shape.intermediate
    attention = shape.heads * shape.head_dim
    # Two norms in fp32; q, the attention's output and its contiguous copy; k and v; gate, its activation, and up.
    size = 2 * 4 * h + 3 * 2 * attention + 2 * 2 * kv + 3 * 2 * f
    if not quantized or dropout:
        size += sum((2 + (1 if dropout else 0)) * shape.linears[name].in_features for name in targets)
    else:
        size += sum(2 * h for group in _SHARE_A_NORM if set(group) & set(targets))
        size += 2 * f if "down_proj" in targets else 0
    return size + 2 * rank * len(targets)


def kept_in_full(shape: ModelShape) -> int:
    """Weights in fp32 that learn: every module keeps its own bf16 input, every norm its fp32 result too."""
    h, kv, f = shape.hidden, shape.kv_dim, shape.intermediate
    attention = shape.heads * shape.head_dim
    return 2 * 2 * 4 * h + 5 * 2 * h + 3 * 2 * attention + 2 * 2 * kv + 4 * 2 * f


def kept_by_checkpoint(shape: ModelShape, *, full: bool) -> int:
    """Only the layer's input, in bf16; in fp32 where the weights are."""
    return (4 if full else 2) * shape.hidden


def in_flight(shape: ModelShape) -> int:
    """Gradients of the MLP's widest tensors while a layer is gone through backwards."""
    return 2 * 2 * shape.intermediate
