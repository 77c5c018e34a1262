"""`loradock adapters evaluations`, and `--force`: what is sent and what is shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from typer.testing import Result

from tests.server.cli.scripted_server import ScriptedServer

Run = Callable[..., Result]


def test_an_evaluation_is_attached_and_listed(loradock: Run, server: ScriptedServer, tmp_path: Path) -> None:
    document = {"task": "t", "metrics": {"score": 0.5}}
    (tmp_path / "result.json").write_text(json.dumps(document))
    view = {"id": 7, **document, "data_sha256": "ab" * 32, "created_by": "me"}
    server.enqueue(201, view)
    attached = loradock("adapters", "evaluations", "bot@2", "--attach", "result.json")
    assert attached.exit_code == 0, attached.output
    assert (server.history[0].method, server.history[0].json) == ("POST", document)
    assert server.history[0].path == "/admin/adapters/bot/versions/2/evaluations"
    assert "loradock adapters promote bot 2" in attached.stdout
    server.enqueue(200, {"object": "list", "data": [view]})
    listed = loradock("adapters", "evaluations", "bot@2").stdout
    assert listed.splitlines()[1].split()[:4] == ["7", "t", "score=0.5", "abababababab"]


def test_a_file_that_is_no_json_object_is_refused_here(loradock: Run, server: ScriptedServer, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("[1]")
    for name in ("bad.json", "absent.json"):
        result = loradock("adapters", "evaluations", "bot@2", "--attach", name)
        assert result.exit_code == 2
        assert name in result.stderr
    assert server.history == []


def test_force_sends_its_reason_and_a_refusal_has_the_numbers(loradock: Run, server: ScriptedServer) -> None:
    message = "the promotion gate refuses it: bot@2: score 0.4 on t, bot@1 has 0.5"
    server.enqueue(409, {"error": {"message": message, "type": "x", "code": "promotion_refused"}})
    refused = loradock("adapters", "promote", "bot", "2")
    assert refused.exit_code == 1
    assert "0.4" in refused.stderr
    server.enqueue(200, {"name": "bot", "alias": "live", "version": 2})
    server.enqueue(200, {"name": "bot", "alias": "live", "split": {"1": 9, "2": 1}})
    loradock("adapters", "promote", "bot", "2", "--force", "it must be")
    loradock("adapters", "split", "bot", "1=9", "2=1", "--force", "it must be")
    assert [seen.json for seen in server.history[1:]] == [
        {"version": 2, "force": "it must be"},
        {"split": {"1": 9, "2": 1}, "force": "it must be"},
    ]
