"""register, list, show and delete against a server on a real socket."""

from __future__ import annotations

import json
import os
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
from typer.testing import Result

from loradock_server.cli.client import AdminClient
from loradock_server.cli.connection import Connection
from loradock_server.cli.upload import open_adapter
from tests.server.cli.scripted_server import ScriptedServer, running

Run = Callable[..., Result]
REGISTERED = {
    "id": "support-bot@2",
    "name": "support-bot",
    "version": 2,
    "digest": "ab" * 32,
    "created": True,
    "aliases": ["live"],
    "report": {"warnings": ["rank 8 is padded to 16"]},
}
SUPPORT_BOT = {
    "name": "support-bot",
    "created_at": "2026-01-31T17:05:59+00:00",
    "aliases": {"live": 2, "canary": 1},
    "versions": [
        {"version": 1, "digest": "cd" * 32, "rank": 8, "size_bytes": 1_843_200, "target_modules": ["q_proj"]},
        {"version": 2, "digest": "ab" * 32, "rank": 16, "size_bytes": 640, "target_modules": ["q_proj"]},
    ],
}


def test_register_sends_the_adapters_files_and_no_other(
    loradock: Run, server: ScriptedServer, adapter_folder: Path
) -> None:
    (adapter_folder / "README.md").write_text("# mine")
    (adapter_folder / "optimizer.pt").write_bytes(b"not for you")
    server.enqueue(201, REGISTERED)

    result = loradock("adapters", "register", "support-bot", str(adapter_folder))

    assert result.exit_code == 0, result.output
    (seen,) = server.history
    assert (seen.method, seen.path) == ("POST", "/admin/adapters/support-bot/versions")
    assert seen.headers["authorization"] == "Bearer ld-test"
    assert seen.fields == ("file", "file", "file")
    assert seen.files == {
        name: (adapter_folder / name).read_bytes()
        for name in ("adapter_config.json", "adapter_model.safetensors", "README.md")
    }


def test_register_says_which_version_it_is_and_how_to_ask_it(
    loradock: Run, server: ScriptedServer, adapter_folder: Path
) -> None:
    server.enqueue(201, REGISTERED)

    result = loradock("adapters", "register", "support-bot", str(adapter_folder))

    assert "registered support-bot@2" in result.stdout
    assert "warning: rank 8 is padded to 16" in result.stdout
    (curl,) = [line for line in result.stdout.splitlines() if line.startswith("try: curl ")]
    assert f"{server.url}/v1/chat/completions" in curl
    assert json.loads(curl.split("-d '")[1].rstrip("'"))["model"] == "support-bot"
    assert "ld-test" not in result.output


def test_register_says_how_to_make_live_what_is_not(
    loradock: Run, server: ScriptedServer, adapter_folder: Path
) -> None:
    server.enqueue(201, REGISTERED | {"aliases": []})

    result = loradock("adapters", "register", "support-bot", str(adapter_folder), "--no-promote")

    assert '"model": "support-bot@2"' in result.stdout
    assert "loradock adapters promote support-bot 2" in result.stdout


def test_register_tells_when_the_same_bytes_were_there_before(
    loradock: Run, server: ScriptedServer, adapter_folder: Path
) -> None:
    server.enqueue(200, REGISTERED | {"created": False})

    result = loradock("adapters", "register", "support-bot", str(adapter_folder))

    assert result.exit_code == 0
    assert "already support-bot@2" in result.stdout


def test_register_shows_every_fault_the_server_found(
    loradock: Run, server: ScriptedServer, adapter_folder: Path
) -> None:
    faults = [
        {
            "code": "rank_too_high",
            "where": "adapter_config.json",
            "value": 128,
            "limit": 64,
            "fix": "train lower",
        },
        {
            "code": "shape",
            "where": "q_proj\x1b[31m",
            "value": "(1, 2)",
            "limit": "(8, 576)",
            "fix": "right base",
        },
    ]
    server.enqueue(422, {"error": {"message": "2 faults", "code": "adapter_rejected", "faults": faults}})

    result = loradock("adapters", "register", "support-bot", str(adapter_folder))

    assert result.exit_code == 1
    assert "error: 2 faults" in result.stderr
    assert "rank_too_high" in result.stderr
    assert "train lower" in result.stderr
    assert "q_proj\\x1b[31m" in result.stderr, "a stranger's control characters must not reach the terminal"


