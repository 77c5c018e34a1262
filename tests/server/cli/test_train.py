"""`loradock train` before anything heavy starts: what it refuses, and with which exit code."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result


def test_without_a_base_model_it_says_how_to_get_one(loradock: Callable[..., Result], tmp_path: Path) -> None:
    result = loradock("train", str(tmp_path / "recipe.toml"))

    assert result.exit_code == 2
    assert "loradock base fetch" in result.stderr


def test_without_the_training_packages_it_names_the_extra(
    loradock: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("loradock_adapters.training.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "transformers", None)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("")

    result = loradock("train", str(recipe), "--base", str(tmp_path), "--json")

    assert result.exit_code == 2
    assert "loradock[train]" in json.loads(result.stdout)["error"]["fix"]
