"""Runs that are killed, stopped or changed half way: what is kept, what goes on, and that it ends in the same bytes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from loradock_adapters.training.errors import CannotResume, TrainingError, TrainingStopped
from loradock_adapters.training.identity import RunIdentity
from loradock_adapters.training.losses import LossPoint, Step
from loradock_adapters.training.partial import Partial
from loradock_adapters.training.recipe import parse_recipe
from loradock_adapters.training.run import How, TrainResult, train
from loradock_adapters.training.stopping import StopRequest
from tests.adapters.training.making import log_of, manifest_of, write_recipe

# Ten steps over epochs of three, with dropout: order of data and random numbers must go on too.
RECIPE = """
name = "greeter"
base = "someone/some-model"

[data]
train = "train.jsonl"
held_out = "held_out.jsonl"
max_length = 96

[adapter]
rank = 2
dropout = 0.1

[training]
steps = 10
batch_size = 4
learning_rate = 0.02
warmup_steps = 1
eval_every = 7
eval_examples = 4
checkpoint_every = 3
seed = 7
"""

# In a process of its own: trains, and is killed by signal 9 when all files of the second checkpoint are written and
# it is about to appear.
KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from loradock_adapters.training import checkpoints
from loradock_adapters.training.run import train

torch.set_num_threads(1)
really = checkpoints.sync_folder

def sync_folder(path):
    if path.name == "checkpoint-6" and path.parent.name == "writing":
        os.kill(os.getpid(), signal.SIGKILL)
    really(path)

checkpoints.sync_folder = sync_folder
train(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
"""


class StopsAt:
    """A progress that asks the run to stop at a step, as Ctrl-C would."""

    def __init__(self, step: int) -> None:
        self.request = StopRequest()
        self.seen: list[int] = []
        self._step = step

    def phase(self, what: str) -> None: ...

    def stepped(self, step: Step, total: int) -> None:
        self.seen.append(step.step)

    def evaluated(self, point: LossPoint) -> None: ...


