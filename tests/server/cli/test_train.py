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

from loradock_adapters.base_model import BaseModel
from loradock_adapters.faults import Report
from loradock_adapters.planning.training_dtype import DtypeChoice
from loradock_adapters.training.errors import CannotResume, RecipeError, TrainingFailed, TrainingStopped
from loradock_adapters.training.lint import Advice
from loradock_adapters.training.losses import Losses, LossPoint
from loradock_adapters.training.schedule import Schedule
from tests.server.cli.scripted_server import ScriptedServer

Invoke = Callable[..., Result]


def test_without_a_base_model_it_says_how_to_get_one(loradock: Invoke, tmp_path: Path) -> None:
    result = loradock("train", str(tmp_path / "recipe.toml"))

    assert result.exit_code == 2
    assert "loradock base fetch" in result.stderr


def test_without_the_training_packages_it_names_the_extra(
    loradock: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("examination", "preparation", "cost"):
        monkeypatch.delitem(sys.modules, f"loradock_adapters.training.{name}", raising=False)
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


@dataclass(frozen=True)
class _Tokens:
    examples: tuple[str, ...] = ("one", "two")


@dataclass(frozen=True)
class _Input:
    tokens: _Tokens = _Tokens()


@dataclass(frozen=True)
class _Recipe:
    name: str = "home-commands"


@dataclass(frozen=True)
class _Prepared:
    """Likewise, of `training.preparation.Prepared`."""

    base: BaseModel
    recipe: _Recipe = _Recipe()
    train: _Input = _Input()
    longest: int = 61
    schedule: Schedule = Schedule(120, 6, 1.5)
    report: Report = Report((), (), 8, 16.0, ("q_proj", "v_proj"), 460_800, 921_600)


@dataclass(frozen=True)
class _Examined:
    prepared: _Prepared
    advice: tuple[Advice, ...] = ()
    compute: DtypeChoice = DtypeChoice("float32", "an old processor")
    cost: None = None


BASE = BaseModel(Path("base"), "smol", "ab" * 32, "bfloat16", "", 10, {})
STRAYS = Advice("training.learning_rate", "0.1 is above the usual", "1e-4 to 3e-4")


class Training:
    """The training packages, as far as the command sees them; `outcome` is what the run does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.advice: tuple[Advice, ...] = ()
        self.asked: Any = None
        self.outcome: Exception | None = None
        self.broken: Exception | None = None
        self.trained = 0
        examination = ModuleType("loradock_adapters.training.examination")
        examination.examine_recipe = self._examine  # type: ignore[attr-defined]
        run = ModuleType("loradock_adapters.training.run")
        run.How = _How  # type: ignore[attr-defined]
        run.train_prepared = self._train  # type: ignore[attr-defined]
        for module in (examination, run):
            monkeypatch.setitem(sys.modules, module.__name__, module)

    def _examine(self, *_: Any) -> _Examined:
        if self.broken:
            raise self.broken
        return _Examined(_Prepared(BASE), self.advice)

    def _train(self, prepared: _Prepared, out: Path, progress: Any, how: Any, stop: Any) -> _Result:
        self.asked = how
        if self.outcome:
            raise self.outcome
        self.trained += 1
        folder = out / prepared.recipe.name
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text("{}")
        (folder / "adapter_model.safetensors").write_bytes(b"weights")
        losses = Losses(train=(LossPoint(1, 2.5), LossPoint(2, 0.25)), held_out=())
        return _Result(prepared.recipe.name, folder, losses, 61.0)


@dataclass(frozen=True)
class _How:
    limits: Any
    resume: bool
    restart: bool
    told: Any


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Training:
    return Training(monkeypatch)


def test_a_wrong_recipe_is_exit_code_2(loradock: Invoke, training: Training, tmp_path: Path) -> None:
    training.broken = RecipeError("no name")

    result = loradock("train", "recipe.toml", "--base", str(tmp_path))

    assert result.exit_code == 2
    assert "error: no name" in result.stderr


@pytest.mark.parametrize(
    ("error", "exit_code", "told"),
    [
        (TrainingFailed("no loss"), 1, "error: no loss"),
        (CannotResume("another run"), 1, "error: another run"),
        (TrainingStopped(40, 120), 130, "everything up to step 40 of 120 is kept"),
    ],
)
def test_how_a_run_ended_is_seen_in_the_exit_code(
    loradock: Invoke, training: Training, tmp_path: Path, error: Exception, exit_code: int, told: str
) -> None:
    training.outcome = error

    result = loradock("train", "recipe.toml", "--base", str(tmp_path), "--out", "o")

    assert result.exit_code == exit_code
    assert told in result.stderr
    assert ("loradock train recipe.toml --out o --resume" in result.stderr) == (exit_code == 130)


def test_a_trained_adapter_goes_into_the_home_folder_and_the_next_steps_are_named(
    loradock: Invoke, training: Training, home: Path, tmp_path: Path
) -> None:
    people = loradock("train", "home-commands.toml", "--base", str(tmp_path))
    programs = loradock("train", "home-commands.toml", "--base", str(tmp_path), "--out", "elsewhere", "--json")

    folder = home / "trained" / "home-commands"
    assert "2.500 → 0.250" in people.stdout
    assert "1.5 GB (process)" in people.stdout
    assert f"loradock adapters register home-commands {folder}" in people.stdout
    answer = json.loads(programs.stdout)
    assert answer["folder"] == "elsewhere/home-commands"
    assert answer["losses"]["train"][-1] == {"step": 2, "loss": 0.25}
    assert (answer["tokens_per_second"], answer["warnings"]) == (800.0, [])


def test_what_strays_is_a_warning_and_the_run_goes_on(loradock: Invoke, training: Training, tmp_path: Path) -> None:
    training.advice = (STRAYS,)

    result = loradock("train", "recipe.toml", "--base", str(tmp_path))

    assert result.exit_code == 0
    assert "warning: training.learning_rate: 0.1 is above the usual (usual: 1e-4 to 3e-4)" in result.stderr


def test_strictly_what_strays_is_an_error(loradock: Invoke, training: Training, tmp_path: Path) -> None:
    training.advice = (STRAYS,)

    result = loradock("train", "recipe.toml", "--base", str(tmp_path), "--strict")

    assert (result.exit_code, training.trained) == (1, 0)
    assert "1 warning, and --strict takes none: training.learning_rate" in result.stderr


def test_a_check_trains_nothing(loradock: Invoke, training: Training, tmp_path: Path) -> None:
    training.advice = (STRAYS,)

    people = loradock("train", "recipe.toml", "--base", str(tmp_path), "--check")
    programs = loradock("train", "recipe.toml", "--base", str(tmp_path), "--check", "--json")

    assert (people.exit_code, programs.exit_code, training.trained) == (0, 0, 0)
    assert "120 steps, 1.5 epochs of 2 examples" in people.stdout
    assert "float32: an old processor" in people.stdout
    document = json.loads(programs.stdout)
    assert document["compute"] == {"dtype": "float32", "reason": "an old processor"}
    assert (document["steps"], document["adapter"]["rank"]) == (120, 8)
    assert document["warnings"][0]["where"] == "training.learning_rate"


def test_resume_and_restart_exclude_each_other(loradock: Invoke, training: Training, tmp_path: Path) -> None:
    both = loradock("train", "recipe.toml", "--base", str(tmp_path), "--resume", "--restart")
    one = loradock("train", "recipe.toml", "--base", str(tmp_path), "--resume")

    assert (both.exit_code, one.exit_code) == (2, 0)
    assert (training.asked.resume, training.asked.restart) == (True, False)


def listed(digest: str | None) -> dict[str, Any]:
    return {"object": "list", "data": [{"id": "smol", "parent": None, "digest": digest}, {"id": "a", "parent": "smol"}]}


def test_it_asks_the_server_before_training_and_registers_after(
    loradock: Invoke, training: Training, server: ScriptedServer, tmp_path: Path
) -> None:
    server.enqueue(200, {"object": "list", "data": []})
    server.enqueue(200, listed(BASE.digest))
    server.enqueue(201, {"id": "lights@1", "name": "lights", "version": 1, "aliases": ["live"], "created": True})

    result = loradock("train", "recipe.toml", "--base", str(tmp_path), "--register", "lights", "--json")

    assert result.exit_code == 0, result.stdout
    assert json.loads(result.stdout)["registered"]["id"] == "lights@1"
    assert [(seen.method, seen.path) for seen in server.history] == [
        ("GET", "/admin/adapters"),
        ("GET", "/v1/models"),
        ("POST", "/admin/adapters/lights/versions"),
    ]
    assert server.history[-1].files["adapter_model.safetensors"] == b"weights"


def test_another_base_model_on_the_server_is_told_before_training(
    loradock: Invoke, training: Training, server: ScriptedServer, tmp_path: Path
) -> None:
    server.enqueue(200, {"object": "list", "data": []})
    server.enqueue(200, listed("cd" * 32))

    result = loradock("train", "recipe.toml", "--base", str(tmp_path), "--register", "lights")

    assert (result.exit_code, training.trained) == (1, 0)
    assert "another base model (digest cdcdcdcdcdcd…) than smol (abababababab…)" in result.stderr


def test_a_key_that_may_not_register_is_told_before_training(
    loradock: Invoke, training: Training, server: ScriptedServer, tmp_path: Path
) -> None:
    server.enqueue(403, {"error": {"message": "this key has no admin scope", "code": "insufficient_scope"}})

    result = loradock("train", "recipe.toml", "--base", str(tmp_path), "--register", "lights")

    assert (result.exit_code, training.trained) == (1, 0)
    assert "no admin scope" in result.stderr


def test_when_registering_fails_after_training_it_says_where_the_adapter_lies(
    loradock: Invoke, training: Training, server: ScriptedServer, tmp_path: Path
) -> None:
    server.enqueue(200, {"object": "list", "data": []})
    server.enqueue(403, {"error": {"message": "no inference scope", "code": "insufficient_scope"}})
    server.enqueue(507, {"error": {"message": "the disk is full", "code": "storage"}})

    result = loradock("train", "recipe.toml", "--base", str(tmp_path), "--register", "lights", "--out", "o")

    assert (result.exit_code, training.trained) == (1, 1)
    assert "may not see the server's base model" in result.stderr
    assert "the adapter is safe in o/home-commands; loradock adapters register lights o/home-commands" in result.stderr
