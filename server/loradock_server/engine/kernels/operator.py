"""Our arithmetic as one operator of torch, so that vLLM can compile a model with LoRA on as it does with LoRA off.

torch.compile cannot look into code that follows pointers. It need not: an operator is a name in the compiled graph,
with one output that it changes, and the layer as a plain number. Behind the name stands Python (`use_python`) or
compiled code (`native`), one of them for the whole process.
"""

from __future__ import annotations

from typing import Any

import torch

NAME = "loradock::add_lora"

# Wrapped layers by their numbers, in the order in which they were made: the same in each start, so a graph that was
# compiled in an earlier one may be kept.
layers: list[Any] = []


def adopt(layer: Any) -> None:
    """Give a wrapped layer of vLLM its number."""
    layer.loradock_number = len(layers)
    layers.append(layer)


def apply_lora_to_output(self: Any, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """In place of BaseLinearLayerWithLoRA's: x (…, in) and output (…, out) become output plus the deltas.

    Leading dimensions are rows, and one of size one where there are three.
    """
    if output.ndim > 3 or (output.ndim == 3 and output.shape[0] != 1):
        raise ValueError(f"LoRA is added to (rows, width) or (1, rows, width), not to {tuple(output.shape)}")
    # Compiled graphs keep the layout that they were traced with.
    x = x if x.stride(-1) == 1 else x.contiguous()
    output = output if output.stride(-1) == 1 else output.contiguous()
    add_lora(output, x, self.loradock_number)
    return output


def use_python() -> None:
    """Let each layer's wrapper add. Idempotent."""
    if not torch._C._dispatch_has_kernel_for_dispatch_key(NAME, "CPU"):
        _library.impl("add_lora", _add_lora, "CPU")


def _add_lora(y: torch.Tensor, x: torch.Tensor, number: int) -> None:
    layer = layers[number]
    punica = layer.punica_wrapper
    if punica.no_lora:
        return
    if y.ndim == 3:
        x, y = x[0], y[0]
    punica.add_lora_linear(y, x, layer.lora_a_stacked, layer.lora_b_stacked, 1.0, layer.output_slices)


_library = torch.library.Library(NAME.partition("::")[0], "DEF")
_library.define("add_lora(Tensor(a!) y, Tensor x, int number) -> ()")
_library._register_fake("add_lora", lambda y, x, number: None)
add_lora = torch.ops.loradock.add_lora.default
