"""`loradock evaluate` from flags to verdict, against a server that answers by rule."""

from __future__ import annotations

import hashlib
import json
import math
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from loradock_adapters.evaluation import Evaluation
from tests.fakes.model_server import BASE, DIGEST, STOP, ModelServer, render
from tests.server.cli.scripted_server import running

Run = Callable[..., Result]
QUICK = ("--no-loss", "--no-general")


def wanted(number: int) -> str:
    return json.dumps({"n": number, "even": number % 2 == 0})


def says(model: str, messages: list[dict[str, str]]) -> str:
    """The adapter is right but for every tenth; the base with examples is right for every other; without never."""
    question = messages[-1]["content"]
    if not question.isdecimal():
        return "Paris, I think."  # a general question
    number = int(question)
    if model != BASE:
        return "oops" if number % 10 == 0 else wanted(number)
    if len(messages) > 1 and number % 2:
        return wanted(number)
    return f"The number is {number}."


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelServer]:
    made = ModelServer(says, nats={BASE: 2.0, "helper@3": 0.5})
    with running(made) as url:
        monkeypatch.setenv("LORADOCK_URL", url)
        monkeypatch.setenv("LORADOCK_API_KEY", "ld-test")
        yield made


def write(path: Path, numbers: range) -> Path:
    lines = [json.dumps({"prompt": str(number), "completion": wanted(number)}) for number in numbers]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def flags(tmp_path: Path) -> list[str]:
    data, train = write(tmp_path / "held_out.jsonl", range(40)), write(tmp_path / "train.jsonl", range(100, 150))
    return ["helper", "--data", str(data), "--train", str(train), "--out", str(tmp_path / "out")]


def said(result: Result, code: int = 0) -> Any:
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def test_an_adapter_that_beats_the_prompted_base_is_promoted(
    loradock: Run, server: ModelServer, flags: list[str], tmp_path: Path
) -> None:
    found = said(loradock("evaluate", *flags, "--price-in", "1", "--price-out", "10", "--json"))

    assert found["verdict"]["kind"] == "promote"
    assert (found["verdict"]["metric"], found["verdict"]["rival"]) == ("json_equal", "prompted")
    equal = found["measured"]["json_equal"]
    assert [equal[role]["mean"] for role in ("base", "prompted", "adapter")] == [0.0, 0.5, 0.9]
    over = equal["adapter_over_prompted"]
    # Right where the prompted base was not: the even numbers that are no multiples of ten.
    assert (over["gain"], over["wins"], over["losses"]) == (0.4, 16, 0)
    assert over["p"] == pytest.approx(2 / 2**16, abs=1e-6)
    assert 0 < over["low"] < 0.4 < over["high"]
    loss = found["measured"]["loss"]
    assert [loss[role]["mean"] for role in ("base", "prompted", "adapter")] == [2.0, 2.0, 0.5]
    assert loss["adapter"]["perplexity"] == pytest.approx(1.648721)
    assert loss["adapter_over_base"]["gain"] == 1.5
    assert found["metrics"]["score"] == 0.9
    tokens = found["tokens"]
    assert tokens["prompted"]["prompt_tokens"] > 3 * tokens["adapter"]["prompt_tokens"]
    ours = tokens["adapter"]
    assert ours["cost_per_1000"] == pytest.approx((ours["prompt_tokens"] + 10 * ours["answer_tokens"]) / 1000)
    assert found["forgetting"]["questions"]["adapter"]["mean"] == 1 / 40  # Paris is the answer to one of them

    (attached,) = server.attached
    evaluation = Evaluation.read(attached)
    assert (evaluation.task, evaluation.adapter_digest) == ("helper", DIGEST)
    report = json.loads((tmp_path / "out/report.json").read_text(encoding="utf-8"))
    assert [len(report["examples"]), report["examples"][2]["answers"]["prompted"]] == [40, "The number is 2."]


def test_the_loss_is_of_the_tokens_that_training_learns(loradock: Run, server: ModelServer, flags: list[str]) -> None:
    assert loradock("evaluate", *flags, "--no-general").exit_code == 0
    prompts = [body["prompt"] for path, body in server.asked if path == "/v1/completions"]
    assert len(prompts) == 3 * 40
    texts = {"".join(map(chr, prompt)) for prompt in prompts}
    assert f"<user>7{STOP}\n<assistant>{wanted(7)}{STOP}" in texts
    assert all(text.endswith(STOP) for text in texts)


