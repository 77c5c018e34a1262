"""The object that vLLM's LoRA layers call, for CPU: same contract as its PunicaWrapperCPU, other arithmetic.

vLLM 0.32 indexes stacked weights with slot -1 for base rows, which in Python is the last slot: a base request beside
any adapter request is answered by somebody's adapter. Here a base row is in no segment and stays untouched.
Embeddings and the logits layer are never wrapped (see --lora-target-modules in `launch`), so they are refused.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

from loradock_adapters.processor import Processor

from . import gemm
from .choice import fits_paired
from .segments import Segment, find_segments
from .slots import LayerSlots

if TYPE_CHECKING:
    from .native import Step

# Without AVX512-BF16: segments up to this many rows go through the fused kernel, longer ones through matrix products.
FEW_ROWS = 32
HIGHEST_RANK = 512  # that vLLM knows


class SegmentedPunica(PunicaWrapperCPU):  # type: ignore[misc]  # vLLM ships no types to check against
    """Adds LoRA deltas segment by segment. Its state is the current step's segments and some scratch space."""

    # Layers by the identity of the tuple that vLLM hands us for them; filled when the layers are made (vllm_compat).
    layers: dict[int, LayerSlots] = {}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._segments: list[Segment] = []
        self._long: list[Segment] = []
        self._short: list[Segment] = []
        self._rows = np.empty((0, 2), dtype=np.int64)  # (row, slot) of every row in a short segment
        self._fused: ModuleType | None = None
        self.step: Step | None = None  # where the native kernel reads this step's segments
        self._scratch: tuple[Any, ...] = ()

    def prepare(self, dtype: torch.dtype) -> bool:
        """Choose and compile kernels and size their scratch space, once all layers are known.

        Returns whether weights must be packed in pairs (`slots.Packed`), for `native`: it then reads `step`, and
        add_lora_linear is never called.
        """
        layers = self.layers.values()
        slices = max((len(layer.widths) for layer in layers), default=1)
        if fits_paired(layers, dtype, Processor.here()):
            from . import native, paired  # late, see their docstrings

            self.step = native.Step(np.empty(paired.BLOCK_ROWS * slices * HIGHEST_RANK, dtype=np.uint16))
            return True
        if dtype == torch.bfloat16:
            from . import fused

            self._fused = fused
        self._scratch = (
            np.empty(max((layer.in_features for layer in layers), default=1), dtype=np.float32),
            np.empty(slices * HIGHEST_RANK, dtype=np.float32),
            np.empty(max((int(layer.widths.max()) for layer in layers), default=1), dtype=np.float32),
        )
        return False

    def update_metadata(
        self, mapping: Any, lora_index_to_id: list[int | None], max_loras: int, vocab_size: int, **kwargs: Any
    ) -> None:
        """Find this step's segments; vLLM's index tensors are not needed and not built."""
        segments = find_segments(mapping.index_mapping, lora_index_to_id)
        self.no_lora = not segments
        self._segments = segments
        if self.step is not None:
            self.step.begin(np.array(segments, dtype=np.int64).reshape(-1, 3))
            return
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
        if self._fused is None or x.stride(1) != 1 or y.stride(1) != 1:
            gemm.add_segments(y, x, layer, self._segments)
        else:
            if self._short:
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
