"""From a file of examples to an answer, by the commands that docs/training.md names, one after the other."""

from __future__ import annotations

import json
from pathlib import Path

import openai
import pytest

from loradock_adapters.base_model import BaseModel
from tests.e2e.server import EXAMPLES, Server

pytestmark = pytest.mark.e2e

DATA = EXAMPLES / "home-commands/data"
PROMPT = "Answer with the intent of the command as JSON, and nothing else."
LEARNED, ASKED = 400, 32
# So short a run learns the form, which four examples in a prompt show as well, and a little of what is behind it: the
# loss tells it.
RECIPE = """
name = "house"
base = "HuggingFaceTB/SmolLM2-135M-Instruct"

[data]
train = "train.jsonl"
held_out = "held_out.jsonl"
max_length = 96

[adapter]
rank = 4
alpha = 8

[quantization]
type = "nf4"

[training]
steps = 20
batch_size = 8
learning_rate = 2e-3
warmup_steps = 2
eval_every = 20
eval_examples = 8
seed = 3
"""


@pytest.mark.timeout(1800)
def test_data_is_checked_planned_for_trained_on_evaluated_promoted_and_answered(
    server: Server, base: BaseModel, tmp_path: Path
) -> None:
    train, held_out, recipe = tmp_path / "train.jsonl", tmp_path / "held_out.jsonl", tmp_path / "recipe.toml"
    for path, count in ((train, LEARNED), (held_out, ASKED)):
        path.write_text("".join((DATA / path.name).read_text().splitlines(keepends=True)[:count]))
    recipe.write_text(RECIPE)

    checked = server.loradock("data", "check", str(train), "--held-out", str(held_out), "--max-length", "96")
    assert checked["usable"] == LEARNED
    assert not [finding for finding in checked["findings"] if finding["level"] == "fault"]

    planned = server.loradock("plan", str(base.folder), "--rank", "4", "--batch-size", "8", "--sequence-length", "96")
    assert planned["recommended"]["method"] in ("lora", "qlora")

    trained = server.loradock("train", str(recipe), timeout=1200)
    learned = [point["loss"] for point in trained["losses"]["held_out"]]
    assert learned[-1] < learned[0] / 2

    made = server.loradock("adapters", "register", "house", trained["folder"], "--no-promote")
    assert made["id"] == "house@1"
    with pytest.raises(openai.NotFoundError):
        server.client().models.retrieve("house")

    options = ("--data", str(held_out), "--train", str(train), "--shots", "4", "--prompt", PROMPT, "--no-general")
    judged = server.loradock("evaluate", "house@1", *options, "--metric", "loss", "--max-tokens", "32", timeout=600)
    assert judged["verdict"]["kind"] == "promote", judged

    server.loradock("adapters", "promote", "house", "1")
    (evaluation,) = server.loradock("adapters", "evaluations", "house@1")["data"]
    assert evaluation["task"] == "house"

    asked = json.loads(held_out.read_text().splitlines()[0])["messages"][:-1]
    answer = server.client().chat.completions.create(model="house", messages=asked, max_tokens=48, temperature=0)
    assert answer.model == "house@1"
    assert "intent" in json.loads(answer.choices[0].message.content or "")
