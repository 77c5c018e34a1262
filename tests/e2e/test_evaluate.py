"""`loradock evaluate` on the real engine: an adapter of ours against its base, prompted and not."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from loradock_adapters.base_model import BaseModel
from loradock_adapters.training.data import read_examples, tokenize_one
from tests.e2e.server import EXAMPLES, LORADOCK, Server

pytestmark = pytest.mark.e2e

EXAMPLE = EXAMPLES / "home-commands"
DATA = EXAMPLE / "data/held_out.jsonl"
COMPARED = 6


def evaluate(server: Server, *flags: str, codes: tuple[int, ...] = (0,)) -> Any:
    keys = {"LORADOCK_API_KEY": server.key, "LORADOCK_JUDGE_KEY": server.key}
    environment = {**os.environ, **keys, "LORADOCK_URL": server.url}
    command = [str(LORADOCK), "evaluate", "home-commands", "--data", str(DATA), *flags, "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in codes, done.stdout + done.stderr
    return json.loads(done.stdout)


def losses_by_transformers(base: BaseModel) -> list[float]:
    """Nats per token of the first wanted answers, by the adapter, in float32, of the tokens that training learns."""
    import torch  # here and not above: every collection of tests would wait for them
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base.folder, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(base.folder, dtype=torch.float32, local_files_only=True)
    model = PeftModel.from_pretrained(model, str(EXAMPLE / "adapter")).eval()
    found = []
    for example in read_examples(DATA).examples[:COMPARED]:
        tokens = tokenize_one(tokenizer, example)
        with torch.inference_mode():
            loss = model(input_ids=torch.tensor([tokens.input_ids]), labels=torch.tensor([tokens.labels])).loss
        found.append(float(loss))
    return found


def test_an_adapter_that_learned_its_task_is_promoted_and_the_figures_are_right(
    server: Server, base: BaseModel, tmp_path: Path
) -> None:
    prompted = ("--train", str(EXAMPLE / "data/train.jsonl"), "--shots", "2", "--prompt", "Answer with JSON.")
    limits = ("--limit", "24", "--min-examples", "20", "--max-tokens", "48")
    found = evaluate(server, *limits, *prompted, "--out", str(tmp_path))

    assert found["verdict"]["kind"] == "promote"
    assert (found["verdict"]["metric"], found["adapter"]) == ("json_equal", "home-commands@1")
    equal = found["measured"]["json_equal"]
    assert equal["adapter"]["mean"] > 0.25  # 47 % of all 150
    assert equal["base"]["mean"] < 0.1
    assert found["tokens"]["prompted"]["prompt_tokens"] > found["tokens"]["adapter"]["prompt_tokens"] + 50
    # SmolLM2 knows some of it; none or all would mean that the questions tell nothing.
    assert 0.2 < found["forgetting"]["questions"]["base"]["mean"] < 1
    assert 1 < found["forgetting"]["text"]["base"]["mean"] < 5

    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    measured = [example["values"]["loss"]["adapter"] for example in report["examples"][:COMPARED]]
    # The engine computes in bfloat16: a few hundredths of a nat, where other tokens would be tenths and more.
    assert measured == pytest.approx(losses_by_transformers(base), abs=0.05)

    listed = server.get("/admin/adapters/home-commands/versions/1/evaluations").json()["data"]
    assert listed[0]["task"] == "home-commands"
    assert listed[0]["metrics"]["score"] == equal["adapter"]["mean"]

    # Everything is known already: no answer is asked for again, whatever is measured of it.
    counted = server.metric("loradock_requests_total", operation="chat")
    other = ("--metric", "field_f1", "--min-examples", "25", "--no-attach", "--out", str(tmp_path))
    again = evaluate(server, *limits, *prompted, *other, codes=(3,))
    assert again["verdict"]["kind"] == "not_enough_data"
    assert server.metric("loradock_requests_total", operation="chat") == counted

    # The base as a judge: not a good one, but a model that answers in its own words.
    few = ("--limit", "6", "--min-examples", "2", "--max-tokens", "48", "--no-general", "--no-loss", "--no-attach")
    judging = ("--metric", "judge", "--judge-url", server.url, "--judge-model", found["base"])
    judged = evaluate(server, *few, *prompted, *judging, "--out", str(tmp_path), codes=(0, 1, 3))
    assert judged["measured"]["judge"]["adapter"]["n"] == 6
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    answers = [example["answers"] for example in report["examples"]]
    differ = sum(one["adapter"].strip() != one["prompted"].strip() for one in answers)
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    said = [line["said"] for line in lines if line.get("kind") == "judgement"]
    assert len(said) == 2 * differ > 0
    assert all(text.strip() for text in said)
