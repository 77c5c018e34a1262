"""A base model's linear modules from its config.json alone: the model is built without a number in it.

For judging adapters where the weights are not at hand. Runs no code from the folder. Imports torch and transformers
only when called.
"""

from __future__ import annotations

from pathlib import Path

from loradock_adapters.base_model import BaseModel, LinearShape
from loradock_adapters.errors import BaseModelError


def read_from_config(folder: Path) -> BaseModel:
    """The base model of a folder without weights. Raises BaseModelError, also where transformers is missing."""
    try:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM
    except ImportError as error:
        raise BaseModelError(
            f"{folder} has no weights, and without them it takes transformers to know the model: "
            f"pip install 'loradock[train]' ({error})"
        ) from error
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError) as error:
        raise BaseModelError(f"{folder}: transformers cannot build this model: {error}") from error
    head = model.get_output_embeddings()
    modules = {
        name: LinearShape(module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }
    return BaseModel.read(folder, modules=modules)
