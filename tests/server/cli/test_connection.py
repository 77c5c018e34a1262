"""How client commands find the server and the key, and to whom a key is never sent."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from loradock_server.cli.connection import DEFAULT_URL, find_connection
from loradock_server.cli.errors import Unreadable
from tests.server.cli.scripted_server import ScriptedServer


def leave_server_file(home: Path, content: object, mode: int = 0o600) -> Path:
    path = home / "run" / "server.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    path.chmod(mode)
    return path


def test_without_anything_it_is_port_8000_here_and_no_key() -> None:
    found = find_connection(None, {})

    assert (found.url, found.key) == (DEFAULT_URL, None)


def test_the_running_servers_own_file_gives_address_and_key(home: Path) -> None:
    path = leave_server_file(home, {"url": "http://127.0.0.1:9001", "key": "ld-local"})

    found = find_connection(None, {})

    assert (found.url, found.key, found.origin) == ("http://127.0.0.1:9001", "ld-local", str(path))


def test_a_url_and_a_key_from_outside_win(home: Path) -> None:
    leave_server_file(home, {"url": "http://127.0.0.1:9001", "key": "ld-local"})

    found = find_connection("https://lora.example/base/", {"LORADOCK_API_KEY": " ld-mine\n"})

    assert (found.url, found.key) == ("https://lora.example/base", "ld-mine")


def test_the_local_key_is_never_sent_to_another_server(home: Path) -> None:
    leave_server_file(home, {"url": "http://127.0.0.1:9001", "key": "ld-local"})

    assert find_connection("http://elsewhere.example:9001", {}).key is None
    assert find_connection("http://127.0.0.1:9001/", {}).key == "ld-local"


def test_the_base_url_of_the_openai_sdk_is_understood() -> None:
    assert find_connection("http://127.0.0.1:8000/v1/", {"LORADOCK_API_KEY": "k"}).url == DEFAULT_URL


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8000",
        "ftp://host",
        "http://",
        "http://host:99999",
        "http://u:p@host",
        "http://h/?a=b",
        "http://ho st",
    ],
)
def test_an_address_that_cannot_be_one_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(Unreadable) as caught:
        find_connection(url, {})
    assert "http://host:port" in (caught.value.fix or "")


def test_a_refused_address_with_a_password_does_not_repeat_it() -> None:
    with pytest.raises(Unreadable) as caught:
        find_connection("http://me:hunter2@host", {})
    assert "hunter2" not in caught.value.message


def test_a_key_with_a_line_break_inside_is_refused_and_not_shown() -> None:
    with pytest.raises(Unreadable) as caught:
        find_connection(None, {"LORADOCK_API_KEY": "ld-a\r\nx-evil: 1"})
    assert "evil" not in caught.value.message


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602])
def test_a_server_file_that_others_can_open_is_refused(home: Path, mode: int) -> None:
    leave_server_file(home, {"url": "http://127.0.0.1:9001", "key": "ld-local"}, mode)

    with pytest.raises(Unreadable, match="0600"):
        find_connection(None, {})


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"url": 1}', '{"url": "x:y"}', "[" * 100_000])
def test_a_broken_server_file_is_named(home: Path, content: str) -> None:
    leave_server_file(home, content)

    with pytest.raises(Unreadable):
        find_connection(None, {})


def test_a_pipe_in_place_of_the_server_file_does_not_hang(home: Path) -> None:
    (home / "run").mkdir(parents=True)
    os.mkfifo(home / "run" / "server.json", 0o600)

    with pytest.raises(Unreadable, match="not a regular file"):
        find_connection(None, {})


def test_a_wrong_setting_is_named_with_the_nearest_one(
    loradock: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORADOCK_HOEM", "x")

    result = loradock("adapters", "list")

    assert result.exit_code == 2
    assert "LORADOCK_HOME" in result.stderr


def test_no_server_is_exit_code_2_and_says_how_to_start_one(loradock: Callable[..., Result]) -> None:
    result = loradock("adapters", "list", "--url", "http://127.0.0.1:9")

    assert result.exit_code == 2
    assert "http://127.0.0.1:9" in result.stderr
    assert "loradock serve" in result.stderr
    assert result.stdout == ""


def test_with_json_an_error_is_one_document_too(loradock: Callable[..., Result]) -> None:
    result = loradock("adapters", "list", "--url", "http://127.0.0.1:9", "--json")

    assert result.exit_code == 2
    assert json.loads(result.stdout)["error"]["code"] == "unreachable"
    assert result.stderr == ""


def test_something_else_on_that_port_is_told_apart_from_a_server(
    loradock: Callable[..., Result], server: ScriptedServer
) -> None:
    server.enqueue(200, "<html>hello</html>")

    result = loradock("adapters", "list")

    assert result.exit_code == 2
    assert "text/html" in result.stderr


def test_a_redirect_is_not_followed_with_the_key(loradock: Callable[..., Result], server: ScriptedServer) -> None:
    server.enqueue(307, "", location="http://elsewhere.example/")

    result = loradock("adapters", "list")

    assert result.exit_code == 2
    assert "307" in result.stderr
    assert len(server.history) == 1


@pytest.mark.parametrize(
    ("status", "said"), [(401, "LORADOCK_API_KEY"), (403, "admin scope"), (503, "try again in 7 s")]
)
def test_a_servers_no_is_exit_code_1_with_what_to_do(
    loradock: Callable[..., Result], server: ScriptedServer, status: int, said: str
) -> None:
    server.enqueue(status, {"error": {"message": "no, because", "code": "x"}}, retry_after="7")

    result = loradock("adapters", "list")

    assert result.exit_code == 1
    assert "no, because" in result.stderr
    assert said in result.stderr


def test_what_to_try_next_reads_the_key_from_where_the_server_left_it(
    loradock: Callable[..., Result],
    server: ScriptedServer,
    home: Path,
    adapter_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("LORADOCK_URL")
    monkeypatch.delenv("LORADOCK_API_KEY")
    path = leave_server_file(home, {"url": server.url, "key": "ld-local"})
    path.with_name("local.key").write_text("ld-local")
    server.enqueue(201, {"id": "support-bot@1", "name": "support-bot"})

    result = loradock("adapters", "register", "support-bot", str(adapter_folder))

    assert server.history[0].headers["authorization"] == "Bearer ld-local"
    assert f"Bearer $(cat {path.with_name('local.key')})" in result.stdout
    assert "ld-local" not in result.output