def test_register_with_json_passes_the_servers_answer_on(
    loradock: Run, server: ScriptedServer, adapter_folder: Path
) -> None:
    server.enqueue(201, REGISTERED)
    server.enqueue(422, {"error": {"message": "m", "code": "adapter_rejected", "faults": [{"code": "shape"}]}})

    accepted = loradock("adapters", "register", "support-bot", str(adapter_folder), "--json")
    refused = loradock("adapters", "register", "support-bot", str(adapter_folder), "--json")

    assert json.loads(accepted.stdout) == REGISTERED
    assert refused.exit_code == 1
    assert json.loads(refused.stdout)["error"]["faults"] == [{"code": "shape"}]


def test_register_on_server_sends_the_path_alone(loradock: Run, server: ScriptedServer) -> None:
    server.enqueue(201, REGISTERED)

    result = loradock("adapters", "register", "support-bot", "/srv/adapters/support-bot", "--on-server")

    assert result.exit_code == 0
    assert server.history[0].json == {"source": "/srv/adapters/support-bot"}


def test_register_of_a_pickle_is_refused_before_anything_is_sent(
    loradock: Run, server: ScriptedServer, adapter_folder: Path
) -> None:
    (adapter_folder / "adapter_model.safetensors").rename(adapter_folder / "adapter_model.bin")

    result = loradock("adapters", "register", "support-bot", str(adapter_folder))

    assert result.exit_code == 2
    assert "pickle" in result.stderr
    assert server.history == []


@pytest.mark.parametrize("what", ["missing", "a file", "empty", "a pipe inside"])
def test_register_of_something_else_says_what_it_needs(
    loradock: Run, server: ScriptedServer, adapter_folder: Path, what: str
) -> None:
    path = adapter_folder
    if what == "missing":
        path = adapter_folder / "nowhere"
    elif what == "a file":
        path = adapter_folder / "adapter_config.json"
    elif what == "empty":
        path = adapter_folder / "empty"
        path.mkdir()
    else:
        (adapter_folder / "adapter_config.json").unlink()
        os.mkfifo(adapter_folder / "adapter_config.json")

    result = loradock("adapters", "register", "support-bot", str(path))

    assert result.exit_code == 2
    assert str(path) in result.stderr
    assert server.history == []


@pytest.mark.parametrize("name", ["Support", "a/b", "../keys", "a@2", "", "base"])
@pytest.mark.parametrize("command", ["register", "show", "delete", "pin", "unpin"])
def test_a_name_that_is_none_never_becomes_a_request(
    loradock: Run, server: ScriptedServer, adapter_folder: Path, name: str, command: str
) -> None:
    rest = [str(adapter_folder)] if command == "register" else []

    result = loradock("adapters", command, name, *rest)

    assert result.exit_code == 2
    assert server.history == []


def test_symbolic_links_are_followed_as_hub_caches_need(
    loradock: Run, server: ScriptedServer, adapter_folder: Path, tmp_path: Path
) -> None:
    weights = (adapter_folder / "adapter_model.safetensors").rename(tmp_path / "blob")
    (adapter_folder / "adapter_model.safetensors").symlink_to(weights)
    server.enqueue(201, REGISTERED)

    assert loradock("adapters", "register", "support-bot", str(adapter_folder)).exit_code == 0
    assert server.history[0].files["adapter_model.safetensors"] == weights.read_bytes()


class Swallow(httpx.BaseTransport):
    """Reads a request as a socket would, piece by piece, and keeps nothing but its length."""

    length = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.SyncByteStream)
        for piece in request.stream:
            self.length += len(piece)
        assert self.length == int(request.headers["content-length"])
        return httpx.Response(201, json={})


def test_an_upload_never_holds_the_file_in_memory(adapter_folder: Path) -> None:
    size = 64 << 20
    os.truncate(adapter_folder / "adapter_model.safetensors", size)
    sent: list[int] = []
    swallow = Swallow()
    client = AdminClient(Connection("http://127.0.0.1:1", None, "test"), swallow)

    with client, open_adapter(adapter_folder) as adapter:
        tracemalloc.start()
        client.upload("/x", adapter.parts(sent.append))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()

    assert swallow.length > size
    assert sum(sent) == adapter.size_bytes
    assert peak < 4 << 20


