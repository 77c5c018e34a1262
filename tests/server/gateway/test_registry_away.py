"""The registry is locked, deleted, replaced or stopped: known names and keys are served on, changes are refused.

On SQLite and on a PostgreSQL of this module's own, which is stopped and started again.
"""

from __future__ import annotations

import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest

from loradock_adapters.registry import Actor, Registry, Split, database, postgresql
from loradock_server.gateway import auth
from tests.postgres import Postgres, running_postgres
from tests.server.gateway.conftest import Gateway, Start, eventually

BODY: dict[str, Any] = {"model": "poet", "prompt": "x"}
CHANGES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("PUT", "/admin/adapters/poet/aliases/live", {"version": 1}),
    ("PATCH", "/admin/adapters/poet", {"description": "changed"}),
    ("POST", "/admin/keys", {"name": "late"}),
    ("POST", "/admin/adapters", {"name": "late"}),
    ("DELETE", "/admin/adapters/poet", {}),
)


def served(gateway: Gateway, key: str | None = None) -> str:
    """Which version answers."""
    headers = {"authorization": f"Bearer {key or gateway.key}"}
    answer = gateway.http.post("/v1/completions", json=BODY, headers=headers)
    assert answer.status_code == 200, answer.text
    return str(answer.headers["x-loradock-adapter"])


def refused_clearly(gateway: Gateway) -> None:
    """Every change and every secret that nobody knows yet: 503, with the reason and when to come back."""
    for method, path, body in CHANGES:
        answer = gateway.http.request(method, path, json=body)
        assert answer.status_code == 503, f"{method} {path}: {answer.status_code} {answer.text}"
        assert answer.json()["error"]["code"] == "registry_unavailable"
        assert answer.headers["retry-after"]
    upload = gateway.upload("poet", {"adapter_config.json": b"{}", "adapter_model.safetensors": b""})
    assert not upload.is_success
    unknown = gateway.http.get("/v1/models", headers={"authorization": "Bearer ld-who-knows"})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (503, "registry_unavailable")


def goes_on_from_memory(gateway: Gateway, key: str) -> None:
    for _ in range(3):
        assert served(gateway, key) == "poet@2"
    assert {model["id"] for model in gateway.http.get("/v1/models").json()["data"]} == {"tiny", "poet"}
    for path in ("/healthz", "/readyz", "/metrics"):
        assert gateway.http.get(path).status_code == 200


def is_itself_again(gateway: Gateway) -> None:
    """Nothing of what was refused was done, and changes work as before."""
    eventually(lambda: gateway.http.get("/admin/adapters/poet").status_code == 200)
    poet = gateway.http.get("/admin/adapters/poet").json()
    assert poet["aliases"]["live"] == 2
    assert "changed" not in str(poet)
    assert gateway.http.get("/admin/adapters/late").status_code == 404
    assert "late" not in gateway.http.get("/admin/keys").text
    gateway.http.put("/admin/adapters/poet/aliases/live", json={"version": 1}).raise_for_status()
    assert served(gateway) == "poet@1"


def hears_of_others(gateway: Gateway, url: str) -> None:
    """What another gateway changes is followed again."""
    with closing(Registry.open(url)) as other:
        other.aliases.set("poet", "live", Split.to(2), by=Actor("other", "test"))
    eventually(lambda: served(gateway) == "poet@2")


def prepared(gateway: Gateway) -> str:
    """Two versions, the second live; a key that was used once. Returns the key."""
    gateway.register("poet")
    gateway.register("poet", alpha=8)
    key: str = gateway.http.post("/admin/keys", json={"name": "app"}).json()["secret"]
    assert served(gateway, key) == "poet@2"
    return key


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_SECONDS", 1)


def test_a_sqlite_file_that_another_process_has_locked(start: Start, impatient: None) -> None:
    with start() as gateway:
        key = prepared(gateway)
        with closing(sqlite3.connect(gateway.settings.home / "registry.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")  # whoever writes waits for this one; readers do not
            for method, path, body in CHANGES:
                answer = gateway.http.request(method, path, json=body)
                assert (answer.status_code, answer.json()["error"]["code"]) == (503, "registry_unavailable")
                assert "locked" in answer.json()["error"]["message"]
            goes_on_from_memory(gateway, key)
            other.execute("ROLLBACK")
        is_itself_again(gateway)


@pytest.mark.parametrize("what", ["deleted", "replaced by rubbish", "replaced by an empty one"])
def test_a_sqlite_file_that_is(what: str, start: Start) -> None:
    with start() as gateway:
        key = prepared(gateway)
        home = gateway.settings.home
        files = [home / f"registry.db{suffix}" for suffix in ("", "-wal", "-shm")]
        aside = home / "aside"
        aside.mkdir()
        for file in files:
            if file.exists():
                shutil.move(file, aside / file.name)
        if what == "replaced by rubbish":
            files[0].write_bytes(b"rubbish" * 10_000)
        elif what == "replaced by an empty one":
            files[0].touch()
        refused_clearly(gateway)
        goes_on_from_memory(gateway, key)
        if what == "deleted":
            assert not files[0].exists()  # none came back empty
        for file in files:
            file.unlink(missing_ok=True)
            if (aside / file.name).exists():
                shutil.move(aside / file.name, file)
        is_itself_again(gateway)


def test_a_postgresql_whose_registry_somebody_holds_locked(start: Start, postgres: Postgres, impatient: None) -> None:
    url = postgres.new_database()
    name = url.partition("@/")[2].partition("?")[0]
    with start(registry_url=url) as gateway:
        key = prepared(gateway)
        with postgres.connect(name) as other:
            other.autocommit = False
            other.execute("LOCK TABLE registry_state IN ACCESS EXCLUSIVE MODE")
            refused_clearly(gateway)
            goes_on_from_memory(gateway, key)
            other.rollback()
        is_itself_again(gateway)


def test_a_postgresql_that_is_stopped_and_comes_back(start: Start) -> None:
    with running_postgres() as cluster:
        url = cluster.new_database()
        with start(registry_url=url) as gateway:
            key = prepared(gateway)
            cluster.stop()
            refused_clearly(gateway)
            goes_on_from_memory(gateway, key)
            cluster.start()
            is_itself_again(gateway)
            hears_of_others(gateway, url)


def test_a_postgresql_that_is_frozen_keeps_nobody_waiting_for_ever(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "PING_SECONDS", 1.0)  # after which a new connection is tried
    with running_postgres() as cluster:
        url = cluster.new_database() + "&connect_timeout=2"
        with start(registry_url=url) as gateway:
            key = prepared(gateway)
            with cluster.frozen(), pytest.MonkeyPatch.context() as impatient:
                impatient.setattr(auth, "REGISTRY_SECONDS", 1.0)
                impatient.setattr(postgresql, "SILENT_SECONDS", 1.0)
                goes_on_from_memory(gateway, key)
                method, path, body = CHANGES[0]
                with ThreadPoolExecutor() as pool:  # each waits for a connection of its own
                    change = pool.submit(gateway.http.request, method, path, json=body)
                    read = pool.submit(gateway.http.get, "/admin/keys")
                for answer in (change.result(), read.result()):
                    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "registry_unavailable")
                    assert answer.headers["retry-after"]
                unknown = gateway.http.get("/v1/models", headers={"authorization": "Bearer ld-who-knows"})
                assert (unknown.status_code, unknown.json()["error"]["code"]) == (503, "registry_unavailable")
                goes_on_from_memory(gateway, key)
            is_itself_again(gateway)
            hears_of_others(gateway, url)
