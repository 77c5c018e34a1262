"""Creating, listing and revoking keys against a server on a real socket."""

from __future__ import annotations

import json
from collections.abc import Callable

from typer.testing import Result

from tests.server.cli.scripted_server import ScriptedServer

KEY = {
    "id": "k1",
    "name": "my-app",
    "scopes": ["inference"],
    "prefix": "ld-abcd",
    "created_at": "2026-01-31T17:05:59Z",
    "revoked_at": None,
}


def test_create_shows_the_secret_once_ready_to_export(loradock: Callable[..., Result], server: ScriptedServer) -> None:
    server.enqueue(201, KEY | {"secret": "ld-abcdefgh"})

    result = loradock("keys", "create", "my-app")

    assert result.exit_code == 0
    assert server.history[0].json == {"name": "my-app", "scopes": ["inference"]}
    assert "export LORADOCK_API_KEY=ld-abcdefgh" in result.stdout


def test_create_takes_several_scopes_and_answers_in_json(
    loradock: Callable[..., Result], server: ScriptedServer
) -> None:
    server.enqueue(201, KEY | {"secret": "ld-abcdefgh"})

    result = loradock("keys", "create", "ops", "--scope", "inference", "--scope", "admin", "--json")

    assert server.history[0].json == {"name": "ops", "scopes": ["admin", "inference"]}
    assert json.loads(result.stdout)["secret"] == "ld-abcdefgh"


def test_an_unknown_scope_is_a_usage_error_that_names_the_known_ones(
    loradock: Callable[..., Result], server: ScriptedServer
) -> None:
    result = loradock("keys", "create", "ops", "--scope", "root")

    assert result.exit_code == 2
    assert "admin" in result.stderr
    assert server.history == []


def test_list_tells_live_keys_from_revoked_ones(loradock: Callable[..., Result], server: ScriptedServer) -> None:
    revoked = KEY | {"id": "k2", "revoked_at": "2026-02-01T08:00:00Z"}
    server.enqueue(200, {"object": "list", "data": [KEY, revoked]})

    _, first, second = loradock("keys", "list").stdout.splitlines()

    assert first.split()[-1] == "-"
    assert second.strip().endswith("2026-02-01 08:00 UTC")


def test_revoke_quotes_the_id_so_that_it_stays_below_keys(
    loradock: Callable[..., Result], server: ScriptedServer
) -> None:
    server.enqueue(404, {"error": {"message": "no such key", "code": "key_not_found"}})

    result = loradock("keys", "revoke", "../adapters/x")

    assert result.exit_code == 1
    assert server.history[0].path == "/admin/keys/../adapters/x"
    assert "no such key" in result.stderr
