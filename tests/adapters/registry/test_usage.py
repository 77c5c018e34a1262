"""The usage ledger: batches count once, gateways add up, and whoever asks gets the sums that he asked for."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import event

from loradock_adapters.errors import RegistryError
from loradock_adapters.registry import Registry
from loradock_adapters.registry.usage import Account, Position, Sums, hour_of, hour_start
from loradock_adapters.registry.usage_report import Dimension, Group, UsageQuery
from tests.adapters.registry.making import ME

NOON = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
HOUR = hour_of(NOON)
ONE = Sums(1, 0, 0, 10, 5, 2)


def account(hour: int = HOUR, key: str = "key-a", tenant: str = "", adapter: str = "bot", version: int = 1) -> Account:
    return Account(hour, key, tenant, adapter, version)


def rows(registry: Registry, *by: Dimension, query: UsageQuery | None = None) -> list[tuple[object, ...]]:
    asked = query or UsageQuery(by=by)
    return [(*group.values, group.sums.input_tokens) for group in registry.usage_report.page(asked)]


def fill(registry: Registry, *accounts: Account) -> None:
    """Ten input tokens for each, by a gateway of its own."""
    for number, one in enumerate(accounts):
        assert registry.usage.add(f"g{number}", {one: ONE}, since=None, until=Position("e", 1)) == Position("e", 1)


def test_batches_add_up_and_the_position_moves_with_them(registry: Registry) -> None:
    first, second = Position("e", 3), Position("e", 9)
    assert registry.usage.position("g") is None
    registry.usage.add("g", {account(): ONE, account(version=2): ONE}, since=None, until=first)
    registry.usage.add("g", {account(): Sums(2, 1, 1, 1, 1, 1)}, since=first, until=second)
    assert registry.usage.position("g") == second
    total = registry.usage_report.total(UsageQuery(adapter="bot", by=()))
    assert total.sums == Sums(4, 1, 1, 21, 11, 5)


def test_a_batch_that_comes_twice_counts_once(registry: Registry) -> None:
    """As after a connection that died between the commit and the word of it."""
    until = Position("e", 3)
    for _ in range(2):
        assert registry.usage.add("g", {account(): ONE}, since=None, until=until) == until
    assert rows(registry, Dimension.ADAPTER) == [("bot", 10)]


def test_a_batch_from_elsewhere_is_not_added_and_the_answer_says_where_the_database_stands(registry: Registry) -> None:
    registry.usage.add("g", {account(): ONE}, since=None, until=Position("e", 3))
    stands = registry.usage.add("g", {account(): ONE}, since=Position("e", 2), until=Position("e", 4))
    assert stands == Position("e", 3)
    assert registry.usage.add("new", {account(): ONE}, since=Position("e", 2), until=Position("e", 4)) is None
    assert rows(registry, Dimension.ADAPTER) == [("bot", 10)]


def test_an_interrupted_batch_leaves_neither_sums_nor_position(registry: Registry) -> None:
    engine = registry.usage._database._engine

    def fail(connection: object, cursor: object, statement: str, *_: object) -> None:
        if "INSERT INTO usage " in statement:
            raise RuntimeError("killed here")

    event.listen(engine, "before_cursor_execute", fail)
    with pytest.raises(RuntimeError):
        registry.usage.add("g", {account(): ONE}, since=None, until=Position("e", 3))
    event.remove(engine, "before_cursor_execute", fail)
    assert (rows(registry, Dimension.ADAPTER), registry.usage.position("g")) == ([], None)


def test_gateways_that_write_the_same_rows_at_once_lose_nothing_and_lock_nobody_up(registry: Registry) -> None:
    accounts = [account(adapter=f"bot-{number}") for number in range(20)]
    failures: list[BaseException] = []

    def work(gateway: str, order: int) -> None:
        since = None
        try:
            for seq in range(1, 11):
                until = Position("e", seq)
                registry.usage.add(gateway, {one: ONE for one in accounts[::order]}, since=since, until=until)
                since = until
        except BaseException as error:  # noqa: BLE001 a thread's failure must reach the test
            failures.append(error)

    threads = [threading.Thread(target=work, args=(f"g{n}", 1 if n % 2 else -1)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert {sums for _, sums in rows(registry, Dimension.ADAPTER)} == {400}


def test_counting_does_not_look_like_a_change_of_what_is_registered(registry: Registry) -> None:
    before = registry.revision()
    fill(registry, account())
    assert registry.revision() == before


def test_sums_are_divided_as_asked_and_sorted(registry: Registry) -> None:
    fill(
        registry,
        account(key="key-a", adapter="bot", version=1),
        account(key="key-b", adapter="bot", version=2, tenant="acme"),
        account(key="key-b", adapter="base", version=0, hour=HOUR + 1),
        account(key="key-b", adapter="bot", version=2, hour=HOUR + 24),
    )
    day = HOUR // 24
    assert rows(registry) == [(40,)]
    assert rows(registry, Dimension.KEY) == [("key-a", 10), ("key-b", 30)]
    assert rows(registry, Dimension.VERSION) == [("base", 0, 10), ("bot", 1, 10), ("bot", 2, 20)]
    assert rows(registry, Dimension.DAY) == [(day, 30), (day + 1, 10)]
    assert rows(registry, Dimension.HOUR, Dimension.TENANT) == [
        (HOUR, "", 10),
        (HOUR, "acme", 10),
        (HOUR + 1, "", 10),
        (HOUR + 24, "", 10),
    ]
    assert rows(registry, Dimension.ADAPTER, Dimension.DAY) == [
        (day, "base", 10),
        (day, "bot", 20),
        (day + 1, "bot", 10),
    ]


def test_a_group_comes_divided_by_adapter(registry: Registry) -> None:
    fill(registry, account(), account(adapter="base", version=0), account(version=2))
    (group,) = registry.usage_report.page(UsageQuery(by=(Dimension.KEY,)))
    assert group == Group(("key-a",), {"base": ONE, "bot": Sums(2, 0, 0, 20, 10, 4)})


def test_a_query_has_bounds_and_filters(registry: Registry) -> None:
    fill(
        registry,
        account(),
        account(hour=HOUR - 1, tenant="acme"),
        account(hour=HOUR + 1, key="key-b", adapter="base", version=0),
    )

    def found(**only: object) -> int:
        return registry.usage_report.total(UsageQuery(**only)).sums.requests  # type: ignore[arg-type]

    assert found() == 3
    assert found(since=NOON) == 2, "an hour that has begun counts whole"
    assert found(until=NOON) == 2
    assert found(until=hour_start(HOUR)) == 1
    assert found(since=NOON, until=NOON + timedelta(seconds=1)) == 1
    assert (found(key_id="key-b"), found(adapter="bot"), found(tenant="acme"), found(tenant="")) == (1, 2, 1, 2)
    assert found(key_id="nobody") == 0
    assert registry.usage_report.page(UsageQuery(key_id="nobody", by=(Dimension.KEY,))) == []


@pytest.mark.parametrize("by", [(Dimension.KEY,), (Dimension.DAY, Dimension.KEY, Dimension.VERSION), ()])
def test_pages_follow_each_other_without_gap_or_repetition(registry: Registry, by: tuple[Dimension, ...]) -> None:
    fill(
        registry,
        *(
            account(key=f"key-{key}", adapter=name, hour=HOUR + 7 * key)
            for key in range(7)
            for name in ("a", "b.b", "b-b")
        ),
    )
    query = UsageQuery(by=by)
    whole = list(registry.usage_report.page(query, limit=1000))
    pages: list[Group] = []
    while page := registry.usage_report.page(query, after=pages[-1].values if pages else None, limit=2):
        assert len(page) <= 2
        pages += page
    assert pages == whole
    assert sum(group.sums.requests for group in whole) == 21


def test_old_hours_can_be_forgotten_and_the_audit_says_by_whom(registry: Registry) -> None:
    fill(registry, *(account(hour=HOUR - 30 * number) for number in range(4)))
    assert registry.usage.prune(hour_start(HOUR - 30), by=ME) == 2
    assert rows(registry, Dimension.HOUR) == [(HOUR - 30, 10), (HOUR, 10)]
    assert registry.usage.prune(hour_start(HOUR - 30), by=ME) == 0
    newest = registry.audit.page()[1]
    assert (newest.action, newest.after) == (
        "usage.pruned",
        {"before": hour_start(HOUR - 30).isoformat(), "rows": 2},
    )


# SQLAlchemy 2.0 minds that the limit is set in a transaction.
@pytest.mark.filterwarnings("ignore:The engine provided as bind produced a connection:sqlalchemy.exc.SAWarning")
def test_a_full_disk_is_an_error_that_leaves_the_sums_as_they_were(registry: Registry) -> None:
    engine = registry.usage._database._engine
    if engine.dialect.name != "sqlite":
        pytest.skip("PostgreSQL's disk is not ours to fill")
    fill(registry, account())

    def bound(connection: object) -> None:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()  # type: ignore[attr-defined]
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")  # type: ignore[attr-defined]

    event.listen(engine, "engine_connect", bound)
    many = {account(adapter=f"bot-{number}"): ONE for number in range(500)}
    with pytest.raises(RegistryError, match="full"):
        registry.usage.add("late", many, since=None, until=Position("e", 500))
    event.remove(engine, "engine_connect", bound)
    assert (rows(registry), registry.usage.position("late")) == ([(10,)], None)
