"""What the gateway writes into the ledger: every request once, whoever goes away meanwhile."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from loradock_adapters.registry import Registry
from loradock_adapters.registry.usage import Sums
from loradock_adapters.registry.usage_report import Dimension, UsageQuery
from loradock_server.gateway.identity import Identity
from tests.fakes.engine import Reply
from tests.server.gateway.conftest import Gateway, Start, eventually

BODY = {"model": "tiny", "prompt": "x"}
BY = (Dimension.KEY, Dimension.ADAPTER, Dimension.VERSION)


@pytest.fixture
def registry(gateway: Gateway) -> Iterator[Registry]:
    opened = Registry.open(gateway.settings.registry)
    yield opened
    opened.close()


def ledger(registry: Registry) -> dict[tuple[object, ...], Sums]:
    return {group.values: group.sums for group in registry.usage_report.page(UsageQuery(by=BY))}


def whole(gateway: Gateway) -> Sums:
    """The sums in the database of a gateway that may be dead."""
    registry = Registry.open(gateway.settings.registry)
    try:
        return registry.usage_report.total(UsageQuery()).sums
    finally:
        registry.close()


def test_requests_are_written_by_key_adapter_and_version_within_a_second(gateway: Gateway, registry: Registry) -> None:
    gateway.register("poet")
    made = gateway.http.post("/admin/keys", json={"name": "app"}).json()
    app = {"authorization": f"Bearer {made['secret']}"}
    for model, headers in (("poet", app), ("poet", app), ("tiny", app), ("tiny", {})):
        assert gateway.http.post("/v1/completions", json={**BODY, "model": model}, headers=headers).is_success
    (admin,) = (key.id for key in registry.keys.list() if key.name == "first admin")
    wanted = {
        (made["id"], "poet", 1): Sums(2, 0, 0, 10, 4, 4),
        (made["id"], "base", 0): Sums(1, 0, 0, 5, 2, 2),
        (admin, "base", 0): Sums(1, 0, 0, 5, 2, 2),
    }
    eventually(lambda: ledger(registry) == wanted)


def test_aborted_and_refused_requests_are_told_apart(gateway: Gateway, registry: Registry) -> None:
    gate = gateway.engine.gate()
    gateway.engine.enqueue(
        Reply(status=400, error={"message": "too long", "code": 400}), Reply(gate=gate, gate_at=1, tokens=("a", "b"))
    )
    assert gateway.http.post("/v1/completions", json=BODY).status_code == 400
    with gateway.http.stream("POST", "/v1/completions", json={**BODY, "stream": True}):
        gateway.engine.wait_for(gate)
    eventually(lambda: sum(sums.requests for sums in ledger(registry).values()) == 2)
    (sums,) = ledger(registry).values()
    assert (sums.errors, sums.aborted, sums.input_tokens, sums.output_tokens) == (1, 1, 5, 1)


def test_a_request_counts_in_the_hour_in_which_it_ended(gateway: Gateway, registry: Registry) -> None:
    def hours() -> list[tuple[object, ...]]:
        return [group.values for group in registry.usage_report.page(UsageQuery(by=(Dimension.HOUR,)))]

    gateway.engine.clock = lambda: 1_000_000 * 3600.0 - 0.001
    gateway.http.post("/v1/completions", json=BODY)
    # The engine looks at its clock when the client has its answer already.
    eventually(lambda: hours() == [(999_999,)])
    gateway.engine.clock = lambda: 1_000_000 * 3600.0
    gateway.http.post("/v1/completions", json=BODY)
    eventually(lambda: hours() == [(999_999,), (1_000_000,)])


def test_sigterm_writes_what_the_last_answers_cost(start: Start) -> None:
    with start() as gateway:
        gate = gateway.engine.gate()
        gateway.engine.usage_gate = gate
        gateway.http.post("/v1/completions", json=BODY)
        gateway.stop()
        time.sleep(0.2)
        gate.open()
        gateway.wait_stopped()
        assert whole(gateway) == Sums(1, 0, 0, 5, 2, 2)


@pytest.mark.parametrize("drain_timeout", [20, 0.2])
def test_sigterm_under_load_loses_nothing_of_answers_that_end_well_or_are_cut(
    start: Start, drain_timeout: float
) -> None:
    with start(drain_timeout=drain_timeout) as gateway:
        gateway.engine.enqueue(*(Reply(tokens=("a",) * 20, pause=0.03) for _ in range(200)))
        headers = {"authorization": f"Bearer {gateway.key}"}

        def ask() -> None:
            with suppress(httpx.TransportError):
                while httpx.post(
                    f"{gateway.url}/v1/completions",
                    json={**BODY, "stream": True},
                    headers=headers,
                    timeout=60,
                    trust_env=False,
                ).is_success:
                    pass

        clients = [threading.Thread(target=ask) for _ in range(6)]
        for client in clients:
            client.start()
        eventually(lambda: len(gateway.engine.published) > 6)
        gateway.stop()
        for client in clients:
            client.join(60)
        gateway.wait_stopped()
        published = gateway.engine.published
        assert whole(gateway).output_tokens == sum(record["output_tokens"] for record in published) > 0
        assert whole(gateway).requests == len(published)


@contextmanager
def locked(gateway: Gateway) -> Iterator[None]:
    """Somebody else holds SQLite's write lock."""
    database = sqlite3.connect(Path(gateway.settings.home) / "registry.db", isolation_level=None)
    database.execute("BEGIN IMMEDIATE")
    yield
    database.execute("ROLLBACK")
    database.close()


