"""How the server and its key are found."""

from __future__ import annotations

import json
from pathlib import Path

from loadtest.client import Target
from loadtest.target import DEFAULT_URL, find_target


def note(home: Path, content: object) -> dict[str, str]:
    (home / "run").mkdir()
    path = home / "run/server.json"
    path.write_text(json.dumps(content))
    path.chmod(0o600)
    return {"LORADOCK_HOME": str(home)}


def test_the_server_running_on_this_machine_is_found_with_its_key(tmp_path: Path) -> None:
    environment = note(tmp_path, {"url": "http://127.0.0.1:8123", "key": "ld-noted"})
    assert find_target(None, environment) == Target("http://127.0.0.1:8123", "ld-noted")


def test_the_environment_goes_over_the_note_and_the_option_over_both(tmp_path: Path) -> None:
    environment = note(tmp_path, {"url": "http://127.0.0.1:8123", "key": "ld-noted"})
    environment |= {"LORADOCK_URL": "http://b:1/", "LORADOCK_API_KEY": "ld-mine"}
    assert find_target(None, environment) == Target("http://b:1", "ld-mine")
    assert find_target("http://c:2/v1", environment) == Target("http://c:2", "ld-mine")


def test_the_noted_key_is_not_sent_to_another_server(tmp_path: Path) -> None:
    environment = note(tmp_path, {"url": "http://127.0.0.1:8123", "key": "ld-noted"})
    assert find_target("http://elsewhere:8000", environment) == Target("http://elsewhere:8000", None)


def test_without_any_hint_it_is_the_default_address(tmp_path: Path) -> None:
    assert find_target(None, {"LORADOCK_HOME": str(tmp_path)}) == Target(DEFAULT_URL, None)


def test_a_note_that_others_could_have_written_is_not_believed(tmp_path: Path) -> None:
    environment = note(tmp_path, {"url": "http://127.0.0.1:8123", "key": "ld-noted"})
    (tmp_path / "run/server.json").chmod(0o644)
    assert find_target(None, environment) == Target(DEFAULT_URL, None)


def test_a_broken_note_is_as_good_as_none(tmp_path: Path) -> None:
    assert find_target(None, note(tmp_path, ["not", "a", "note"])) == Target(DEFAULT_URL, None)
