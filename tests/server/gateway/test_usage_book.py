"""The book between the engine's feed and the ledger, and the reading of what a feed may say."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from loradock_adapters.errors import RegistryError
from loradock_adapters.registry.usage import Account, Position, Sums
from loradock_server.gateway import usage_book
from loradock_server.gateway.usage import Usage, UsageFollower
from loradock_server.gateway.usage_book import OVERFLOW, UsageBook

LINE: dict[str, Any] = {
    **{"request_id": "r", "adapter": "poet@2", "input_tokens": 10, "output_tokens": 5, "cached_tokens": 3},
    **{"finish_reason": "stop", "ended_at": 7200.5, "key": "key-1", "tenant": "a%20b", "status": 200},
}


class FakeLedger:
    """Keeps batches as the registry's table does, whose own tests hold it to that; fails when told to.

    With `late` the batch is in although the answer was lost.
    """

    def __init__(self) -> None:
        self.stands: Position | None = None
        self.sums: dict[Account, Sums] = {}
        self.fails = 0
        self.late = False

    def position(self, gateway: str) -> Position | None:
        return self.stands

    def add(
        self, gateway: str, sums: dict[Account, Sums], *, since: Position | None, until: Position
    ) -> Position | None:
        if self.fails:
            self.fails -= 1
            if not self.late:
                raise RegistryError("locked")
        if self.stands == since:
            for account, more in sums.items():
                self.sums.setdefault(account, Sums()).add(more)
            self.stands = until
        if self.late:
            self.late = False
            raise RegistryError("the connection died after the commit")
        return self.stands


def book_of(ledger: FakeLedger, moved: list[Position | None] | None = None) -> UsageBook:
    return UsageBook(ledger, "g", (moved if moved is not None else []).append)  # type: ignore[arg-type]


def add(book: UsageBook, seq: int, **said: Any) -> None:
    book.add(Usage.parse({**LINE, **said}), Position("e", seq))


def test_a_record_is_added_under_its_hour_key_tenant_adapter_and_version() -> None:
    ledger = FakeLedger()
    book = book_of(ledger)
    add(book, 1)
    add(book, 2, status=503, output_tokens=0)
    add(book, 3, finish_reason="abort", status=None)
    add(book, 4, adapter=None, ended_at=7199.9)
    assert asyncio.run(book.write())
    assert ledger.sums == {
        Account(2, "key-1", "a b", "poet", 2): Sums(3, 1, 1, 30, 10, 9),
        Account(1, "key-1", "a b", "base", 0): Sums(1, 0, 0, 10, 5, 3),
    }
    assert ledger.stands == Position("e", 4)


def test_a_batch_whose_answer_was_lost_counts_once_and_what_came_meanwhile_too() -> None:
    ledger = FakeLedger()
    ledger.fails, ledger.late = 1, True
    book = book_of(ledger)

    async def main() -> None:
        add(book, 1)
        assert not await book.write()
        add(book, 2)
        assert await book.write()

    asyncio.run(main())
    assert [sums.requests for sums in ledger.sums.values()] == [2]


def test_a_failing_database_is_told_of_once_and_again_when_it_is_back(caplog: pytest.LogCaptureFixture) -> None:
    ledger = FakeLedger()
    ledger.fails = 3
    book = book_of(ledger)

    async def main() -> None:
        add(book, 1)
        while not await book.write():
            pass

    asyncio.run(main())
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


def test_a_database_that_stands_elsewhere_is_believed() -> None:
    ledger, moved = FakeLedger(), list[Position | None]()
    book = book_of(ledger, moved)

    async def main() -> None:
        await book.open()
        ledger.stands = Position("e", 7)
        add(book, 8)
        assert await book.write()
        assert moved == [Position("e", 7)]
        add(book, 8)  # as the feed gives it again
        assert await book.write()

    asyncio.run(main())
    assert [sums.requests for sums in ledger.sums.values()] == [1]


def test_memory_is_bounded_and_no_token_is_lost_by_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage_book, "MAX_ROWS", 3)
    ledger = FakeLedger()
    book = book_of(ledger)
    for number in range(10):
        add(book, number + 1, key=f"key-{number}")
    assert asyncio.run(book.write())
    assert len(ledger.sums) == 4
    assert ledger.sums[Account(2, OVERFLOW, "", "base", 0)].requests == 7
    assert sum(sums.input_tokens for sums in ledger.sums.values()) == 100


def test_a_shutdown_waits_for_the_database_but_not_for_ever(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(usage_book, "WRITE_SECONDS", 0.05)
    monkeypatch.setattr(usage_book, "LAST_WRITE_SECONDS", 60.0)
    ledger = FakeLedger()
    ledger.fails = 2
    book = book_of(ledger)
    add(book, 1)
    asyncio.run(book.close())
    assert len(ledger.sums) == 1
    monkeypatch.setattr(usage_book, "LAST_WRITE_SECONDS", 0.3)
    ledger.fails = 1_000_000
    add(book, 2)
    asyncio.run(book.close())
    assert "could not be written" in caplog.text


@pytest.mark.parametrize(
    ("said", "field", "value"),
    [
        ({"key": None}, "key_id", ""),
        ({"key": "%00%F0%9F%98%80"}, "key_id", "\N{REPLACEMENT CHARACTER}😀"),
        ({"key": "%ff"}, "key_id", "\N{REPLACEMENT CHARACTER}"),
        ({"key": "k" * 1000}, "key_id", "k" * 255),
        ({"output_tokens": 10**30}, "output_tokens", 1 << 40),
        ({"output_tokens": -1}, "output_tokens", 0),
    ],
)
def test_what_an_engine_says_fits_every_database(said: dict[str, Any], field: str, value: object) -> None:
    assert getattr(Usage.parse({**LINE, **said}), field) == value


@pytest.mark.parametrize("when", [None, "noon", float("nan"), -1, 1e300])
def test_a_record_without_a_sensible_time_ended_now(when: Any) -> None:
    assert 1.7e9 < Usage.parse({**LINE, "ended_at": when}).ended_at < 4e9


def test_records_that_the_engine_forgot_are_missed(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[int] = []
    follower = UsageFollower(None, lambda usage, position: seen.append(position.seq))  # type: ignore[arg-type]
    for seq, before in ((4, 0), (9, 4), (20, 15)):
        follower._read(
            b'{"seq": %d, "before": %d, "request_id": "r", "input_tokens": 1, "output_tokens": 1}' % (seq, before)
        )
    assert seen == [4, 9, 20]
    assert [record.message for record in caplog.records] == [
        "the engine has forgotten usage records of this gateway between 9 and 20: they are not counted"
    ]
