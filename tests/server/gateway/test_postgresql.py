"""Several gateways on one PostgreSQL: they hear of each other's changes, and outlive its restarts."""

from __future__ import annotations

import httpx
import pytest

from loradock_server.gateway import signal
from tests.postgres import Postgres
from tests.server.gateway.conftest import Gateway, Start, eventually


def answered_by(gateway: Gateway) -> str:
    headers: httpx.Headers = gateway.http.post("/v1/completions", json={"model": "poet", "prompt": "x"}).headers
    return str(headers.get("x-loradock-adapter"))


def test_a_gateway_is_told_of_anothers_change(
    start: Start, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It would ask by itself in an hour only.
    monkeypatch.setattr(signal, "POLL_SECONDS", 3600.0)
    monkeypatch.setattr(signal, "FALLBACK_SECONDS", 3600.0)
    url = postgres.new_database()
    with start(registry_url=url) as one, start(registry_url=url) as two:
        one.register("poet")
        eventually(lambda: answered_by(two) == "poet@1")
        two.register("poet", alpha=8)
        eventually(lambda: answered_by(one) == "poet@2")
        one.http.post("/admin/adapters/poet/aliases/live/rollback")
        eventually(lambda: answered_by(two) == "poet@1")
        key = one.http.post("/admin/keys", json={"name": "app"}).json()
        headers = {"authorization": f"Bearer {key['secret']}"}
        assert two.http.get("/v1/models", headers=headers).status_code == 200
        one.http.delete(f"/admin/keys/{key['id']}")
        eventually(lambda: two.http.get("/v1/models", headers=headers).status_code == 401)


def test_a_gateway_whose_connections_were_cut_goes_on_and_follows_again(start: Start, postgres: Postgres) -> None:
    url = postgres.new_database()
    database = url.partition("@/")[2].partition("?")[0]
    with start(registry_url=url) as one, start(registry_url=url) as two:
        one.register("poet")
        eventually(lambda: answered_by(two) == "poet@1")
        with postgres.connect("postgres") as connection:
            cut = connection.execute(
                "SELECT count(pg_terminate_backend(pid, 60000)) FROM pg_stat_activity WHERE datname = %s", (database,)
            ).fetchone()
        assert cut is not None
        assert cut[0] != 0
        assert answered_by(two) == "poet@1"
        one.register("poet", alpha=8)
        eventually(lambda: answered_by(two) == "poet@2")
