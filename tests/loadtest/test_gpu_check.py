"""The report of `make gpu-check`, and that a failure is one: without a server."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("peft")

from loadtest.correctness.asking import Reply
from loadtest.gpu_check import answers, checks, hardware
from loadtest.gpu_check.findings import Findings, Step
from loradock_server.engine.selftest import LOGPROBS, PASSED

NVIDIA_SMI = """#!/bin/sh
[ "$1" = "--query-gpu=name,memory.total,driver_version,compute_cap" ] || exit 2
echo "NVIDIA H100 80GB HBM3, 81559 MiB, 570.86.15, 9.0"
"""


def reply(tokens: tuple[int, ...], *likeliest: dict[int, float]) -> Reply:
    logprobs = tuple(its[token] for token, its in zip(tokens, likeliest, strict=True))
    return Reply("m", (1, 2), tokens, logprobs, likeliest, (-1.0,), 0)


def test_the_report_has_every_step_with_its_figures_and_what_failed(tmp_path: Path) -> None:
    said: list[str] = []
    findings = Findings({"model": "a model"}, said.append)
    with findings.step("start", "it starts") as step:
        step.figures["ready after, s"] = 12.345
    assert findings.passed
    with findings.step("oracle", "as PEFT has it") as step:
        step.figures["largest"] = math.inf
        step.must(False, "a logprob is 3 from PEFT's")
        step.must(False, "and another")
    with findings.step("hot load", "adapters come"):
        raise ConnectionError("the server has gone")
    with findings.step("bench", "speed") as step:
        step.skipped = "left out"

    path = findings.write(tmp_path)

    text, kept = path.read_text(), json.loads((tmp_path / "report.json").read_text())
    assert text.startswith("# LoRADock on this machine: FAIL")
    assert "| start: it starts | **PASS** | ready after, s 12.3 |" in text
    assert "**oracle**: a logprob is 3 from PEFT's" in text
    assert "**hot load**: ConnectionError: the server has gone" in text
    assert [step["verdict"] for step in kept["steps"]] == ["PASS", "FAIL", "FAIL", "SKIPPED"]
    assert kept["steps"][1]["figures"] == {"largest": "inf"}
    assert not kept["passed"]
    assert any(line.startswith("FAIL    oracle") for line in said)


def test_a_run_in_which_nothing_was_checked_has_not_passed() -> None:
    assert not Findings({}, lambda _: None).passed


def test_the_gpus_are_those_that_nvidias_tool_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert hardware.gpus() == []
    tool = tmp_path / "nvidia-smi"
    tool.write_text(NVIDIA_SMI)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert hardware.about()["GPU"] == "NVIDIA H100 80GB HBM3, 81559 MiB, 570.86.15, 9.0"


@pytest.mark.parametrize(
    ("beside", "problem"),
    [
        ({5: -0.2, 6: -1.8}, ""),
        ({5: -0.9, 6: -0.6}, "an answer moved by 0.7 in company"),
    ],
)
def test_an_answer_that_moves_in_company_fails_the_isolation(beside: dict[int, float], problem: str) -> None:
    base, loud = reply((5,), {5: -0.2, 6: -1.8}), reply((6,), {5: -9.0, 6: -0.01})
    step = Step("isolation", "")
    answers.apart_in_company(step, [(None, (1, 2)), ("loud", (1, 2))], [base, loud], [reply((5,), beside), loud], 0.5)
    assert step.problem.startswith(problem)
    assert bool(step.problem) == bool(problem)


def test_an_adapter_that_does_nothing_fails_the_isolation() -> None:
    base = reply((5,), {5: -0.2, 6: -1.8})
    step = Step("isolation", "")
    answers.apart_in_company(step, [(None, (1, 2)), ("loud", (1, 2))], [base, base], [base, base], 0.5)
    assert "is it applied?" in step.problem


class Peft:
    """In place of the oracle: the same logprobs for every token of any sequence."""

    device = "cuda"

    def __init__(self, of_base: float, of_adapters: float) -> None:
        self._gaps = {True: of_base, False: of_adapters}

    def logprobs(self, name: str | None, tokens: tuple[int, ...]) -> np.ndarray:
        return np.full((len(tokens), 10), -1.0 + self._gaps[name is None], dtype=np.float32)


@pytest.mark.parametrize(
    ("dtype", "of_base", "of_adapters", "passes"),
    [
        ("float32", 0.0, 5e-4, True),  # on a GPU, which adds in another order
        ("float32", 0.0, 2e-3, False),
        ("bfloat16", 0.1, 0.25, True),
        ("bfloat16", 0.1, 0.35, False),
    ],
)
def test_what_is_near_to_peft_depends_on_the_dtype(
    dtype: str, of_base: float, of_adapters: float, passes: bool
) -> None:
    step = Step("oracle", "")
    asked = [(None, (1, 2)), ("a", (1, 2))]
    replies = [reply((5,), {5: -1.0})] * 2
    answers.as_peft_has_it(step, Peft(of_base, of_adapters), asked, replies, dtype)  # type: ignore[arg-type]
    assert (not step.problem) is passes, step.problem


def test_the_self_tests_figures_are_read_from_the_engines_log() -> None:
    findings = Findings({}, lambda _: None)
    checks.check_self_test(
        findings,
        "INFO loradock.engine: " + PASSED % (4.1, LOGPROBS.name, 4.8e-06, 5.2e-06, math.inf) + "\n",
    )
    assert findings.steps[0].figures == {"base noise": 4.8e-06, "base beside adapters": 5.2e-06, "effect": math.inf}
    checks.check_self_test(findings, "nothing of it")
    assert findings.steps[1].problem == "the engine's log has no self-test"
