"""Creating, listing and revoking keys against a server on a real socket."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from typer.testing import Result

from tests.server.cli.scripted_server import ScriptedServer

KEY = {
    "id": "k1",
    "name": "my-app",
    "scopes": ["infer"],
    "prefix": "ld-abcd",
    "created_at": "2026-01-31T17:05:59Z",
    "revoked_at": None,
}


def test_create_shows_the_secret_once_ready_to_export(loradock: Callable[..., Result], server: ScriptedServer) -> None:
    server.enqueue(201, KEY | {"secret": "ld-abcdefgh"})

    result = loradock("keys", "create", "my-app")

    assert result.exit_code == 0
    assert server.history[0].json == {"name": "my-app", "scopes": ["infer"]}
    assert "export LORADOCK_API_KEY=ld-abcdefgh" in result.stdout


def test_create_takes_several_scopes_and_answers_in_json(
    loradock: Callable[..., Result], server: ScriptedServer
) -> None:
    server.enqueue(201, KEY | {"secret": "ld-abcdefgh"})

    result = loradock("keys", "create", "ops", "--scope", "inference", "--scope", "admin", "--json")

    assert server.history[0].json == {"name": "ops", "scopes": ["admin", "infer"]}, "the old word is understood"
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

    heading, first, second = loradock("keys", "list").stdout.splitlines()

    assert heading.split()[:5] == ["ID", "NAME", "TENANT", "SCOPES", "ADAPTERS"]
    assert first.split()[-1] == "-"
    assert "every one" in first
    assert second.strip().endswith("2026-02-01 08:00 UTC")


def test_revoke_quotes_the_id_so_that_it_stays_below_keys(
    loradock: Callable[..., Result], server: ScriptedServer
) -> None:
    server.enqueue(404, {"error": {"message": "no such key", "code": "key_not_found"}})

    result = loradock("keys", "revoke", "../adapters/x")

    assert result.exit_code == 1
    assert server.history[0].path == "/admin/keys/../adapters/x"
    assert "no such key" in result.stderr


def test_flags_say_what_a_new_key_is(loradock: Callable[..., Result], server: ScriptedServer) -> None:
    server.enqueue(201, KEY | {"secret": "ld-abcdefgh"})

    flags = "--tenant acme --adapters a* --adapters tiny --expires 30d --requests-per-minute 60 --tokens-per-day 9"
    assert loradock("keys", "create", "my-app", *flags.split()).exit_code == 0

    assert server.history[0].json == {
        "name": "my-app",
        "scopes": ["infer"],
        "tenant": "acme",
        "adapters": ["a*", "tiny"],
        "expires_in": 30 * 86400,
        "limits": {"requests_per_minute": 60, "tokens_per_day": 9},
    }


def test_set_sends_what_is_named_and_null_for_what_is_taken_back(
    loradock: Callable[..., Result], server: ScriptedServer
) -> None:
    server.enqueue(200, KEY | {"limits": {"max_concurrency": 2}})

    flags = "--name new --expires 2027-01-31 --max-concurrency 2 --unset tenant --unset tokens-per-day --if-revision 7"
    result = loradock("keys", "set", "key-1", *flags.split())

    assert result.exit_code == 0, result.stderr
    sent = server.history[0]
    assert (sent.method, sent.path, sent.headers["if-match"]) == ("PATCH", "/admin/keys/key-1", '"7"')
    assert sent.json == {
        "name": "new",
        "expires_at": "2027-01-31T00:00:00+00:00",
        "limits": {"max_concurrency": 2, "tokens_per_day": None},
        "tenant": None,
    }
    assert "max_concurrency" in result.stdout


@pytest.mark.parametrize(
    "flags",
    [
        "",
        "--expires soon",
        "--expires 30d --unset expires",
        "--max-concurrency 1 --unset limits",
        "--unset limits --unset max-concurrency",
    ],
)
def test_set_refuses_what_makes_no_sense_before_it_asks(
    loradock: Callable[..., Result], server: ScriptedServer, flags: str
) -> None:
    result = loradock("keys", "set", "key-1", *flags.split())

    assert result.exit_code == 2
    assert "fix:" in result.stderr
    assert server.history == []


@pytest.mark.parametrize(("grace", "seconds"), [((), 86400), (("--grace", "0"), 0), (("--grace", "90min"), 5400)])
def test_rotate_shows_the_new_secret_and_how_long_the_old_one_lasts(
    loradock: Callable[..., Result], server: ScriptedServer, grace: tuple[str, ...], seconds: int
) -> None:
    until = "2026-02-01T08:00:00Z" if seconds else None
    server.enqueue(200, KEY | {"secret": "ld-new", "old_secret_until": until})

    result = loradock("keys", "rotate", "key-1", *grace)

    assert server.history[0].path == "/admin/keys/key-1/rotate"
    assert server.history[0].json == {"grace_seconds": seconds}
    assert "export LORADOCK_API_KEY=ld-new" in result.stdout
    assert ("until 2026-02-01 08:00 UTC" in result.stdout) == bool(seconds)


def test_show_names_everything_but_the_secret(loradock: Callable[..., Result], server: ScriptedServer) -> None:
    server.enqueue(200, KEY | {"tenant": "acme", "adapters": ["a*"], "limits": {"tokens_per_day": 9}})

    shown = loradock("keys", "show", "key-1").stdout

    for word in ("acme", "a*", "tokens_per_day", "infer"):
        assert word in shown


def test_of_a_whole_secret_only_its_beginning_is_sent(loradock: Callable[..., Result], server: ScriptedServer) -> None:
    server.enqueue(200, {"object": "list", "data": [KEY]})

    assert "my-app" in loradock("keys", "list", "--begins", "ld-abcdefghijklmnopq").stdout

    assert server.history[0].query["begins"] == "ld-abcdefgh"
