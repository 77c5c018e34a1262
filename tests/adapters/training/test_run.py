"""A real QLoRA run on a tiny Llama: what it learns, what it writes, what it refuses."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from loradock_adapters.base_model import BaseModel
from loradock_adapters.check import Limits, check_adapter
from loradock_adapters.digest import folder_digest
from loradock_adapters.errors import AdapterRejected
from loradock_adapters.training import export
from loradock_adapters.training.data import tokenize_one
from loradock_adapters.training.errors import DataError, RecipeError, TrainingError, TrainingFailed
from loradock_adapters.training.formats import Example, Message
from loradock_adapters.training.losses import LossPoint, Step
from loradock_adapters.training.manifest import AdapterFacts
from loradock_adapters.training.preparation import prepare
from loradock_adapters.training.run import How, TrainResult, train
from tests.adapters.training.conftest import byte_tokenizer
from tests.adapters.training.making import log_of, manifest_of, write_recipe

RECIPE = """
name = "greeter"
base = "someone/some-model"
description = "Greets."

[data]
train = "train.jsonl"
held_out = "held_out.jsonl"
max_length = 96

[adapter]
rank = 2
alpha = 4

[training]
steps = 6
batch_size = 4
learning_rate = 0.02
warmup_steps = 1
eval_every = 3
eval_examples = 4
seed = 7
"""


class Heard:
    """A progress that remembers."""

    def __init__(self) -> None:
        self.phases: list[str] = []
        self.steps: list[tuple[int, int]] = []
        self.held_out: list[int] = []

    def phase(self, what: str) -> None:
        self.phases.append(what)

    def stepped(self, step: Step, total: int) -> None:
        self.steps.append((step.step, total))

    def evaluated(self, point: LossPoint) -> None:
        self.held_out.append(point.step)


@pytest.fixture(scope="module")
def heard() -> Heard:
    return Heard()


@pytest.fixture(scope="module")
def trained(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory, heard: Heard) -> TrainResult:
    folder = tmp_path_factory.mktemp("run")
    return train(write_recipe(folder, RECIPE), tiny_base, folder / "out", heard)


def test_the_loss_falls_on_what_was_trained_and_on_what_was_held_out(trained: TrainResult) -> None:
    assert trained.losses.train[-1].loss < 0.9 * trained.losses.train[0].loss
    assert trained.losses.held_out[-1].loss < 0.9 * trained.losses.held_out[0].loss


def test_progress_hears_each_step_and_each_evaluation(trained: TrainResult, heard: Heard) -> None:
    assert heard.steps == [(step, 6) for step in range(1, 7)]
    assert heard.held_out == [0, 3, 6]
    assert heard.phases[-1] == "writing the adapter"


def test_the_folder_holds_an_adapter_that_can_be_served(trained: TrainResult, tiny_base: Path) -> None:
    report = check_adapter(trained.folder, BaseModel.read(tiny_base), Limits(max_rank=8, max_bytes=1 << 20))

    assert report.ok, report.faults
    assert {path.name for path in trained.folder.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "manifest.json",
        "loss.png",
        "loss.html",
        "train.jsonl",
    }
    assert trained.folder.parent.name == "out"
    assert [path.name for path in trained.folder.parent.iterdir()] == ["greeter"]


def test_weights_are_bf16_and_every_layer_learned(trained: TrainResult) -> None:
    tensors = load_file(trained.folder / "adapter_model.safetensors")

    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    ups = {name: tensor for name, tensor in tensors.items() if "lora_B" in name}
    assert len(ups) == 2 * 7
    assert all(bool(tensor.any()) for tensor in ups.values())


def test_on_the_unquantised_base_peft_finds_the_answer_likelier_with_the_adapter(
    trained: TrainResult, tiny_base: Path
) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, str(trained.folder)).eval()
    asked = Example((Message("user", "hi 99"), Message("assistant", "hello")))
    tokens = tokenize_one(byte_tokenizer(), asked)
    given = {"input_ids": torch.tensor([tokens.input_ids]), "labels": torch.tensor([tokens.labels])}

    with torch.inference_mode():
        adapted = float(model(**given).loss)
        with model.disable_adapter():
            plain = float(model(**given).loss)

    assert adapted < 0.9 * plain


def test_no_path_of_this_machine_gets_into_the_folder(trained: TrainResult, tiny_base: Path) -> None:
    config = json.loads((trained.folder / "adapter_config.json").read_text())

    assert config["base_model_name_or_path"] == "someone/some-model"
    for name in ("adapter_config.json", "manifest.json"):
        text = (trained.folder / name).read_text()
        assert str(tiny_base.parent) not in text
        assert str(trained.folder.parent.parent) not in text


def test_the_manifest_says_what_the_adapter_was_made_from(trained: TrainResult, tiny_base: Path) -> None:
    manifest = manifest_of(trained)
    recipe = trained.folder.parent.parent / "recipe.toml"

    assert manifest["base"] == {
        "hub_id": "someone/some-model",
        "name": "tiny",
        "digest": BaseModel.read(tiny_base).digest,
    }
    assert manifest["recipe"]["text"] == recipe.read_text()
    assert manifest["adapter"]["digest"] == folder_digest(
        trained.folder, ("adapter_config.json", "adapter_model.safetensors")
    )
    assert (manifest["adapter"]["rank"], manifest["adapter"]["alpha"]) == (2, 4.0)
    assert manifest["data"]["train"]["file"] == "train.jsonl"
    assert (manifest["data"]["train"]["used"], manifest["data"]["train"]["too_long"]) == (12, 0)
    assert [step for step, _ in manifest["losses"]["held_out"]] == [0, 3, 6]
    assert all(math.isfinite(loss) for _, loss in manifest["losses"]["train"])
    assert {"torch", "trl", "peft", "bitsandbytes", "transformers", "python"} <= manifest["versions"].keys()


def test_the_loss_curve_is_a_picture(trained: TrainResult) -> None:
    assert (trained.folder / "loss.png").read_bytes().startswith(b"\x89PNG\r\n")


def test_the_same_recipe_gives_the_same_bytes(trained: TrainResult, tiny_base: Path, tmp_path: Path) -> None:
    again = train(write_recipe(tmp_path, RECIPE), tiny_base, tmp_path / "out")

    assert manifest_of(again)["adapter"]["digest"] == manifest_of(trained)["adapter"]["digest"]
    assert manifest_of(again)["losses"] == manifest_of(trained)["losses"]


def test_an_adapter_that_is_there_is_not_overwritten(tiny_base: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "greeter").mkdir(parents=True)

    with pytest.raises(TrainingError, match=r"greeter exists; move it away or choose another --out"):
        train(write_recipe(tmp_path, RECIPE), tiny_base, tmp_path / "out")


def test_bad_data_is_refused_before_anything_is_loaded(tmp_path: Path, tiny_base: Path) -> None:
    recipe = write_recipe(tmp_path, RECIPE)
    (tmp_path / "held_out.jsonl").write_text("{}\n")
    heard = Heard()

    with pytest.raises(DataError, match=r"held_out\.jsonl: line 1"):
        train(recipe, tiny_base, tmp_path / "out", heard)

    assert heard.phases == []


def test_a_run_that_learns_nothing_fails_and_leaves_no_folder(tiny_base: Path, tmp_path: Path) -> None:
    text = RECIPE.replace("steps = 6", "steps = 1").replace("warmup_steps = 1", "warmup_steps = 5")

    with pytest.raises(TrainingFailed, match="still zero"):
        train(write_recipe(tmp_path, text), tiny_base, tmp_path / "out")

    assert not (tmp_path / "out" / "greeter").exists()


@pytest.mark.parametrize(
    ("old", "new", "limits", "told"),
    [
        ("rank = 2", "rank = 9", Limits(max_rank=8), "rank 9; this server allows 8"),
        ("alpha = 4", 'alpha = 4\ntarget_modules = ["qq_proj", "v_proj"]', None, "target_modules has qq_proj"),
        ("rank = 2", "rank = 2", Limits(max_bytes=1000), "this server allows 1000"),
    ],
)
def test_what_the_server_would_refuse_is_refused_before_data_is_read(
    tiny_base: Path, tmp_path: Path, old: str, new: str, limits: Limits | None, told: str
) -> None:
    recipe = write_recipe(tmp_path, RECIPE.replace(old, new))
    (tmp_path / "train.jsonl").unlink()

    with pytest.raises(AdapterRejected) as caught:
        train(recipe, tiny_base, tmp_path / "out", how=How(limits))

    assert told in str(caught.value)


def test_the_plan_of_an_adapter_says_what_the_adapter_is_then(trained: TrainResult, tiny_base: Path) -> None:
    prepared = prepare(trained.folder.parent.parent / "recipe.toml", tiny_base)
    report = check_adapter(trained.folder, BaseModel.read(tiny_base))

    planned = prepared.report
    assert (planned.rank, planned.alpha, planned.target_modules) == (report.rank, report.alpha, report.target_modules)
    assert planned.parameters == report.parameters


def test_the_result_is_checked_before_its_folder_appears(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should PEFT ever write what a server refuses, here by a field that it ignores in silence."""
    really = export.write_adapter

    def write_adapter(model: PeftModel, folder: Path, *, base_name: str) -> AdapterFacts:
        facts = really(model, folder, base_name=base_name)
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
        return facts

    monkeypatch.setattr("loradock_adapters.training.run.write_adapter", write_adapter)

    with pytest.raises(AdapterRejected, match="use_dora"):
        train(write_recipe(tmp_path, RECIPE), tiny_base, tmp_path / "out")

    assert not (tmp_path / "out" / "greeter").exists()