def test_everybody_decodes_alike_and_is_asked_by_version(loradock: Run, server: ModelServer, flags: list[str]) -> None:
    assert loradock("evaluate", *flags, "--prompt", "Be exact.", "--shots", "2").exit_code == 0
    chats = [body for body in server.chats() if body["messages"][-1]["content"].isdecimal()]
    longest = math.ceil(1.5 * len(wanted(11) + STOP))
    assert {(c["temperature"], c["seed"], c["max_tokens"]) for c in chats} == {(0, 1, longest)}
    prompted = [chat for chat in chats if len(chat["messages"]) > 1]
    assert {chat["model"] for chat in chats} == {BASE, "helper@3"}
    assert len(prompted) == 40
    assert {len(chat["messages"]) for chat in prompted} == {1 + 2 * 2 + 1}
    assert {chat["messages"][0]["content"] for chat in prompted} == {"Be exact."}
    shown = {message["content"] for chat in prompted for message in chat["messages"][1:-1:2]}
    assert all(100 <= int(question) < 150 for question in shown)


def test_an_interrupted_run_goes_on_without_asking_twice(
    loradock: Run, server: ModelServer, flags: list[str], tmp_path: Path
) -> None:
    server.fail_after = 50
    broken = loradock("evaluate", *flags, "--concurrency", "4")
    assert broken.exit_code == 2
    assert "no more" in broken.stderr
    before = len(server.chats())
    assert server.attached == []
    answered_before = len((tmp_path / "out/answers.jsonl").read_text().splitlines())
    assert 50 - 3 <= answered_before <= 50, "those under way beside the one that failed may be lost"

    server.fail_after = None
    assert loradock("evaluate", *flags, "--concurrency", "4").exit_code == 0
    assert len(server.chats()) - before == 3 * 40 + 2 * 40 - answered_before

    asked = len(server.chats())
    losses = sum(path == "/v1/completions" for path, _ in server.asked)
    again = said(loradock("evaluate", *flags, "--json"))
    assert (len(server.chats()), sum(path == "/v1/completions" for path, _ in server.asked)) == (asked, losses)
    assert again["verdict"]["kind"] == "promote"

    assert loradock("evaluate", *flags, "--fresh", *QUICK).exit_code == 0
    assert len(server.chats()) == asked + 3 * 40


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_what_was_answered_before_a_kill_is_not_asked_again(
    loradock: Run, server: ModelServer, flags: list[str], tmp_path: Path, how: signal.Signals, code: int
) -> None:
    server.hold_after = 30
    # One request at a time, so that what the server answered is in the journal when it is asked for more.
    program = str(Path(sys.executable).with_name("loradock"))
    command = [program, "evaluate", *flags, "--concurrency", "1", *QUICK]
    with (tmp_path / "said").open("w") as said_to, subprocess.Popen(command, stderr=said_to) as process:
        try:
            assert server.reached.wait(120), (tmp_path / "said").read_text()
            process.send_signal(how)
            assert process.wait(120) == code, (tmp_path / "said").read_text()
        finally:
            process.kill()
            server.released.set()
    if how is signal.SIGINT:
        assert "interrupted; every answer that came is kept" in (tmp_path / "said").read_text()
    assert len((tmp_path / "out/answers.jsonl").read_text().splitlines()) == 30

    server.hold_after = None
    before = len(server.chats())
    assert loradock("evaluate", *flags, *QUICK).exit_code == 0
    assert len(server.chats()) - before == 3 * 40 - 30


@pytest.mark.parametrize(
    ("extra", "code", "kind"),
    [
        ((), 0, "promote"),
        (("--min-examples", "41"), 3, "not_enough_data"),
        (("--metric", "json_valid"), 0, "promote"),
        # A rule that all of them satisfy.
        (("--metric", "regex", "--regex", "."), 1, "dont"),
        # The base never fails this one, and the adapter nearly always does.
        (("--metric", "regex", "--regex", "The number", "--no-prompted"), 1, "dont"),
    ],
)
def test_the_exit_code_is_the_verdict(
    loradock: Run, server: ModelServer, flags: list[str], extra: tuple[str, ...], code: int, kind: str
) -> None:
    if "--no-prompted" in extra:
        del flags[3:5]
    assert said(loradock("evaluate", *flags, *extra, *QUICK, "--json"), code)["verdict"]["kind"] == kind


def test_people_read_a_table_and_a_verdict(loradock: Run, server: ModelServer, flags: list[str]) -> None:
    result = loradock("evaluate", *flags, "--price-in", "1", "--price-out", "10")
    assert result.exit_code == 0
    asked = [body for body in server.chats() if body["messages"][-1]["content"].isdecimal()]
    prompts = sum(len(render(body["messages"], True)) for body in asked)
    most = sum(body["max_tokens"] for body in asked)
    begun = f"to ask: 120 of 120 answers, {prompts:,} tokens of prompts and at most {most:,} of answers, at most "
    assert f"{begun}{(prompts * 1 + most * 10) / 1e6:.4f}; and as many losses" in result.stderr
    assert "to ask: 0 of 120 answers, 0 tokens" in loradock("evaluate", *flags).stderr
    row = next(line for line in result.stdout.splitlines() if line.startswith("json_equal"))
    assert "0.0 % [0.0, 8.8]" in row
    assert "90.0 %" in row
    assert "+40.0 [" in row
    assert "verdict: promote: better than the prompted base (json_equal +40.0" in result.stdout
    assert "try: loradock adapters promote helper 3" in result.stdout


