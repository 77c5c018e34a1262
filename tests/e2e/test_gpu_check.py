"""`make gpu-check` in its short form, on the server that tests share: what it says of it, and of a mix-up."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("peft")

from loadtest.bench.servers import Running
from loadtest.gpu_check import answers, checks, hardware
from loadtest.gpu_check.checks import SHORT
from loadtest.gpu_check.findings import Findings
from loradock_adapters.base_model import BaseModel
from tests.e2e.reporting import report
from tests.e2e.server import Server

pytestmark = pytest.mark.e2e


def test_a_sound_server_passes_every_step_and_another_adapters_answers_do_not(
    exact: Server, base: BaseModel, tmp_path: Path
) -> None:
    running = Running(exact.url, exact.key, base.name, exact.home, engine_token=exact.env["LORADOCK_ENGINE_TOKEN"])
    findings = Findings(hardware.about(), report)
    made = answers.make_adapters(tmp_path, base, SHORT.adapters)
    with findings.step("start", "its engine is ready") as step:
        dtype = checks.state(step, running)
    assert dtype == "float32"
    checks.check_self_test(findings, exact.engine_log())
    checks.register(findings, running, made)
    asked, replies = checks.ask_for_oracle(findings, running, base, made, SHORT)
    checks.check_isolation(findings, running, base, made, SHORT, dtype)
    checks.check_hot_load(findings, running, base, made, SHORT, tmp_path, dtype)
    checks.check_oracle(findings, base, made, asked, replies, dtype, "cpu")
    assert findings.passed, findings.as_markdown()
    assert {step.verdict for step in findings.steps} == {"PASS"}

    # The same answers, said to be by each other's adapters.
    swapped = {"check-loud-0": "check-loud-1", "check-loud-1": "check-loud-0"}
    wrong = Findings({}, report)
    mixed_up = [(swapped.get(name or "", name), prompt) for name, prompt in asked]
    checks.check_oracle(wrong, base, made, mixed_up, replies, dtype, "cpu")
    assert not wrong.passed
    assert "from PEFT's, more than 0.0001" in wrong.steps[0].problem
