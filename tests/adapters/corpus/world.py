"""The base model of the corpus, and the one way its adapters are made: by PEFT, then changed where a case says so.

A Llama of two layers with random weights is faithful enough: names, shapes and PEFT's code paths are a large one's.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from safetensors.torch import load_file, save_file

from loradock_adapters.base_model import BaseModel
from loradock_adapters.check import Limits
from loradock_adapters.peft_folder import CONFIG_FILE, WEIGHTS_FILE

HUB_ID = "someone/Tiny-Llama"
VOCABULARY = 64
TEMPLATE = "{% for m in messages %}<s>{{ m['content'] }}{% endfor %}"
LIMITS = Limits(max_rank=16, max_bytes=1 << 19)
ATTENTION = ["q_proj", "v_proj"]

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class World:
    """`base` is what the check knows of the model, `model` gives the model itself, as transformers loads it."""

    base: BaseModel
    pristine: Any

    def model(self) -> Any:
        return copy.deepcopy(self.pristine)


def build_world(folder: Path) -> World:
    model = llama()
    model.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    words = {f"w{number}": number for number in range(60)}
    added = [{"id": 60, "content": "<s>"}, {"id": 61, "content": "</s>"}]
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": words}, "added_tokens": added}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    (folder / "loradock-base.json").write_text(json.dumps({"name": "tiny-llama", "hub_id": HUB_ID, "digest": "d" * 64}))
    return World(BaseModel.read(folder), transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))


def llama(hidden: int = 32, layers: int = 2) -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )
    return transformers.LlamaForCausalLM(config)


def adapted(world: World, *, model: Any = None, trained: bool = True, **config: Any) -> Any:
    """A PEFT model; `trained` gives every matrix and vector of the adapter some other numbers."""
    lora = peft.LoraConfig(**{"r": 4, "target_modules": ATTENTION, "task_type": "CAUSAL_LM", **config})
    torch.manual_seed(2)
    return shaken(peft.get_peft_model(world.model() if model is None else model, lora), trained)


def shaken(model: Any, trained: bool = True) -> Any:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and trained:
                parameter += torch.randn_like(parameter) * 0.05
    return model


def saved(model: Any, folder: Path, *, dtype: torch.dtype | None = None, embeddings: bool = False, **how: Any) -> None:
    """As a trainer leaves it, with the base model's hub id."""
    if dtype is not None:
        model.to(dtype)
    model.save_pretrained(folder, save_embedding_layers=embeddings, **how)
    change_config(folder, base_model_name_or_path=HUB_ID)


def change_config(folder: Path, **fields: Any) -> None:
    path = folder / CONFIG_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def change_tensors(folder: Path, change: Callable[[Tensors], Tensors]) -> None:
    path = folder / WEIGHTS_FILE
    save_file({name: tensor.contiguous() for name, tensor in change(load_file(path)).items()}, path)