def test_list_shows_a_line_per_adapter(loradock: Run, server: ScriptedServer) -> None:
    server.enqueue(200, {"object": "list", "data": [SUPPORT_BOT]})

    result = loradock("adapters", "list")

    assert result.exit_code == 0
    heading, row = result.stdout.splitlines()
    assert heading.split()[:3] == ["NAME", "LIVE", "VERSIONS"]
    assert row.split()[:3] == ["support-bot", "2", "2"]


def test_list_shows_where_an_adapter_is_what_it_takes_and_who_uses_it(loradock: Run, server: ScriptedServer) -> None:
    used = (datetime.now(UTC) - timedelta(minutes=7)).isoformat()
    adapters = [
        {"name": "running", "tier": "slot", "bytes": 10_400_000, "in_flight": 2, "last_used": used, "pinned": False},
        {"name": "kept", "tier": "memory", "bytes": 640, "in_flight": 0, "last_used": used, "pinned": True},
        {
            "name": "wanted",
            "tier": "disk",
            "bytes": 0,
            "in_flight": 0,
            "last_used": None,
            "pinned": True,
            "pin_problem": "too many \x1b[31m",
        },
    ]
    memory = {"adapters": 2, "limit_adapters": 64, "bytes": 10_400_640, "limit_bytes": 4_294_967_296}
    server.enqueue(200, {"object": "list", "data": adapters, "memory": memory})

    heading, *rows, empty, total, problem = loradock("adapters", "list").stdout.splitlines()

    assert heading.split() == ["NAME", "LIVE", "VERSIONS", "TIER", "MEMORY", "IN", "FLIGHT", "LAST", "USED", "PINNED"]
    assert [row.split()[3:] for row in rows] == [
        ["slot", "10.4", "MB", "2", "now", "-"],
        ["memory", "640", "B", "-", "7", "min", "ago", "yes"],
        ["disk", "-", "-", "-", "not", "kept"],
    ]
    assert (empty, total) == ("", "in memory: 2 of 64 adapters, 10.4 MB of 4.3 GB")
    assert problem == "wanted is pinned but not kept in memory: too many \\x1b[31m"


def test_list_with_json_passes_the_servers_answer_on(loradock: Run, server: ScriptedServer) -> None:
    answer = {"object": "list", "data": [SUPPORT_BOT | {"tier": "slot", "bytes": 7, "pin_problem": None}]}
    server.enqueue(200, answer)

    assert json.loads(loradock("adapters", "list", "--json").stdout) == answer


@pytest.mark.parametrize(("command", "method", "said"), [("pin", "PUT", "pinned"), ("unpin", "DELETE", "unpinned")])
def test_pin_and_unpin_say_what_they_did(
    loradock: Run, server: ScriptedServer, command: str, method: str, said: str
) -> None:
    for _ in range(2):
        server.enqueue(200, SUPPORT_BOT)

    assert loradock("adapters", command, "support-bot").stdout == f"{said} support-bot\n"
    assert json.loads(loradock("adapters", command, "support-bot", "--json").stdout) == SUPPORT_BOT
    assert {(seen.method, seen.path) for seen in server.history} == {(method, "/admin/adapters/support-bot/pin")}


def test_a_pin_that_cannot_be_kept_is_said_at_once(loradock: Run, server: ScriptedServer) -> None:
    server.enqueue(200, SUPPORT_BOT | {"pinned": True, "pin_problem": "3 adapters are pinned, at most 2 can be"})

    lines = loradock("adapters", "pin", "support-bot").stdout.splitlines()

    assert lines == [
        "pinned support-bot",
        "support-bot is pinned but not kept in memory: 3 adapters are pinned, at most 2 can be",
    ]


def test_list_of_nothing_says_how_to_begin(loradock: Run, server: ScriptedServer) -> None:
    server.enqueue(200, {"object": "list", "data": []})

    assert "loradock adapters register" in loradock("adapters", "list").stdout


def test_show_gives_every_version_with_its_aliases(loradock: Run, server: ScriptedServer) -> None:
    server.enqueue(200, SUPPORT_BOT)

    lines = loradock("adapters", "show", "support-bot").stdout.splitlines()

    assert server.history[0].path == "/admin/adapters/support-bot"
    assert lines[-2].split()[:6] == ["1", "canary", "cdcdcdcdcdcd", "8", "1.8", "MB"]
    assert lines[-1].split()[:6] == ["2", "live", "abababababab", "16", "640", "B"]


