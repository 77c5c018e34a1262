"""Our arithmetic as one operator of torch, so that vLLM can compile a model with LoRA on as it does with LoRA off.

torch.compile cannot look into Python that follows pointers. It need not: an operator is a name in the compiled graph,
with one output that it changes, and the layer as a plain number.
"""

from __future__ import annotations

from typing import Any

import torch

# Wrapped layers by their numbers, in the order in which they were made: the same in each start, so a graph that was
# compiled in an earlier one may be kept.
_layers: list[Any] = []


def adopt(layer: Any) -> None:
    """Give a wrapped layer of vLLM its number."""
    layer.loradock_number = len(_layers)
    _layers.append(layer)


def apply_lora_to_output(self: Any, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """In place of BaseLinearLayerWithLoRA's: x (…, in) and output (…, out) become output plus the deltas."""
    add_lora(output, x, self.loradock_number)
    return output


def _add_lora(y: torch.Tensor, x: torch.Tensor, number: int) -> None:
    layer = _layers[number]
    punica = layer.punica_wrapper
    if punica.no_lora:
        return
    if y.ndim == 3:  # models of transformers have a batch dimension of one
        x, y = x.flatten(0, 1), y.flatten(0, 1)
    punica.add_lora_linear(y, x, layer.lora_a_stacked, layer.lora_b_stacked, 1.0, layer.output_slices)


_library = torch.library.Library("loradock", "DEF")
_library.define("add_lora(Tensor(a!) y, Tensor x, int number) -> ()")
_library.impl("add_lora", _add_lora, "CPU")
_library._register_fake("add_lora", lambda y, x, number: None)
add_lora = torch.ops.loradock.add_lora.default