@pytest.fixture(scope="module")
def whole(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """The run that nobody disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    return train(write_recipe(folder, RECIPE), tiny_base, folder / "out")


@pytest.fixture(scope="module")
def broken_off(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a recipe whose run was stopped after step 7: amid an epoch, after an evaluation."""
    recipe = write_recipe(tmp_path_factory.mktemp("stopped") / "broken off", RECIPE)
    stopped = stop_at(6, recipe, tiny_base)
    assert (stopped.step, stopped.total) == (7, 10)
    assert str(stopped) == "stopped: everything up to step 7 of 10 is kept"
    return recipe.parent


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return write_recipe(tmp_path, RECIPE)


@pytest.fixture
def stopped(broken_off: Path, tmp_path: Path) -> Path:
    """The recipe of a copy of it."""
    return Path(shutil.copytree(broken_off, tmp_path / "stopped")) / "recipe.toml"


def stop_at(step: int, recipe: Path, base: Path, how: How | None = None) -> TrainingStopped:
    """Train until the step after this one."""
    progress = StopsAt(step)

    class Asking(StopsAt):
        def stepped(self, one: Step, total: int) -> None:
            if one.step == step:
                progress.request.ask()

    with pytest.raises(TrainingStopped) as caught:
        train(recipe, base, recipe.parent / "out", Asking(step), how, progress.request)
    return caught.value


def partial_of(recipe: Path) -> Path:
    return recipe.parent / "out" / "greeter.partial"


def same(one: TrainResult, other: TrainResult) -> bool:
    """Adapter, losses and all that the log says but the time."""
    logs = [
        [{name: value for name, value in line.items() if name != "seconds"} for line in log_of(result.folder)]
        for result in (one, other)
    ]
    digests = [manifest_of(result)["adapter"]["digest"] for result in (one, other)]
    return one.losses == other.losses and logs[0] == logs[1] and digests[0] == digests[1]


def test_killed_while_a_checkpoint_appears_it_goes_on_from_the_one_before_to_the_same_bytes(
    recipe: Path, tiny_base: Path, whole: TrainResult
) -> None:
    out = recipe.parent / "out"
    child = subprocess.run(
        [sys.executable, "-c", KILLED, str(recipe), str(tiny_base), str(out)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    partial = out / "greeter.partial"
    assert (partial / "writing" / "checkpoint-6" / "optimizer.pt").exists()
    assert sorted(path.name for path in partial.glob("checkpoint-*")) == ["checkpoint-3"]
    assert log_of(partial)[-1]["step"] == 6
    told: list[str] = []
    progress = StopsAt(0)

    result = train(recipe, tiny_base, out, progress, How(resume=True, told=told.append))

    assert told == ["going on after step 3 of 10"]
    assert progress.seen == [4, 5, 6, 7, 8, 9, 10]
    assert same(result, whole)
    assert [path.name for path in out.iterdir()] == ["greeter"]


def test_stopped_and_gone_on_with_it_ends_in_the_same_bytes(stopped: Path, tiny_base: Path, whole: TrainResult) -> None:
    assert same(train(stopped, tiny_base, stopped.parent / "out", how=How(resume=True)), whole)


def test_killed_after_the_last_step_only_the_writing_is_left(
    recipe: Path, tiny_base: Path, whole: TrainResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("loradock_adapters.training.run.finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(recipe, tiny_base, recipe.parent / "out")
    progress = StopsAt(0)

    result = train(recipe, tiny_base, recipe.parent / "out", progress, How(resume=True))

    assert progress.seen == []
    assert same(result, whole)


def test_a_damaged_checkpoint_is_passed_over(stopped: Path, tiny_base: Path, whole: TrainResult) -> None:
    with (partial_of(stopped) / "checkpoint-7" / "optimizer.pt").open("r+b") as file:
        file.truncate(100)
    told: list[str] = []

    result = train(stopped, tiny_base, stopped.parent / "out", how=How(resume=True, told=told.append))

    assert told == ["going on after step 6 of 10"]
    assert same(result, whole)


def test_what_was_broken_off_is_neither_thrown_away_nor_gone_on_with_unasked(stopped: Path, tiny_base: Path) -> None:
    with pytest.raises(CannotResume, match=r"broken off after step 7: --resume goes on with it, --restart throws"):
        train(stopped, tiny_base, stopped.parent / "out")

    assert (partial_of(stopped) / "checkpoint-7").exists()


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("recipe", r"training\.learning_rate was 0\.02 and is 0\.01"),
        ("data", r"data \(train\) was .* and is "),
        ("base", r"base model was .* and is "),
    ],
)
def test_another_recipe_data_or_base_is_told_and_not_gone_on_with(
    stopped: Path, tiny_base: Path, tmp_path: Path, what: str, told: str
) -> None:
    base = tiny_base
    if what == "recipe":
        stopped.write_text(RECIPE.replace("0.02", "0.01"))
    elif what == "data":
        data = stopped.parent / "train.jsonl"
        data.write_text(data.read_text().replace("hello", "hallo"))
    else:
        base = Path(shutil.copytree(tiny_base, tmp_path / "other"))
        (base / "generation_config.json").write_text("{}")

    with pytest.raises(CannotResume, match=told):
        train(stopped, base, stopped.parent / "out", how=How(resume=True))


def test_comments_and_what_changes_no_number_do_not_make_a_recipe_another_one() -> None:
    same_run = "# as it was" + RECIPE.replace("checkpoint_every = 3", 'checkpoint_every = 1\nreport_to = ["mlflow"]')
    one, other = (RunIdentity.of(parse_recipe(text), {}, "", "float32", {}) for text in (RECIPE, same_run))

    assert other.differences(one) == []


def test_a_run_goes_on_in_the_numbers_that_it_was_begun_in_or_says_how_to(stopped: Path, tiny_base: Path) -> None:
    run_file = partial_of(stopped) / "run.json"
    document = json.loads(run_file.read_text())
    here = document["facts"]["training.compute_dtype"]
    other = "float32" if here == "bfloat16" else "bfloat16"
    document["facts"]["training.compute_dtype"] = other  # as another machine would have chosen
    run_file.write_text(json.dumps(document))

    with pytest.raises(CannotResume, match=rf'training\.compute_dtype was "{other}" and is "{here}"'):
        train(stopped, tiny_base, stopped.parent / "out", how=How(resume=True))

    stopped.write_text(RECIPE + f'compute_dtype = "{other}"\n')
    assert train(stopped, tiny_base, stopped.parent / "out", how=How(resume=True)).name == "greeter"


def test_a_run_of_before_there_was_a_choice_was_computed_in_bfloat16(stopped: Path) -> None:
    run_file = partial_of(stopped) / "run.json"
    document = json.loads(run_file.read_text())
    del document["facts"]["training.compute_dtype"]
    run_file.write_text(json.dumps(document))

    before = RunIdentity.read(partial_of(stopped))

    assert before is not None
    assert before.facts["training.compute_dtype"] == "bfloat16"


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("quantization", ["nf4", "none"])
def test_in_any_numbers_a_stopped_run_ends_in_the_same_bytes(
    tiny_base: Path, tmp_path: Path, dtype: str, quantization: str
) -> None:
    text = RECIPE + f'compute_dtype = "{dtype}"\n[quantization]\ntype = "{quantization}"\n'
    undisturbed, stopped = (write_recipe(tmp_path / name, text) for name in ("whole", "stopped"))
    stop_at(4, stopped, tiny_base)

    whole = train(undisturbed, tiny_base, undisturbed.parent / "out")

    assert same(train(stopped, tiny_base, stopped.parent / "out", how=How(resume=True)), whole)
    assert manifest_of(whole)["run"]["compute"] == {"dtype": dtype, "reason": "the recipe says so"}


def test_a_restart_begins_again(stopped: Path, tiny_base: Path) -> None:
    again = stop_at(1, stopped, tiny_base, How(restart=True))

    assert again.step == 2
    assert [path.name for path in partial_of(stopped).glob("checkpoint-*")] == ["checkpoint-2"]


def test_nothing_to_go_on_from_is_a_beginning(recipe: Path, tiny_base: Path) -> None:
    told: list[str] = []

    stop_at(1, recipe, tiny_base, How(resume=True, told=told.append))

    assert told[0] == "there is no checkpoint to go on from: training from the beginning"
    assert [line.split(":")[0] for line in told[1:]] in (["computing in bfloat16"], ["computing in float32"])


def test_two_runs_do_not_share_a_folder(recipe: Path, tiny_base: Path) -> None:
    with (
        Partial(recipe.parent / "out", "greeter"),
        pytest.raises(TrainingError, match=r"another process trains in .*greeter\.partial"),
    ):
        train(recipe, tiny_base, recipe.parent / "out")


def test_the_folder_of_a_run_says_how_far_it_is_and_keeps_two_checkpoints(stopped: Path) -> None:
    partial = partial_of(stopped)

    assert sorted(path.name for path in partial.glob("checkpoint-*")) == ["checkpoint-6", "checkpoint-7"]
    lines = log_of(partial)
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6, 7]
    assert [line["step"] for line in lines if "held_out_loss" in line] == [0, 7]
    assert json.loads((partial / "run.json").read_text())["facts"]["training.steps"] == 10
    page = (partial / "loss.html").read_text()
    assert 'http-equiv="refresh"' in page
    assert "of 10" in page
