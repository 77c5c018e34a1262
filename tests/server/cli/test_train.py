"""`loradock train` around the training itself: what it refuses, shows and answers, and with which exit code."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import Result

from loradock_adapters.training.errors import RecipeError, TrainingFailed
from loradock_adapters.training.losses import Losses, LossPoint


def test_without_a_base_model_it_says_how_to_get_one(loradock: Callable[..., Result], tmp_path: Path) -> None:
    result = loradock("train", str(tmp_path / "recipe.toml"))

    assert result.exit_code == 2
    assert "loradock base fetch" in result.stderr


def test_without_the_training_packages_it_names_the_extra(
    loradock: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "loradock_adapters.training.run", raising=False)
    for name in ("datasets", "torch", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("")

    result = loradock("train", str(recipe), "--base", str(tmp_path), "--json")

    assert result.exit_code == 2
    assert "loradock[train]" in json.loads(result.stdout)["error"]["fix"]


@dataclass(frozen=True)
class _Result:
    """Has what `training.run.TrainResult` has; importing that one takes torch and seconds."""

    name: str
    folder: Path
    losses: Losses
    seconds: float
    tokens_per_second: float = 800.0
    peak_bytes: dict[str, int] = field(default_factory=lambda: {"process": 1_500_000_000})
    best_step: int | None = None
    stopped_at: int | None = None


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("loradock_adapters.training.run")
    module.How = lambda *arguments, **options: None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


@pytest.mark.parametrize(("error", "exit_code"), [(RecipeError("no name"), 2), (TrainingFailed("no loss"), 1)])
def test_a_wrong_recipe_is_exit_code_2_and_a_failed_run_1(
    loradock: Callable[..., Result], training: ModuleType, tmp_path: Path, error: Exception, exit_code: int
) -> None:
    def train(*arguments: Any) -> Any:
        raise error

    training.train = train  # type: ignore[attr-defined]

    result = loradock("train", "recipe.toml", "--base", str(tmp_path))

    assert result.exit_code == exit_code
    assert f"error: {error}" in result.stderr


def test_a_trained_adapter_goes_into_the_home_folder_and_the_next_steps_are_named(
    loradock: Callable[..., Result], training: ModuleType, home: Path, tmp_path: Path
) -> None:
    def train(recipe: Path, base: Path, out: Path, *others: Any) -> _Result:
        losses = Losses(train=(LossPoint(1, 2.5), LossPoint(2, 0.25)), held_out=())
        return _Result(recipe.stem, out / recipe.stem, losses, 61.0)

    training.train = train  # type: ignore[attr-defined]

    people = loradock("train", "home-commands.toml", "--base", str(tmp_path))
    programs = loradock("train", "home-commands.toml", "--base", str(tmp_path), "--json")

    folder = home / "trained" / "home-commands"
    assert "2.500 → 0.250" in people.stdout
    assert f"loradock adapters register home-commands {folder}" in people.stdout
    answer = json.loads(programs.stdout)
    assert answer["folder"] == str(folder)
    assert answer["losses"]["train"][-1] == {"step": 2, "loss": 0.25}