def test_a_command_judges_answers_without_seeing_keys(
    loradock: Run, server: ModelServer, flags: list[str], tmp_path: Path
) -> None:
    checker = tmp_path / "check.py"
    checker.write_text(
        "import os, pathlib, sys\n"
        "assert not any('KEY' in name for name in os.environ)\n"
        "answer, wanted = (pathlib.Path(name).read_text() for name in sys.argv[1:])\n"
        "sys.exit(answer != wanted)\n"
    )
    command = f"{sys.executable} -S {checker} {{answer}} {{wanted}}"
    found = said(loradock("evaluate", *flags, "--limit", "30", *QUICK, "--command", command, "--json"))
    assert found["verdict"]["metric"] == "pass@1"
    assert (
        found["data_sha256"] != hashlib.sha256((tmp_path / "held_out.jsonl").read_bytes()).hexdigest()
    )  # a part of it
    assert found["measured"]["pass@1"]["adapter"]["mean"] == 0.9
    assert found["measured"]["pass@1"]["prompted"]["mean"] == 0.5


def test_a_judge_that_prefers_a_place_prefers_nobody(loradock: Run, server: ModelServer, flags: list[str]) -> None:
    judge = ModelServer(lambda model, messages: "A")
    with running(_as_judge(judge)) as url:
        found = said(
            loradock(
                "evaluate",
                *flags,
                "--metric",
                "judge",
                "--judge-url",
                url,
                "--judge-model",
                "large",
                "--no-general",
                "--json",
            ),
            1,
        )
    assert found["measured"]["judge"]["adapter"]["mean"] == 0.5
    assert found["verdict"]["line"] == "don't: prompting does as well"
    # Where both said the same, nobody is asked.
    assert len(judge.asked) == 2 * (40 - 20)
    assert any("20 of 40" in note for note in found["notes"])


def _as_judge(judge: ModelServer) -> Any:
    """It answers to any model's name."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        judge.adapter = "large"
        await judge(scope, receive, send)

    return app


def test_leaked_questions_are_refused_before_anybody_is_asked(
    loradock: Run, server: ModelServer, flags: list[str], tmp_path: Path
) -> None:
    write(tmp_path / "train.jsonl", range(39, 90))
    result = loradock("evaluate", *flags)
    assert result.exit_code == 2
    assert "1 of 40 held-out questions stand in" in result.stderr
    assert server.asked == []


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (["nobody", "--no-prompted"], "does not exist"),
        ([BASE, "--no-prompted"], "is the base model"),
        (["helper"], "nothing was given for the base to compete with"),
        (["helper", "--prompt", " "], "the prompt is empty"),
        (["helper", "--no-prompted", "--metric", "bleu"], "no metric 'bleu'"),
        (["helper", "--no-prompted", "--price-in", "1"], "one price is missing"),
        (["helper", "--no-prompted", "--judge-url", "http://x"], "--judge-model"),
        (["helper", "--no-prompted", "--command", "/no/such/program"], "cannot be started"),
        (["helper", "--no-prompted", "--schema", "missing.json"], "missing.json"),
    ],
)
def test_what_cannot_be_evaluated_is_2(
    loradock: Run, server: ModelServer, flags: list[str], change: list[str], match: str
) -> None:
    result = loradock("evaluate", *change, "--data", flags[2], "--out", flags[-1])
    assert result.exit_code == 2
    assert match in result.stderr


@pytest.mark.parametrize("flag", [(), ("--task", "no\nname")])
def test_what_will_not_be_attached_is_said_before_anybody_is_asked(
    loradock: Run, server: ModelServer, flags: list[str], flag: tuple[str, ...]
) -> None:
    server.may_manage = bool(flag)
    result = loradock("evaluate", *flags, *flag)
    assert result.exit_code == 2
    assert ("task is" if flag else "--no-attach") in result.stderr
    assert server.asked == []


def test_a_result_that_cannot_be_attached_is_kept(
    loradock: Run, server: ModelServer, flags: list[str], tmp_path: Path
) -> None:
    server.attach_status = 507
    result = loradock("evaluate", *flags, *QUICK)
    assert result.exit_code == 2
    assert "not attached" in result.stderr
    assert Evaluation.read(json.loads((tmp_path / "out/evaluation.json").read_text(encoding="utf-8"))).task == "helper"
    assert loradock("evaluate", *flags, *QUICK, "--no-attach").exit_code == 0
