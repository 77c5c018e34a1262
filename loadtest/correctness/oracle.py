"""The truth about adapters: transformers and PEFT on the same base, one sequence at a time, without a cache.

PEFT makes the adapters as well as judging them, so nothing of ours stands between a recipe and its logprobs.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]

# What PEFT's LoraConfig can ask of us, by name.
RECIPES: dict[str, dict[str, Any]] = {
    "rank-1": {"r": 1, "lora_alpha": 2, "target_modules": "all-linear"},
    "rank-3": {"r": 3, "lora_alpha": 5, "target_modules": "all-linear"},
    "rank-5-mlp": {"r": 5, "lora_alpha": 16, "target_modules": MLP},
    "rank-13": {"r": 13, "lora_alpha": 13, "target_modules": "all-linear"},
    "rank-16-attention": {"r": 16, "lora_alpha": 32, "target_modules": ATTENTION},
    "rank-64": {"r": 64, "lora_alpha": 16, "target_modules": "all-linear"},
    "rslora": {"r": 8, "lora_alpha": 16, "use_rslora": True, "target_modules": "all-linear"},
    "patterns": {
        "r": 8,
        "lora_alpha": 16,
        "target_modules": [*ATTENTION, "down_proj"],
        "rank_pattern": {"q_proj": 3, "layers.2.self_attn.v_proj": 32, r"layers\.1\d\.mlp\.down_proj": 2},
        "alpha_pattern": {"v_proj": 5, "down_proj": 40},
    },
    "rslora-patterns": {
        "r": 4,
        "lora_alpha": 8,
        "use_rslora": True,
        "target_modules": ["k_proj", "up_proj"],
        "rank_pattern": {"up_proj": 7},
        "alpha_pattern": {"layers.5.mlp.up_proj": 3},
    },
    "one-module": {"r": 8, "lora_alpha": 16, "target_modules": ["model.layers.7.mlp.down_proj"]},
    "one-kind": {"r": 4, "lora_alpha": 4, "target_modules": ["v_proj"]},  # a slice of what vLLM computes as one
    "regex": {"r": 6, "lora_alpha": 9, "target_modules": r".*\.layers\.(3|4|20)\.self_attn\.(q|o)_proj"},
    # Not "layers": PEFT looks for the names of other adapters in the paths of modules when it saves one.
    "some-layers": {"r": 8, "lora_alpha": 8, "target_modules": [*ATTENTION, *MLP], "layers_to_transform": [0, 11, 29]},
}
MORE_RECIPES: dict[str, dict[str, Any]] = {
    **{
        f"rank-{rank}-long": {"r": rank, "lora_alpha": 2 * rank, "target_modules": "all-linear"}
        for rank in (2, 4, 7, 8, 16, 31, 32, 33, 48, 63)
    },
    **{f"only-{kind}": {"r": 8, "lora_alpha": 16, "target_modules": [kind]} for kind in [*ATTENTION, *MLP]},
    "gate-without-up": {"r": 9, "lora_alpha": 3, "target_modules": ["gate_proj", "q_proj"]},
    "one-layer": {"r": 64, "lora_alpha": 128, "target_modules": [*ATTENTION, *MLP], "layers_to_transform": 29},
    "zero-layer": {"r": 1, "lora_alpha": 1, "target_modules": ATTENTION, "layers_to_transform": [0]},
}


class Oracle:
    """The base in float32 and any number of adapters on it, by name; None is the base alone."""

    def __init__(self, base: Path, device: str = "cpu") -> None:
        self.device = device
        self._base = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).to(device).eval()
        self._model: Any = None
        self._seen: dict[tuple[str | None, tuple[int, ...]], npt.NDArray[np.float32]] = {}

    def make(self, name: str, folder: Path, recipe: dict[str, Any], *, seed: int, strength: float = 0.15) -> Path:
        """Let PEFT make an adapter with random A and B, and save it below `folder`; returns its own folder.

        `strength`: how much of an input of 1 a touched module lets through its delta, whatever rank and scale.
        """
        config = LoraConfig(task_type="CAUSAL_LM", **recipe)
        if self._model is None:
            self._model = get_peft_model(self._base, config, adapter_name=name)
        else:
            self._model.add_adapter(name, config)
        random = torch.Generator().manual_seed(seed)
        for module in self._layers(name):
            a, b = module.lora_A[name].weight, module.lora_B[name].weight
            a.data.normal_(0, 1 / math.sqrt(a.shape[1]), generator=random)
            b.data.normal_(0, strength / (module.scaling[name] * math.sqrt(b.shape[1])), generator=random)
        self._model.save_pretrained(folder, selected_adapters=[name], save_embedding_layers=False)
        return folder / name

    def load(self, name: str, folder: Path) -> None:
        """Take an adapter that somebody else made."""
        if self._model is None:
            self._model = PeftModel.from_pretrained(self._base, folder, adapter_name=name)
        else:
            self._model.load_adapter(folder, adapter_name=name)
        self._model.eval()

    def modules(self, name: str) -> int:
        """How many modules an adapter touches."""
        return len(self._layers(name))

    def logprobs(self, name: str | None, tokens: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """Logprobs of every next token after each of these: (tokens, vocabulary)."""
        if (name, tokens) not in self._seen:
            self._seen[name, tokens] = self._compute(name, tokens)
        return self._seen[name, tokens]

    def _compute(self, name: str | None, tokens: tuple[int, ...]) -> npt.NDArray[np.float32]:
        ids = torch.tensor([tokens], device=self.device)
        with torch.inference_mode():
            if name is not None:
                self._model.set_adapter(name)
                logits = self._model(ids).logits
            elif self._model is not None:
                with self._model.disable_adapter():
                    logits = self._model(ids).logits
            else:
                logits = self._base(ids).logits
            result: npt.NDArray[np.float32] = torch.log_softmax(logits[0].float(), dim=-1).cpu().numpy()
        return result

    def _layers(self, name: str) -> list[Any]:
        return [m for m in self._model.modules() if name in getattr(m, "lora_B", {})]
