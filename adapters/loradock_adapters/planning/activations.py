"""Bytes that one token leaves in one layer between the forward and the backward pass.

Counted from what transformers' Llama and PEFT's LoRA keep for their gradients, and compared with measured peaks
(docs/training.md). h, kv, f below are the widths of the hidden state, of k or v, and of the MLP; `width` is the bytes
of a number that is computed in: 2 under bf16 autocast, 4 in float32.
"""

from __future__ import annotations

from collections.abc import Collection

from loradock_adapters.planning.shape import ModelShape


def kept_with_lora(
    shape: ModelShape, targets: Collection[str], rank: int, *, shared: bool, dropout: bool, width: int
) -> int:
    """A frozen base keeps no inputs of its own modules, only an adapter's modules do theirs.

    `shared`: a module hands its input to its adapter as it is, so that modules behind one norm keep it once. Else it is
    cast to fp32 and back by PEFT, and each keeps its own; dropout copies in any case.
    """
    h, kv = shape.hidden, shape.kv_dim
    chosen = [kind for kind in shape.linears if kind.name in targets]
    # Two norms in fp32; q, the attention's output and its contiguous copy; k and v.
    size = shape.layers * (2 * 4 * h + 3 * width * shape.attention + 2 * width * kv)
    # gate, its activation, and up, or what other MLPs have in their places.
    size += width * shape.mlp_kept
    if not shared or dropout:
        size += sum((width + (1 if dropout else 0)) * kind.in_features * kind.count for kind in chosen)
    else:
        behind_norms: dict[str, int] = {}
        for kind in chosen:
            if not kind.is_output:
                behind_norms[kind.group] = max(behind_norms.get(kind.group, 0), kind.in_features * kind.count)
            elif not kind.is_attention:  # what attention gives is kept already
                size += width * kind.in_features * kind.count
        size += width * sum(behind_norms.values())
    return (size + width * rank * sum(kind.count for kind in chosen)) // shape.layers


def kept_in_full(shape: ModelShape, *, width: int) -> int:
    """Weights in fp32 that learn: every module keeps its own input, every norm its fp32 result too."""
    h, kv, mlp = shape.hidden, shape.kv_dim, shape.mlp_kept // shape.layers + shape.mlp_inner
    return 2 * 2 * 4 * h + 5 * width * h + 3 * width * shape.attention + 2 * width * kv + width * mlp


def kept_by_checkpoint(shape: ModelShape, *, width: int) -> int:
    """Only the layer's input."""
    return width * shape.hidden


def in_flight(shape: ModelShape, *, width: int) -> int:
    """Gradients of the MLP's widest tensors while a layer is gone through backwards."""
    return 2 * width * shape.mlp_inner
