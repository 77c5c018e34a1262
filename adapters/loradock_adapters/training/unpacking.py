"""A small NF4 base on a CPU, held unpacked: the rounded weights once in bf16 instead of anew in every step.

bitsandbytes' forward pass on a CPU unpacks a weight and multiplies with it. Doing the first half once gives the same
numbers, bit for bit, for more memory and less time.
"""

from __future__ import annotations

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit

from loradock_adapters.planning.training import UNPACKED_BELOW


def unpack_small(model: torch.nn.Module) -> bool:
    """Exchange every 4-bit module if together they have few numbers; whether it did. Not for GPUs."""
    packed = {name: module for name, module in model.named_modules() if isinstance(module, Linear4bit)}
    numbers = sum(module.in_features * module.out_features for module in packed.values())
    if not packed or numbers >= UNPACKED_BELOW:
        return False
    for name, module in packed.items():
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, _plain(module))
    return True


def _plain(module: Linear4bit) -> torch.nn.Linear:
    with torch.device("meta"):  # its numbers would be thrown away
        plain = torch.nn.Linear(module.in_features, module.out_features, bias=False)
    weight = dequantize_4bit(module.weight.data, module.weight.quant_state)
    plain.weight = torch.nn.Parameter(weight.to(torch.bfloat16), requires_grad=False)
    plain.bias = module.bias
    return plain
