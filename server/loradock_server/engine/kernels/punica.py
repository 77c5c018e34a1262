"""The object that vLLM's LoRA layers call, for CPU: same contract as its PunicaWrapperCPU, other arithmetic.

vLLM 0.32 indexes stacked weights with slot -1 for base rows, which in Python is the last slot: a base request beside
any adapter request is answered by somebody's adapter. Here a base row is in no segment and stays untouched.
Embeddings and the logits layer are never wrapped (see --lora-target-modules in `launch`), so they are refused.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

from . import gemm
from .segments import Segment, find_segments
from .slots import LayerSlots

# Segments up to this many rows go through the fused kernel, longer ones through matrix products (make bench-kernels).
FEW_ROWS = 32


class SegmentedPunica(PunicaWrapperCPU):  # type: ignore[misc]  # vLLM ships no types to check against
    """Adds LoRA deltas segment by segment. Its state is the current step's segments and some scratch space."""

    # Layers by the identity of the tuple that vLLM hands us for them; filled when the layers are made (vllm_compat).
    layers: dict[int, LayerSlots] = {}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._long: list[Segment] = []
        self._short: list[Segment] = []
        self._rows = np.empty((0, 2), dtype=np.int64)  # (row, slot) of every row in a short segment
        self._fused: ModuleType | None = None
        self._scratch: tuple[Any, ...] = ()

    def prepare(self) -> None:
        """Compile the fused kernel and size its scratch space, once all layers are known."""
        from . import fused  # late, see its docstring

        features = max((layer.in_features for layer in self.layers.values()), default=1)
        width = max((int(layer.widths.max()) for layer in self.layers.values()), default=1)
        slices = max((len(layer.widths) for layer in self.layers.values()), default=1)
        self._scratch = (
            np.empty(features, dtype=np.float32),
            np.empty(slices * 512, dtype=np.float32),  # 512: the highest rank vLLM knows
            np.empty(width, dtype=np.float32),
        )
        self._fused = fused

    def update_metadata(
        self, mapping: Any, lora_index_to_id: list[int | None], max_loras: int, vocab_size: int, **kwargs: Any
    ) -> None:
        """Find this step's segments; vLLM's index tensors are not needed and not built."""
        segments = find_segments(mapping.index_mapping, lora_index_to_id)
        self.no_lora = not segments
        self._short = [s for s in segments if s.end - s.start <= FEW_ROWS]
        self._long = [s for s in segments if s.end - s.start > FEW_ROWS]
        rows = [(row, s.slot) for s in self._short for row in range(s.start, s.end)]
        self._rows = np.array(rows, dtype=np.int64).reshape(-1, 2)

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        lora_b_stacked: tuple[torch.Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        **kwargs: Any,
    ) -> None:
        """y += delta, in place. x: (rows, in), y: (rows, out); `scale` is 1: vLLM folds it into B."""
        if self.no_lora:
            return
        layer = self.layers[id(lora_a_stacked)]
        if self._fused is None or x.dtype != torch.bfloat16 or x.stride(1) != 1 or y.stride(1) != 1:
            gemm.add_segments(y, x, layer, self._short)
        elif self._short:
            self._fused.add_rows(
                x.data_ptr(),
                x.stride(0),
                y.data_ptr(),
                y.stride(0),
                layer.in_features,
                self._rows,
                layer.table,
                layer.widths,
                *self._scratch,
            )
        gemm.add_segments(y, x, layer, self._long)

    def add_lora_embedding(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError("LoRA on embeddings is not served; the adapter check refuses it")

    def add_lora_logits(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError("LoRA on lm_head is not served; the adapter check refuses it")
