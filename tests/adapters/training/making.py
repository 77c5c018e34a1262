"""Recipes with a few examples beside them, and what a run left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from loradock_adapters.training.run import TrainResult


def write_recipe(folder: Path, text: str) -> Path:
    """A recipe and its two data files: twelve examples to train on, six held out."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.toml").write_text(text)
    for name, first, count in (("train", 0, 12), ("held_out", 100, 6)):
        rows = [
            {"messages": [{"role": "user", "content": f"hi {i}"}, {"role": "assistant", "content": "hello"}]}
            for i in range(first, first + count)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return folder / "recipe.toml"


def manifest_of(result: TrainResult) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((result.folder / "manifest.json").read_text())
    return document


def log_of(folder: Path) -> list[dict[str, Any]]:
    """The lines of a folder's log."""
    return [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