def test_a_loss_that_is_no_number_ends_the_run_at_once(tiny_base: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(tiny_base, tmp_path / "broken"))
    tensors = load_file(broken / "model.safetensors")
    tensors["model.norm.weight"][0] = math.nan
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    heard = Heard()

    with pytest.raises(TrainingFailed, match="not finite at step 1; lower training.learning_rate"):
        train(write_recipe(tmp_path, RECIPE), broken, tmp_path / "out", heard)

    assert heard.steps == [(1, 6)]


def test_the_manifest_says_what_the_run_took(trained: TrainResult) -> None:
    manifest = manifest_of(trained)
    run = manifest["run"]

    assert (run["steps"], run["planned_steps"], run["planned_epochs"]) == (6, 6, 2.0)
    assert run["tokens"] == sum(line["tokens"] for line in log_of(trained.folder) if "tokens" in line) > 0
    assert run["tokens_per_second"] > 0
    assert run["peak_bytes"]["process"] > 100_000_000
    assert run["early_stopping"] is None
    assert manifest["hardware"]["threads"] == 1


def test_the_log_has_every_step(trained: TrainResult) -> None:
    steps = [line for line in log_of(trained.folder) if "loss" in line]

    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    assert all({"loss", "learning_rate", "grad_norm", "tokens", "seconds"} <= line.keys() for line in steps)
    assert max(line["learning_rate"] for line in steps) == 0.02
    # Two batches of four and one of four make an epoch; every token of the twelve examples was seen twice.
    assert sum(line["tokens"] for line in steps[:3]) == sum(line["tokens"] for line in steps[3:])


def test_a_tracker_that_is_not_installed_is_named_before_anything_starts(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    with pytest.raises(RecipeError, match=r"'mlflow', and the package mlflow is not installed; install it"):
        train(write_recipe(tmp_path, RECIPE), tiny_base, tmp_path / "out", how=How(report_to=("mlflow",)))
