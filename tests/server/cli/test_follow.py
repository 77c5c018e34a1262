"""Registrations that take longer than the server lets a client wait: followed to their end, or left alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from loradock_server.cli import follow
from tests.server.cli.scripted_server import ScriptedServer

Run = Callable[..., Result]
ID = "op-0123456789abcdef"
RUNNING = {
    "object": "operation",
    "id": ID,
    "adapter": "support-bot",
    "state": "running",
    "stage": "fetching",
    "done": 1_200_000,
    "total": None,
}
REGISTERED = {
    "id": "support-bot@2",
    "name": "support-bot",
    "digest": "ab" * 32,
    "created": True,
    "aliases": ["live"],
    "probe": {"result": "passed", "effect": 0.5, "reason": None},
}
PROBING = RUNNING | {"stage": "probing", "done": 0, "total": 1}
SUCCEEDED = PROBING | {"state": "succeeded", "status": 201, "result": REGISTERED}
ERROR = {"message": "2 faults", "code": "adapter_rejected", "faults": [{"code": "shape", "where": "q_proj"}]}
FAILED = RUNNING | {"state": "failed", "stage": "checking", "status": 422, "error": ERROR}


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "POLL_SECONDS", 0)


def script(server: ScriptedServer, *answers: dict[str, Any]) -> None:
    for number, answer in enumerate(answers):
        server.enqueue(202 if number == 0 else 200, answer)


def test_register_follows_the_operation_and_tells_of_its_result(
    loradock: Run, server: ScriptedServer, adapter_folder: Path
) -> None:
    script(server, RUNNING, RUNNING | {"stage": "checking", "total": 8_000_000}, PROBING, SUCCEEDED)
    result = loradock("adapters", "register", "support-bot", str(adapter_folder))
    assert result.exit_code == 0, result.output
    assert "registered support-bot@2" in result.stdout
    assert "passed, moves a logprob by 0.5" in result.stdout
    assert [seen.path for seen in server.history[1:]] == [f"/admin/operations/{ID}"] * 3
    assert server.history[0].headers["prefer"].startswith("respond-async")


def test_with_json_the_answer_is_the_one_that_waiting_would_have_given(
    loradock: Run, server: ScriptedServer, adapter_folder: Path
) -> None:
    script(server, RUNNING, SUCCEEDED, RUNNING, FAILED)
    done = loradock("adapters", "register", "support-bot", str(adapter_folder), "--json")
    failed = loradock("adapters", "register", "support-bot", str(adapter_folder), "--json")
    assert json.loads(done.stdout) == REGISTERED
    assert failed.exit_code == 1
    assert json.loads(failed.stdout)["error"] == ERROR | {"status": 422}


def test_an_operation_that_fails_fails_the_command_with_every_fault(loradock: Run, server: ScriptedServer) -> None:
    script(server, RUNNING, FAILED)
    result = loradock("adapters", "register", "support-bot", "/srv/bot", "--on-server")
    assert result.exit_code == 1
    assert "shape" in result.stderr
    assert "q_proj" in result.stderr


def test_a_server_that_goes_away_meanwhile_leaves_the_way_to_look_again(
    loradock: Run, server: ScriptedServer, adapter_folder: Path
) -> None:
    script(server, RUNNING)
    server.enqueue(502, "<html>bad gateway</html>")
    result = loradock("adapters", "register", "support-bot", str(adapter_folder))
    assert result.exit_code == 2
    assert f"loradock adapters operation {ID}" in result.stderr


def test_a_registration_that_was_not_probed_says_why(
    loradock: Run, server: ScriptedServer, adapter_folder: Path
) -> None:
    probe = {"result": "not_probed", "reason": "the engine is starting", "effect": None}
    server.enqueue(201, REGISTERED | {"probe": probe})
    result = loradock("adapters", "register", "support-bot", str(adapter_folder))
    assert "not probed: the engine is starting" in result.stdout


def test_one_that_runs_is_shown_with_how_much_is_done(loradock: Run, server: ScriptedServer) -> None:
    server.enqueue(200, RUNNING | {"total": 4_800_000})
    shown = loradock("adapters", "operation", ID)
    assert "1.2 MB of 4.8 MB" in shown.stdout
    assert f"try: loradock adapters operation {ID} --wait" in shown.stdout
    server.enqueue(200, {"data": [RUNNING], "has_more": False})
    assert "1.2 MB" in loradock("adapters", "operations").stdout
