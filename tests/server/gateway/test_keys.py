"""Keys over HTTP: what is said of them, rotation, expiry, last use, and a registry that is away."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from loradock_adapters.errors import RegistryError
from loradock_adapters.registry import KeyTable
from loradock_server.gateway import key_uses
from tests.server.gateway.conftest import Gateway, Start, eventually

KEYS = "/admin/keys"
LIMITS = {"requests_per_minute": 600}


def made(gateway: Gateway, **said: Any) -> dict[str, Any]:
    answer = gateway.http.post(KEYS, json={"name": "app", **said})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def status(gateway: Gateway, secret: str) -> int:
    return gateway.http.get("/v1/models", headers={"authorization": f"Bearer {secret}"}).status_code


def test_what_is_said_of_a_key_is_shown_and_changed(gateway: Gateway) -> None:
    key = made(gateway, tenant="acme", adapters=["support-*"], limits=LIMITS, expires_in=3600)
    shown = gateway.http.get(f"{KEYS}/{key['id']}")
    assert {**shown.json(), "secret": key["secret"]} == key
    assert (key["tenant"], key["adapters"], key["limits"]) == ("acme", ["support-*"], LIMITS)
    patch = {"tenant": None, "scopes": ["inference", "admin"], "expires_at": None, "limits": {"max_concurrency": 3}}
    changed = gateway.http.patch(f"{KEYS}/{key['id']}", json=patch, headers={"if-match": shown.headers["etag"]})
    assert changed.status_code == 200, changed.text
    view = changed.json()
    assert (view["tenant"], view["expires_at"], view["scopes"]) == (None, None, ["admin", "infer"])
    assert view["limits"] == {**LIMITS, "max_concurrency": 3}
    assert gateway.http.get(KEYS, headers={"authorization": f"Bearer {key['secret']}"}).status_code == 200
    stale = gateway.http.patch(f"{KEYS}/{key['id']}", json={"name": "x"}, headers={"if-match": shown.headers["etag"]})
    assert stale.status_code == 412
    actions = [event["action"] for event in gateway.http.get("/admin/audit").json()["data"]]
    assert actions[:2] == ["key.changed", "key.created"]


NONSENSE: dict[str, dict[str, Any]] = {
    "adapters.0": {"adapters": ["bot@3"]},
    "limits.requests_per_minute": {"limits": {"requests_per_minute": -1}},
    "expires_at": {"expires_at": "2020-01-01T00:00:00Z"},
    "tenent": {"tenent": "acme"},
}


def test_nonsense_is_400_with_its_place_and_changes_nothing(gateway: Gateway) -> None:
    key = made(gateway)
    for where, patch in NONSENSE.items():
        for answer in (
            gateway.http.patch(f"{KEYS}/{key['id']}", json=patch),
            gateway.http.post(KEYS, json={"name": "x", **patch}),
        ):
            error = answer.json()["error"]
            assert (answer.status_code, error["code"], error["param"]) == (400, "invalid_settings", where)
            assert error["faults"][0]["fix"]
    assert gateway.http.get(f"{KEYS}/{key['id']}").json()["revision"] == key["revision"]
    assert len(gateway.http.get(KEYS).json()["data"]) == 2


def test_both_secrets_open_until_the_grace_ends_and_none_without_it(gateway: Gateway) -> None:
    key = made(gateway)
    path = f"{KEYS}/{key['id']}"
    first = gateway.http.post(f"{path}/rotate")
    assert first.status_code == 200, first.text
    assert first.json()["old_secret_until"] is not None
    assert [status(gateway, secret) for secret in (key["secret"], first.json()["secret"])] == [200, 200]
    stale = gateway.http.post(f"{path}/rotate", headers={"if-match": '"1"'})
    assert stale.status_code == 412
    second = gateway.http.post(f"{path}/rotate", json={"grace_seconds": 0}).json()
    secrets = (key["secret"], first.json()["secret"], second["secret"])
    assert [status(gateway, secret) for secret in secrets] == [401, 401, 200]
    assert second["secret"] not in gateway.http.get(KEYS).text + gateway.http.get("/admin/audit").text
    for grace in (-1, 31 * 86400, "1", 1.5):
        assert gateway.http.post(f"{path}/rotate", json={"grace_seconds": grace}).status_code == 400
    assert gateway.http.post(f"{KEYS}/key-000000000000/rotate").status_code == 404
    gateway.http.delete(path)
    assert gateway.http.post(f"{path}/rotate").status_code == 409


def test_a_secret_ends_on_time_without_anybody_asking_the_registry(gateway: Gateway) -> None:
    key = made(gateway, expires_in=2)
    other = made(gateway)
    rotated = gateway.http.post(f"{KEYS}/{other['id']}/rotate", json={"grace_seconds": 1}).json()
    for one, until in ((other, rotated["old_secret_until"]), (key, key["expires_at"])):
        eventually(lambda secret=one["secret"]: status(gateway, secret) == 401)  # type: ignore[misc]
        assert datetime.now(UTC) >= datetime.fromisoformat(until), "no sooner"
    answer = gateway.http.get("/v1/models", headers={"authorization": f"Bearer {key['secret']}"})
    assert "expired" in answer.json()["error"]["message"]


def test_the_last_use_is_written_in_batches_and_at_the_end(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[set[str]] = []
    write = KeyTable.note_uses

    def note_uses(self: KeyTable, uses: Any) -> None:
        written.append(set(uses))
        write(self, uses)

    monkeypatch.setattr(key_uses, "FLUSH_SECONDS", 3600.0)
    monkeypatch.setattr(KeyTable, "note_uses", note_uses)
    with start() as gateway:
        key = made(gateway)
        for _ in range(5):
            assert status(gateway, key["secret"]) == 200
        assert written == []
        assert gateway.http.get(f"{KEYS}/{key['id']}").json()["last_used_at"] is None
    assert len(written) == 1
    with start() as gateway:
        assert gateway.http.get(f"{KEYS}/{key['id']}").json()["last_used_at"] is not None


def test_a_use_that_cannot_be_written_is_written_later(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[int] = []
    write = KeyTable.note_uses

    def note_uses(self: KeyTable, uses: Any) -> None:
        tries.append(1)
        if len(tries) < 3:
            raise RegistryError("the disk is full")
        write(self, uses)

    monkeypatch.setattr(key_uses, "FLUSH_SECONDS", 0.02)
    monkeypatch.setattr(KeyTable, "note_uses", note_uses)
    with start() as gateway:
        key = made(gateway)
        assert status(gateway, key["secret"]) == 200
        eventually(lambda: gateway.http.get(f"{KEYS}/{key['id']}").json()["last_used_at"] is not None)


def test_known_keys_go_on_while_the_registry_is_away_and_unknown_ones_are_503(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = made(gateway)

    def away(*_: Any) -> Any:
        raise RegistryError("the registry's database failed: gone")

    monkeypatch.setattr(KeyTable, "ring", away)
    for secret, expected in ((key["secret"], 200), ("ld-unknown", 503), (key["secret"], 200)):
        assert status(gateway, secret) == expected
    monkeypatch.undo()
    assert status(gateway, "ld-unknown") == 401


def test_a_flood_of_unknown_keys_asks_the_registry_a_few_times_only(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[float] = []
    read = KeyTable.ring

    def ring(self: KeyTable, since: Any = None) -> Any:
        reads.append(time.monotonic())
        return read(self, since)

    monkeypatch.setattr(KeyTable, "ring", ring)
    began = time.monotonic()
    with httpx.Client(base_url=gateway.url, trust_env=False, timeout=60) as client:
        for number in range(20):
            answer = client.get("/v1/models", headers={"authorization": f"Bearer ld-{number}"})
            assert answer.status_code == 401
    assert len(reads) <= (time.monotonic() - began) / 0.05 + 2
    assert len(reads) >= 2


def test_a_key_is_found_by_how_its_secret_begins(gateway: Gateway) -> None:
    keys = [made(gateway) for _ in range(3)]

    def found(begins: str) -> list[str]:
        answer = gateway.http.get(KEYS, params={"begins": begins})
        return [key["id"] for key in answer.raise_for_status().json()["data"]]

    assert found(keys[1]["prefix"]) == [keys[1]["id"]]
    assert set(found("ld-")) >= {key["id"] for key in keys}
    assert found("ld_") == found("%") == []
    page = gateway.http.get(KEYS, params={"begins": "ld-", "limit": 2, "after": keys[0]["id"]}).json()
    assert [key["id"] for key in page["data"]] == [keys[1]["id"], keys[2]["id"]]
    for bad in (keys[0]["secret"], "\0", "\u00fc", "a b"):
        assert gateway.http.get(KEYS, params={"begins": bad}).status_code == 400
