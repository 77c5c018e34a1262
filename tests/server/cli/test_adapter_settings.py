"""`loradock adapters set` and `unset`: what is sent, what is refused here, what is shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from tests.server.cli.scripted_server import ScriptedServer

Run = Callable[..., Result]


def test_values_are_read_as_what_they_are(loradock: Run, server: ScriptedServer, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("Be brief.\n", encoding="utf-8")
    server.enqueue(200, {"name": "bot", "settings": {"temperature": 0.2, "stop": ["END"]}, "pinned": True})
    result = loradock(
        *("adapters", "set", "bot", "temperature=0.2", "stop=END", "pin=true", "owner=123", "top_k=40"),
        *("system_prompt=@prompt.txt", "description=a=b", "priority=high", "seed=null", "--if-revision", "7"),
    )
    assert result.exit_code == 0, result.output
    (seen,) = server.history
    assert (seen.method, seen.path) == ("PATCH", "/admin/adapters/bot")
    assert seen.headers["content-type"] == "application/merge-patch+json"
    assert seen.headers["if-match"] == '"7"'
    assert seen.json == {
        "temperature": 0.2,
        "stop": ["END"],
        "pin": True,
        "owner": "123",
        "top_k": 40,
        "system_prompt": "Be brief.\n",
        "description": "a=b",
        "priority": "high",
        "seed": None,
    }
    assert "temperature" in result.stdout


def test_unset_says_null(loradock: Run, server: ScriptedServer) -> None:
    server.enqueue(200, {"name": "bot", "settings": {}})
    assert loradock("adapters", "unset", "bot", "temperature", "pin", "--json").exit_code == 0
    assert server.history[0].json == {"temperature": None, "pin": None}


@pytest.mark.parametrize(
    ("word", "says"),
    [("temprature=1", "temperature"), ("temperature", "KEY=VALUE"), ("system_prompt=@absent.txt", "absent.txt")],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_sent(
    loradock: Run, server: ScriptedServer, word: str, says: str
) -> None:
    result = loradock("adapters", "set", "bot", word)
    assert result.exit_code == 2
    assert says in result.stderr
    assert server.history == []


def test_the_servers_faults_are_shown_as_a_table(loradock: Run, server: ScriptedServer) -> None:
    fault = {"code": "invalid_setting", "where": "top_p", "value": "9", "limit": "at most 1", "fix": "lower it"}
    server.enqueue(400, {"error": {"message": "top_p", "type": "x", "code": "invalid_settings", "faults": [fault]}})
    result = loradock("adapters", "set", "bot", "top_p=9")
    assert result.exit_code == 1
    assert "at most 1" in result.stderr


def test_show_has_what_was_said(loradock: Run, server: ScriptedServer) -> None:
    settings = {"owner": "me", "system_prompt": "x" * 500, "stop": ["\x1b[31m"]}
    server.enqueue(200, {"name": "bot", "settings": settings, "versions": [], "aliases": {}})
    shown = loradock("adapters", "show", "bot").stdout
    assert "owner" in shown
    assert "x" * 200 + "…" in shown
    assert "\x1b" not in shown
    server.enqueue(200, {"name": "bot", "settings": settings})
    assert json.loads(loradock("adapters", "show", "bot", "--json").stdout)["settings"] == settings
