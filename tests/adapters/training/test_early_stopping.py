"""Stopping once the held-out loss falls no more: the best evaluation's adapter is kept, and it is said."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from loradock_adapters.training.checkpoints import BEST_FILE
from loradock_adapters.training.errors import TrainingFailed, TrainingStopped
from loradock_adapters.training.losses import LossPoint, Step
from loradock_adapters.training.recipe import EarlyStopping
from loradock_adapters.training.run import How, TrainResult, train
from loradock_adapters.training.stopping import StopRequest, Watch
from tests.adapters.training.making import manifest_of, write_recipe

# The held-out answers are others than the trained ones, so that learning makes them unlikelier before long.
RECIPE = """
name = "greeter"
base = "someone/some-model"

[data]
train = "train.jsonl"
held_out = "held_out.jsonl"
max_length = 96

[adapter]
rank = 4

[quantization]
type = "none"

[training]
steps = 40
batch_size = 4
learning_rate = 0.02
eval_every = 2
checkpoint_every = 2
early_stopping = {patience = 2}
seed = 7
"""


def recipe_in(folder: Path, held_out_answer: str = "help") -> Path:
    recipe = write_recipe(folder, RECIPE)
    held_out = folder / "held_out.jsonl"
    held_out.write_text(held_out.read_text().replace("hello", held_out_answer))
    return recipe


@pytest.fixture(scope="module")
def stopped(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    folder = tmp_path_factory.mktemp("stopped")
    return train(recipe_in(folder), tiny_base, folder / "out")


def test_it_stops_two_evaluations_after_the_best(stopped: TrainResult) -> None:
    best = min(stopped.losses.held_out, key=lambda point: point.loss)

    assert best.step > 0
    assert stopped.best_step == best.step
    assert stopped.stopped_at == best.step + 4 < 40
    assert stopped.losses.train[-1].step == stopped.stopped_at


def test_the_manifest_says_so(stopped: TrainResult) -> None:
    run = manifest_of(stopped)["run"]

    assert run["early_stopping"]["best_step"] == stopped.best_step
    assert run["early_stopping"]["stopped_at"] == stopped.stopped_at
    assert run["early_stopping"]["patience"] == 2
    assert (run["steps"], run["planned_steps"]) == (stopped.stopped_at, 40)


def test_the_adapter_is_that_of_the_best_evaluation(stopped: TrainResult, tiny_base: Path, tmp_path: Path) -> None:
    """The same run, stopped by hand just behind the best evaluation, has its weights in the checkpoint."""
    assert stopped.best_step is not None
    recipe = recipe_in(tmp_path)
    request = StopRequest()

    class Asking:
        def phase(self, what: str) -> None: ...

        def stepped(self, step: Step, total: int) -> None:
            if step.step == stopped.best_step:
                request.ask()

        def evaluated(self, point: LossPoint) -> None: ...

    with pytest.raises(TrainingStopped):
        train(recipe, tiny_base, tmp_path / "out", Asking(), stop=request)
    checkpoint = tmp_path / "out" / "greeter.partial" / f"checkpoint-{stopped.best_step + 1}"
    best = {name.replace(".default", ""): tensor for name, tensor in load_file(checkpoint / BEST_FILE).items()}
    kept = load_file(stopped.folder / "adapter_model.safetensors")

    assert best.keys() == kept.keys()
    assert all(bool((best[name].to(kept[name].dtype) == kept[name]).all()) for name in kept)

    again = train(recipe, tiny_base, tmp_path / "out", how=How(resume=True))
    assert (again.best_step, again.stopped_at) == (stopped.best_step, stopped.stopped_at)
    assert manifest_of(again)["adapter"]["digest"] == manifest_of(stopped)["adapter"]["digest"]


def test_a_run_that_never_gets_better_than_the_base_fails(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed, match=r"never fell below the base model's .*answers worse"):
        train(recipe_in(tmp_path, held_out_answer="\u0142\u00f8\u01dd\u0142\u00f8"), tiny_base, tmp_path / "out")

    left = {path.name for path in (tmp_path / "out" / "greeter.partial").iterdir()}
    assert left == {".lock", "run.json", "train.jsonl", "loss.html"}


def test_a_gain_below_the_smallest_that_counts_is_none() -> None:
    watch = Watch(EarlyStopping(patience=2, min_delta=0.1))

    told = [watch.told(LossPoint(step, loss)) for step, loss in ((0, 2.0), (1, 1.5), (2, 1.45), (3, 1.39), (4, 1.4))]

    assert told == [True, True, False, True, False]
    assert (watch.failed, watch.enough) == (1, False)
    assert watch.told(LossPoint(5, float("nan"))) is False
    assert watch.enough
