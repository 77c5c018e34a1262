"""The object that vLLM's LoRA layers call, for CPU: same contract as its PunicaWrapperCPU, other arithmetic.

vLLM 0.32 indexes stacked weights with slot -1 for base rows, which in Python is the last slot: a base request beside
any adapter request is answered by somebody's adapter. Here a base row is in no segment and stays untouched.
Embeddings and the logits layer are never wrapped (see --lora-target-modules in `launch`), so they are refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

from . import gemm
from .segments import Segment, find_segments
from .slots import LayerSlots

if TYPE_CHECKING:
    from .native import Step


class SegmentedPunica(PunicaWrapperCPU):  # type: ignore[misc]  # vLLM ships no types to check against
    """Adds LoRA deltas segment by segment. Its state is the current step's segments."""

    # Layers by the identity of the tuple that vLLM hands us for them; filled when the layers are made (vllm_compat).
    layers: dict[int, LayerSlots] = {}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._segments: list[Segment] = []
        # Where a compiled way reads this step's segments (`compiled`); then add_lora_linear is never called.
        self.step: Step | None = None

    def update_metadata(
        self, mapping: Any, lora_index_to_id: list[int | None], max_loras: int, vocab_size: int, **kwargs: Any
    ) -> None:
        """Find this step's segments; vLLM's index tensors are not needed and not built."""
        segments = find_segments(mapping.index_mapping, lora_index_to_id)
        self.no_lora = not segments
        self._segments = segments
        if self.step is not None:
            self.step.begin(np.array(segments, dtype=np.int64).reshape(-1, 3))

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
        if not self.no_lora:
            gemm.add_segments(y, x, self.layers[id(lora_a_stacked)], self._segments)

    def add_lora_embedding(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError("LoRA on embeddings is not served; the adapter check refuses it")

    def add_lora_logits(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError("LoRA on lm_head is not served; the adapter check refuses it")
