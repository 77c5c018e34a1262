"""Hand-made safetensors files, base models and adapters for tests, written byte by byte without torch.

Faithful enough because `test_peft_made.py` checks the same rules on what PEFT and transformers really write.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HIDDEN, FEED_FORWARD, LAYERS = 8, 12, 2
LINEAR = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.v_proj": (HIDDEN, 4),
    "mlp.down_proj": (FEED_FORWARD, HIDDEN),
}
_NAMES = {
    "float32": "F32",
    "float16": "F16",
    "float64": "F64",
    "uint16": "BF16",
    "uint8": "U8",
    "int8": "I8",
    "int32": "I32",
}

Tensors = Mapping[str, NDArray[Any]]


def safetensors_bytes(tensors: Tensors, *, header: dict[str, Any] | None = None) -> bytes:
    """A sound file of these arrays (uint16 stands for BF16), or one with another header before the same data."""
    sound: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, array in tensors.items():
        start, data = len(data), data + array.tobytes()
        sound[name] = {
            "dtype": _NAMES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [start, len(data)],
        }
    text = json.dumps(sound if header is None else header).encode()
    return len(text).to_bytes(8, "little") + text + data


def write_base(folder: Path, *, name: str = "tiny") -> Path:
    """A model folder with two layers of three linear modules, embeddings, a norm and a head."""
    base = folder / name
    base.mkdir()
    config = {"architectures": ["LlamaForCausalLM"], "vocab_size": 32, "dtype": "bfloat16"}
    (base / "config.json").write_text(json.dumps(config))
    tensors = {
        "model.embed_tokens.weight": np.zeros((32, HIDDEN), np.float32),
        "model.norm.weight": np.zeros(HIDDEN, np.float32),
        "lm_head.weight": np.zeros((32, HIDDEN), np.float32),
    }
    for layer in range(LAYERS):
        for module, (inside, outside) in LINEAR.items():
            tensors[f"model.layers.{layer}.{module}.weight"] = np.zeros((outside, inside), np.float32)
    (base / "model.safetensors").write_bytes(safetensors_bytes(tensors))
    return base


def lora_tensors(rank: int = 2, *, modules: tuple[str, ...] = tuple(LINEAR)) -> dict[str, NDArray[Any]]:
    """A/B pairs for every layer's modules of `write_base`, all ones."""
    tensors: dict[str, NDArray[Any]] = {}
    for layer in range(LAYERS):
        for module in modules:
            inside, outside = LINEAR[module]
            key = f"base_model.model.model.layers.{layer}.{module}"
            tensors[f"{key}.lora_A.weight"] = np.ones((rank, inside), np.float32)
            tensors[f"{key}.lora_B.weight"] = np.ones((outside, rank), np.float32)
    return tensors


def lora_config(rank: int = 2, **fields: Any) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": "someone/tiny",
        "r": rank,
        "lora_alpha": 4,
        "target_modules": sorted(module.rpartition(".")[2] for module in LINEAR),
        "bias": "none",
        **fields,
    }


def write_adapter(folder: Path, *, config: Any = None, tensors: Tensors | None = None) -> Path:
    """A PEFT folder; `config` may be a dictionary or raw bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    config = lora_config() if config is None else config
    raw = config if isinstance(config, bytes) else json.dumps(config).encode()
    (folder / "adapter_config.json").write_bytes(raw)
    weights = safetensors_bytes(lora_tensors() if tensors is None else tensors)
    (folder / "adapter_model.safetensors").write_bytes(weights)
    return folder