@pytest.mark.parametrize("body", [[], {}, {"data": 3}, {"data": [1]}, {"versions": "x"}, {"aliases": 7}])
def test_an_answer_in_another_shape_is_no_traceback(loradock: Run, server: ScriptedServer, body: Any) -> None:
    server.enqueue(200, body)
    server.enqueue(200, body)

    for arguments in (["list"], ["show", "support-bot"]):
        result = loradock("adapters", *arguments)
        assert result.exit_code in (0, 2)
        assert result.exception is None or isinstance(result.exception, SystemExit)


def test_delete_without_a_terminal_wants_yes(loradock: Run, server: ScriptedServer) -> None:
    result = loradock("adapters", "delete", "support-bot")

    assert result.exit_code == 2
    assert "--yes" in result.stderr
    assert server.history == []


def test_delete_deletes(loradock: Run, server: ScriptedServer) -> None:
    server.enqueue(200, {"name": "support-bot", "deleted": ["support-bot@1"]})

    result = loradock("adapters", "delete", "support-bot", "--yes")

    assert (server.history[0].method, server.history[0].path) == ("DELETE", "/admin/adapters/support-bot")
    assert result.stdout.splitlines()[0] == "deleted support-bot"
    assert "if-match" not in server.history[0].headers


def test_who_is_asked_deletes_what_they_were_shown_and_nothing_newer(
    loradock: Run, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def yes(question: str, **_: object) -> bool:
        asked.append(question)
        return True

    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(typer, "confirm", yes)
    server.enqueue(200, {"name": "support-bot", "revision": 17, "in_flight": 3, "versions": [{}, {}]})
    server.enqueue(412, {"error": {"message": "changed by somebody else", "code": "precondition_failed"}})

    result = loradock("adapters", "delete", "support-bot")

    assert result.exit_code == 1
    assert "changed by somebody else" in result.stderr
    assert server.history[1].headers["if-match"] == '"17"'
    assert "support-bot with 2 versions (3 requests run on it)" in asked[0]


def test_list_follows_every_page(loradock: Run, server: ScriptedServer) -> None:
    for number, more in ((1, True), (2, True), (3, False)):
        page = {"object": "list", "data": [{"name": f"bot-{number}"}], "has_more": more, "last_id": f"bot-{number}"}
        server.enqueue(200, page | {"memory": None})

    result = loradock("adapters", "list", "--json")

    assert [adapter["name"] for adapter in json.loads(result.stdout)["data"]] == ["bot-1", "bot-2", "bot-3"]
    assert [seen.query.get("after") for seen in server.history] == [None, "bot-1", "bot-2"]


def test_a_server_that_promises_pages_for_ever_is_not_followed_for_ever(loradock: Run, server: ScriptedServer) -> None:
    server.enqueue(200, {"object": "list", "data": [{"name": "bot"}], "has_more": True, "last_id": "bot"})
    server.enqueue(200, {"object": "list", "data": [], "has_more": True, "last_id": "bot"})

    assert loradock("adapters", "list").exit_code == 0
    assert len(server.history) == 2


def test_create_takes_a_name_and_says_what_is_next(loradock: Run, server: ScriptedServer) -> None:
    server.enqueue(201, {"name": "support-bot", "settings": {"owner": "me"}})

    result = loradock("adapters", "create", "support-bot", "--owner", "me")

    assert (server.history[0].method, server.history[0].path) == ("POST", "/admin/adapters")
    assert server.history[0].json == {"name": "support-bot", "owner": "me"}
    assert "loradock adapters register support-bot PATH" in result.stdout


def test_a_name_nobody_registered_is_a_no_in_the_servers_words(loradock: Run, server: ScriptedServer) -> None:
    server.enqueue(404, {"error": {"message": "no adapter is named 'x'", "code": "adapter_not_found"}})

    result = loradock("adapters", "show", "x")

    assert result.exit_code == 1
    assert "no adapter is named 'x'" in result.stderr


@pytest.mark.parametrize("status", [401, 413])
def test_a_server_that_says_no_before_it_read_the_upload_is_heard(
    loradock: Run, adapter_folder: Path, status: int
) -> None:
    os.truncate(adapter_folder / "adapter_model.safetensors", 64 << 20)
    body = json.dumps({"error": {"message": "not like this", "code": "x"}}).encode()

    async def at_once(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})

    with running(at_once) as url:
        result = loradock("adapters", "register", "support-bot", str(adapter_folder), "--url", url)

    assert "not like this" in result.stderr
    assert result.exit_code == 1
