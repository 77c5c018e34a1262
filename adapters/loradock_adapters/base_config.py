"""A base model without its weights, for judging adapters where only the configuration is at hand."""

from __future__ import annotations

from pathlib import Path

from loradock_adapters.base_model import BaseModel
from loradock_adapters.base_modules import read_modules


def read_from_config(folder: Path) -> BaseModel:
    """The base model of a folder without weights. Raises BaseModelError, also where transformers is missing."""
    return BaseModel.read(folder, modules=read_modules(folder))