def test_a_locked_database_holds_up_no_request_and_loses_no_usage(gateway: Gateway, registry: Registry) -> None:
    with locked(gateway):
        for _ in range(3):
            assert gateway.http.post("/v1/completions", json=BODY).is_success
        time.sleep(0.7)  # longer than between two batches
        assert gateway.http.post("/v1/completions", json=BODY).is_success
        assert ledger(registry) == {}
    eventually(lambda: sum(sums.requests for sums in ledger(registry).values()) == 4)


def test_a_database_that_fails_is_tried_again_and_its_loss_is_told_once(
    gateway: Gateway, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    """A table that is not there stands for every failure: full, gone, read-only."""
    database = sqlite3.connect(Path(gateway.settings.home) / "registry.db")
    database.execute("ALTER TABLE usage RENAME TO elsewhere")
    for _ in range(3):
        assert gateway.http.post("/v1/completions", json=BODY).is_success
    eventually(lambda: gateway.metric("loradock_usage_write_failures_total") >= 2)
    assert [record.message for record in caplog.records if "cannot be written" in record.message] == [
        "usage cannot be written (the registry's database failed: no such table: usage); "
        "it is kept in memory and tried again"
    ]
    database.execute("ALTER TABLE elsewhere RENAME TO usage")
    database.close()
    eventually(lambda: sum(sums.requests for sums in ledger(registry).values()) == 3)


def test_records_count_once_when_the_engine_restarts(gateway: Gateway, registry: Registry) -> None:
    for _ in range(3):
        gateway.http.post("/v1/completions", json=BODY)
    eventually(lambda: sum(sums.requests for sums in ledger(registry).values()) == 3)
    gateway.engine.die()
    gateway.engine.revive()
    gateway.notice_ended_connections()
    for _ in range(2):
        assert gateway.http.post("/v1/completions", json=BODY).is_success
    eventually(lambda: sum(sums.requests for sums in ledger(registry).values()) == 5)


def test_after_a_database_went_back_in_time_the_feed_is_read_again_from_there(
    gateway: Gateway, registry: Registry
) -> None:
    """As by a backup that is brought back: what came after it is in the engine still."""
    gateway.http.post("/v1/completions", json=BODY)
    eventually(lambda: len(ledger(registry)) == 1)
    database = sqlite3.connect(Path(gateway.settings.home) / "registry.db")
    with database:
        database.execute("DELETE FROM usage")
        database.execute("DELETE FROM usage_positions")
    database.close()
    for _ in range(2):
        gateway.http.post("/v1/completions", json=BODY)
        time.sleep(0.7)  # a batch each; with the second one's line the gateway asks again
    eventually(lambda: sum(sums.requests for sums in ledger(registry).values()) == 3)
    time.sleep(0.7)
    assert sum(sums.requests for sums in ledger(registry).values()) == 3


def test_a_gateway_has_the_name_of_the_one_before_it_and_none_has_anothers(tmp_path: Path) -> None:
    first, second = Identity.take(tmp_path), Identity.take(tmp_path)
    assert first.id != second.id
    first.release()
    third = Identity.take(tmp_path)
    assert third.id == first.id
    (tmp_path / "gateways/1").write_text("torn")
    third.release()
    fresh = Identity.take(tmp_path)
    assert len(fresh.id) == 32
    assert fresh.id not in (first.id, second.id)
    second.release()
    fresh.release()


def test_a_home_that_keeps_no_names_is_no_reason_not_to_serve(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "gateways").write_text("in the way")
    assert len(Identity.take(tmp_path).id) == 32
    assert "no lasting name" in caplog.text
