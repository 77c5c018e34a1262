"""A recipe with real data and a real base, looked at before it is trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from loradock_adapters.check import Limits
from loradock_adapters.training.errors import DataError
from loradock_adapters.training.examination import examine_recipe
from loradock_adapters.training.preparation import prepare
from tests.adapters.training.conftest import byte_tokenizer
from tests.adapters.training.making import write_recipe

RECIPE = """
name = "greeter"
base = "someone/some-model"

[data]
train = "train.jsonl"
held_out = "held_out.jsonl"
max_length = 96

[training]
epochs = 2
batch_size = 4
"""


def test_it_counts_examples_steps_and_bytes(tiny_base: Path, tmp_path: Path) -> None:
    examined = examine_recipe(write_recipe(tmp_path, RECIPE), tiny_base, Limits())

    assert examined.prepared.schedule.steps == 6
    assert examined.prepared.longest == max(len(one.input_ids) for one in examined.prepared.train.tokens.examples)
    assert examined.cost is not None
    document = examined.cost.as_dict()
    assert document["needs_bytes"] > document["peak"]["bytes"] > 0
    assert (document["steps"], document["device"]) == (6, "cpu")
    assert document["seconds"] > 0
    assert [one.where for one in examined.advice] == ["data.train", "training.eval_every"]


def test_questions_in_both_files_and_examples_left_out_are_seen(tiny_base: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, RECIPE.replace("max_length = 96", "max_length = 64"))
    train, held_out = tmp_path / "train.jsonl", tmp_path / "held_out.jsonl"
    lines = train.read_text().splitlines()
    held_out.write_text(held_out.read_text() + lines[0] + "\n")
    train.write_text("\n".join([*lines, lines[0].replace("hello", "hello " * 20)]) + "\n")

    advice = {one.where: one.text for one in examine_recipe(recipe, tiny_base, Limits()).advice}

    assert advice["data.held_out"].startswith("1 of its questions are trained on too")
    assert advice["data.max_length"].startswith("1 of 13 examples are longer than 64 tokens")


def test_a_run_that_does_not_fit_is_told(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sysconf", lambda name: {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1000}[name])

    examined = examine_recipe(write_recipe(tmp_path, RECIPE), tiny_base, Limits())

    assert "GB are needed, and cpu has 0.0 GB" in examined.advice[-1].text


def test_a_base_without_a_chat_template_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    base = tmp_path / "plain"
    base.mkdir()
    for path in tiny_base.iterdir():
        (base / path.name).write_bytes(path.read_bytes())
    for path in base.glob("*.jinja"):
        path.unlink()
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(base)

    with pytest.raises(DataError, match="has no chat template"):
        prepare(write_recipe(tmp_path, RECIPE), base)
