"""The usage feed: in order, only one's own records, none twice and none lost over a reconnect."""

from __future__ import annotations

import asyncio
import json

from loradock_server.engine.context import Generation, RequestContext
from loradock_server.engine.usage import UsageFeed


async def read(feed: UsageFeed, gateway: str, after: int, count: int) -> list[dict[str, object]]:
    lines: list[dict[str, object]] = []
    async for part in feed.follow(gateway, after):
        lines += [json.loads(line) for line in part.splitlines() if line]
        if len(lines) >= count:
            break
    return lines[:count]


def test_a_gateway_sees_its_own_records_in_order_and_takes_up_where_it_left_off() -> None:
    async def main() -> None:
        feed = UsageFeed()
        for number in range(4):
            await feed.publish("g1" if number % 2 == 0 else "g2", {"request_id": f"r{number}"})
        first = await read(feed, "g1", 0, 1)
        assert [r["request_id"] for r in first] == ["r0"]
        later = asyncio.create_task(read(feed, "g1", int(str(first[0]["seq"])), 2))
        await asyncio.sleep(0.01)
        await feed.publish("g1", {"request_id": "r4"})
        assert [r["request_id"] for r in await later] == ["r2", "r4"]

    asyncio.run(asyncio.wait_for(main(), 60))


def test_closing_the_feed_ends_a_follower_after_its_last_record() -> None:
    async def main() -> None:
        feed = UsageFeed()
        await feed.publish("g1", {"request_id": "r0"})
        following = asyncio.create_task(read(feed, "g1", 0, 99))
        await asyncio.sleep(0.01)
        await feed.close()
        assert [r["request_id"] for r in await following] == ["r0"]

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_request_with_several_sequences_is_one_record_with_their_sum() -> None:
    context = RequestContext("r1", "g1", "a@1", "d1", "cold")
    done = Generation(10, 5, 2, "stop", queue_seconds=0.1, time_to_first_token_seconds=0.3)
    cut = Generation(0, 3, 0, None, queue_seconds=0.2, time_to_first_token_seconds=0.2)
    context.generations += [lambda: done, lambda: cut]
    record = context.record()
    assert (record["input_tokens"], record["output_tokens"], record["cached_tokens"]) == (10, 8, 2)
    assert record["finish_reason"] == "abort"
    assert (record["queue_seconds"], record["time_to_first_token_seconds"]) == (0.2, 0.2)


def test_a_request_that_never_reached_the_engine_costs_nothing() -> None:
    record = RequestContext("r1", "g1", None, None).record()
    assert (record["input_tokens"], record["output_tokens"], record["finish_reason"]) == (0, 0, None)


def test_a_record_names_the_one_before_it_so_that_one_that_was_forgotten_is_missed() -> None:
    async def main() -> None:
        feed = UsageFeed(kept=3)
        for number in range(6):
            await feed.publish("g1" if number % 2 == 0 else "g2", {"request_id": f"r{number}"})
        (kept,) = await read(feed, "g1", 0, 1)
        assert (kept["request_id"], kept["seq"], kept["before"]) == ("r4", 5, 3)

    asyncio.run(asyncio.wait_for(main(), 60))
