"""Fair admission on a fake clock: nobody starves, tokens are shared fairly, nothing is lost when clients leave."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loradock_server.engine.admission import (
    TICK_SECONDS,
    WEIGHTS,
    AdapterQueueFull,
    Admission,
    QueueFull,
    Reading,
    Rules,
)
from tests.server.engine.admission_world import STEP_SECONDS, World, simulate

NEVER = 1e9


def free() -> Reading:
    return Reading(0, 0)


def in_world(scenario: Callable[[World], Awaitable[None]], world: Callable[[], World] = World) -> None:
    async def main() -> None:
        await scenario(world())

    simulate(main())


# --- Nobody starves ---


@pytest.mark.parametrize("places", [1, 2, 8])
def test_a_hot_set_of_exactly_max_loras_adapters_cannot_starve_a_lonely_request(places: int) -> None:
    tokens = 40
    rules = Rules(patience=NEVER)

    async def scenario(world: World) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + 120
        async with asyncio.TaskGroup() as tasks:
            for number in range(places):
                tasks.create_task(world.keep_busy(f"hot-{number}@1", tokens, streams=4, until=until))
            await asyncio.sleep(30)
            for _ in range(5):
                began = loop.time()
                job = await world.serve("lonely@1", 5)
                assert job.waited <= rules.quantum_seconds + tokens * STEP_SECONDS + TICK_SECONDS + 0.01
                assert job.waited > 0, "the hot set left a gap: this test shows nothing"
                await asyncio.sleep(10 - (loop.time() - began))

    in_world(scenario, lambda: World(rules, places=places, seats=64))


def test_twenty_adapters_on_two_places_all_get_their_turn_within_the_bound() -> None:
    async def scenario(world: World) -> None:
        until = asyncio.get_running_loop().time() + 300
        await asyncio.gather(
            *(world.keep_busy(f"a{n}@1", 10 + 3 * n, streams=3, until=until) for n in range(20)),
            world.keep_busy(None, 30, streams=3, until=until),
        )
        assert all(job.admitted for job in world.jobs)
        for job in world.jobs:
            assert (job.admitted or 0) - world.head_since(job) <= world.worst_wait(job, 10 + 3 * 19)

    in_world(scenario)


def test_one_that_has_used_far_more_than_its_share_waits_for_the_patience_and_no_longer() -> None:
    async def scenario(world: World) -> None:
        loop = asyncio.get_running_loop()
        burst = [asyncio.create_task(world.serve("greedy@1", 100)) for _ in range(40)]
        await asyncio.sleep(2)
        until = loop.time() + 60
        # Two lengths, so that they do not fall into step and leave a gap.
        modest = asyncio.gather(*(world.keep_busy("modest@1", n, streams=1, until=until) for n in (10, 17)))
        await asyncio.sleep(1)
        job = await world.serve("greedy@1", 100)
        await asyncio.gather(*burst)
        assert world.rules.patience <= job.waited <= world.worst_wait(job, 100)
        assert loop.time() < until
        await modest

    in_world(scenario, lambda: World(places=1, seats=64))


def test_nobody_who_comes_later_goes_before_one_that_has_waited_long_enough() -> None:
    """However many new adapters keep coming, each with a smaller claim on its counter."""

    async def scenario(world: World) -> None:
        loop = asyncio.get_running_loop()
        await world.keep_busy("greedy@1", 40, streams=4, until=loop.time() + 60)
        newcomers = []
        async with asyncio.TaskGroup() as tasks:
            for number in range(200):
                newcomers.append(tasks.create_task(world.serve(f"new-{number}@1", 10)))
                if number == 20:
                    greedy = tasks.create_task(world.serve("greedy@1", 10))
                await asyncio.sleep(0.4)
        job = greedy.result()
        assert job.waited <= world.worst_wait(job, 10)
        assert newcomers[-1].result().waited > job.waited, "no overload: this test shows nothing"

    in_world(scenario, lambda: World(Rules(patience=2), places=1))


def test_a_long_line_of_old_requests_does_not_hold_up_another_adapter() -> None:
    async def scenario(world: World) -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(200):
                tasks.create_task(world.serve("deep@1", 20))
            await asyncio.sleep(5)
            job = await world.serve("other@1", 20)
            assert 0 < job.waited <= world.worst_wait(job, 20)

    in_world(scenario, lambda: World(Rules(patience=1), places=2, seats=3))


def test_as_many_adapters_make_way_as_are_waited_for_those_with_the_most_service() -> None:
    async def scenario(world: World) -> None:
        until = asyncio.get_running_loop().time() + 30
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(world.keep_busy("light@1", 20, streams=2, until=until))
            tasks.create_task(world.keep_busy("heavy@1", 20, streams=6, until=until))
            await asyncio.sleep(10)
            assert (await world.serve("lonely@1", 5)).waited > 0
        waited = {job.adapter for job in world.jobs if job.waited}
        assert waited == {"lonely@1", "heavy@1"}

    in_world(scenario, lambda: World(seats=16))


def test_base_requests_need_no_place() -> None:
    async def scenario(world: World) -> None:
        async with asyncio.TaskGroup() as tasks:
            for name in ("a@1", "b@1"):
                tasks.create_task(world.serve(name, 100))
            await asyncio.sleep(0)
            job = await world.serve(None, 5)
        assert job.waited == 0

    in_world(scenario)


def test_an_idle_adapters_place_is_free_at_once() -> None:
    async def scenario(world: World) -> None:
        for number in range(10):
            assert (await world.serve(f"a{number}@1", 3)).waited == 0

    in_world(scenario)


def test_a_place_is_kept_for_a_quantum_so_that_adapters_do_not_alternate_request_by_request() -> None:
    async def scenario(world: World) -> None:
        until = asyncio.get_running_loop().time() + 60
        await asyncio.gather(*(world.keep_busy(name, 4, streams=2, until=until) for name in ("a@1", "b@1")))
        order = [job.adapter for job in sorted(world.jobs, key=lambda job: job.admitted or 0)]
        changes = sum(x != y for x, y in zip(order, order[1:], strict=False))
        assert changes <= 60 / world.rules.quantum_seconds + 2
        assert changes > 10

    in_world(scenario, lambda: World(Rules(quantum_tokens=10**9), places=1))


def test_a_drain_is_called_off_when_the_request_it_was_for_leaves() -> None:
    async def scenario(world: World) -> None:
        loop = asyncio.get_running_loop()
        long = asyncio.create_task(world.serve("a@1", 400))
        await asyncio.sleep(5)
        impatient = asyncio.create_task(world.serve("b@1", 5))
        await asyncio.sleep(1)
        waiting = asyncio.create_task(world.serve("a@1", 5))
        await asyncio.sleep(1)
        assert world.admission.waiting_by_adapter() == {"a@1": 1, "b@1": 1}
        impatient.cancel()
        began = loop.time()
        await waiting
        assert loop.time() - began < 1
        await long

    in_world(scenario, lambda: World(places=1))


def test_the_drain_that_is_called_off_is_the_newest() -> None:
    """Who has waited longest counts on the oldest."""

    async def scenario(world: World) -> None:
        long = [asyncio.create_task(world.serve(name, tokens)) for name, tokens in (("a@1", 400), ("b@1", 200))]
        await asyncio.sleep(3)
        patient = asyncio.create_task(world.serve("c@1", 5))
        await asyncio.sleep(1)
        impatient = asyncio.create_task(world.serve("d@1", 5))
        await asyncio.sleep(1)
        impatient.cancel()
        await asyncio.sleep(0)
        first, second = (asyncio.create_task(world.serve(name, 5)) for name in ("a@1", "b@1"))
        await asyncio.sleep(0.5)
        assert (first.done(), second.done()) == (False, True)
        await asyncio.gather(*long, patient, first)

    in_world(scenario)


# --- Shares ---


@pytest.mark.parametrize("places", [1, 2])
def test_two_backlogged_adapters_get_equal_tokens_however_unequal_their_requests(places: int) -> None:
    """On one place they take turns; on two they compete for the seats."""

    async def scenario(world: World) -> None:
        until = asyncio.get_running_loop().time() + 400
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(world.keep_busy("long@1", 100, streams=8, until=until))
            tasks.create_task(world.keep_busy("short@1", 5, streams=24, until=until))
            await asyncio.sleep(400)
            long, short = world.used("long@1"), world.used("short@1")
        may_still_produce = 4 * (10 + 2 * 100)
        assert abs(long - short) <= world.rules.quantum_tokens + may_still_produce
        assert min(long, short) > 20_000

    rules = Rules(quantum_tokens=100, quantum_seconds=0.5, patience=NEVER)
    in_world(scenario, lambda: World(rules, places=places, seats=4))


@pytest.mark.parametrize("places", [1, 2])
@pytest.mark.parametrize(("priority", "factor"), [("high", 4.0), ("low", 0.25)])
def test_of_two_backlogged_adapters_each_gets_tokens_by_its_priority(places: int, priority: str, factor: float) -> None:
    async def scenario(world: World) -> None:
        until = asyncio.get_running_loop().time() + 400
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(world.keep_busy("mine@1", 20, streams=12, until=until))
            tasks.create_task(world.keep_busy("normal@1", 20, streams=12, until=until))
            await asyncio.sleep(400)
            mine, normal = world.used("mine@1"), world.used("normal@1")
        assert mine / normal == pytest.approx(factor, rel=0.1)
        assert min(mine, normal) > 4_000

    rules = Rules(quantum_tokens=100, quantum_seconds=0.5, patience=NEVER)
    in_world(scenario, lambda: World(rules, places=places, seats=4, weights={"mine@1": WEIGHTS[priority]}))


def test_a_low_priority_waits_no_longer_than_the_patience_lets_it() -> None:
    async def scenario(world: World) -> None:
        until = asyncio.get_running_loop().time() + 60
        async with asyncio.TaskGroup() as tasks:
            for name in ("a@1", "b@1", "c@1"):
                tasks.create_task(world.keep_busy(name, 20, streams=12, until=until))
            await asyncio.sleep(5)
            job = await world.serve("low@1", 20)
        assert job.waited <= world.worst_wait(job, longest_tokens=20)

    high, low = WEIGHTS["high"], WEIGHTS["low"]
    weights: dict[str | None, float] = {"a@1": high, "b@1": high, "c@1": high, "low@1": low}
    in_world(scenario, lambda: World(Rules(patience=2.0, quantum_seconds=0.5), places=1, seats=4, weights=weights))


def test_what_one_used_while_nobody_waited_is_held_against_it_up_to_the_credit_only() -> None:
    async def scenario(world: World) -> None:
        until = asyncio.get_running_loop().time() + 180
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(world.serve("slow@1", 4000))  # few tokens, all the time
            tasks.create_task(world.keep_busy("greedy@1", 800, streams=3, until=until))
            await asyncio.sleep(100)
            before = world.used("greedy@1")
            for name in ("greedy@1", "new@1"):
                tasks.create_task(world.keep_busy(name, 20, streams=8, until=until))
            await asyncio.sleep(80)
            gained, new = world.used("greedy@1") - before, world.used("new@1")
        may_still_produce = 3 * (10 + 2 * 800)
        assert new - gained <= world.rules.credit + world.rules.quantum_tokens
        assert gained - new <= may_still_produce
        assert before > 8 * world.rules.credit, "no history: this test shows nothing"

    in_world(scenario, lambda: World(Rules(quantum_tokens=250, patience=NEVER), places=3, seats=6))


def test_tokens_that_nobody_has_looked_at_yet_are_history_too() -> None:
    async def scenario(world: World) -> None:
        until = asyncio.get_running_loop().time() + 132
        async with asyncio.TaskGroup() as tasks:
            for _ in range(4):
                tasks.create_task(world.serve("greedy@1", 800))
            await asyncio.sleep(32)
            before = world.used("greedy@1")
            for name in ("new@1", "greedy@1"):
                tasks.create_task(world.keep_busy(name, 20, streams=8, until=until))
            await asyncio.sleep(100)
            gained, new = world.used("greedy@1") - before, world.used("new@1")
        assert abs(new - gained) <= world.rules.credit + world.rules.quantum_tokens
        assert before > 3 * world.rules.credit, "no history: this test shows nothing"

    in_world(scenario, lambda: World(Rules(quantum_tokens=250, patience=NEVER), places=1, seats=4))


def test_idling_earns_no_claim() -> None:
    """Who was away while another served thousands of tokens shares from now on, it does not catch up."""

    async def scenario(world: World) -> None:
        until = asyncio.get_running_loop().time() + 400
        async with asyncio.TaskGroup() as tasks:
            await world.serve("back@1", 2)
            tasks.create_task(world.keep_busy("steady@1", 20, streams=8, until=until))
            await asyncio.sleep(200)
            before = world.used("steady@1")
            tasks.create_task(world.keep_busy("back@1", 20, streams=8, until=until))
            await asyncio.sleep(200)
            gained, back = world.used("steady@1") - before, world.used("back@1")
        may_still_produce = 4 * (10 + 2 * 20)
        assert abs(back - gained) <= world.rules.quantum_tokens + may_still_produce
        assert before > 4 * world.rules.credit, "no history: this test shows nothing"

    in_world(scenario, lambda: World(Rules(patience=NEVER), places=1, seats=4))


# --- Lines ---


def test_a_full_line_is_a_429_for_its_adapter_and_no_concern_of_others() -> None:
    async def main() -> None:
        admission = Admission(Rules(max_waiting_per_adapter=2), places=1, seats=2)
        with ExitStack() as held:
            for _ in range(4):
                held.enter_context(admission.line_up("a@1", free))
            await asyncio.sleep(3.5)
            with pytest.raises(AdapterQueueFull, match="2 requests already wait for a@1") as refused:
                admission.line_up("a@1", free)
            assert (refused.value.status, refused.value.code, refused.value.retry_after) == (
                429,
                "adapter_queue_full",
                4,
            )
            held.enter_context(admission.line_up("b@1", free))
            assert admission.waiting_by_adapter() == {"a@1": 2, "b@1": 1}
        assert (admission.waiting, admission.running) == (0, 0)

    simulate(main())


def test_when_all_lines_together_are_full_it_is_a_503() -> None:
    async def main() -> None:
        admission = Admission(Rules(max_waiting=2), places=1, seats=2)
        with ExitStack() as held:
            for name in ("a@1", "a@1", "b@1", "c@1"):
                held.enter_context(admission.line_up(name, free))
            with pytest.raises(QueueFull, match="2 requests already wait in this engine") as refused:
                admission.line_up("d@1", free)
            assert (refused.value.status, refused.value.code, refused.value.retry_after) == (503, "queue_full", 1)
            assert admission.waiting == 2

    simulate(main())


def test_limits_of_zero_still_admit_what_need_not_wait() -> None:
    async def main() -> None:
        admission = Admission(Rules(max_waiting=0, max_waiting_per_adapter=0), places=1, seats=2)
        with admission.line_up("a@1", free) as ticket:
            assert ticket.admitted
            with pytest.raises(AdapterQueueFull):
                admission.line_up("b@1", free)

    simulate(main())


def test_a_finished_answer_that_its_client_reads_slowly_holds_no_seat() -> None:
    async def main() -> None:
        admission = Admission(Rules(), places=1, seats=2)
        over = False
        with admission.line_up("a@1", lambda: Reading(10, 10, over)), admission.line_up("b@1", free) as other:
            await asyncio.sleep(NEVER / 1e6)
            assert not other.admitted
            over = True
            await other.turn()
            assert admission.running == 1
        assert admission.running == 0

    simulate(main())


@pytest.mark.parametrize("cancelled_first", [False, True])
def test_a_request_cancelled_in_the_moment_it_is_admitted_gives_its_seat_on(cancelled_first: bool) -> None:
    async def main() -> None:
        admission = Admission(Rules(), places=1, seats=2)
        outcome: list[str] = []

        async def ask(name: str) -> None:
            with admission.line_up(name, free) as ticket:
                await ticket.turn()
                outcome.append(name)

        with admission.line_up("a@1", free):
            asking = [asyncio.create_task(ask(name)) for name in ("b@1", "c@1")]
            await asyncio.sleep(0.5)
            if cancelled_first:
                asking[0].cancel()
        asking[0].cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        assert outcome == ["c@1"]
        assert (admission.waiting, admission.running) == (0, 0)

    simulate(main())


def test_an_engine_with_fewer_seats_than_adapters_is_refused() -> None:
    with pytest.raises(ValueError, match="8 seats for 8 places"):
        Admission(Rules(), places=8, seats=8)


# --- Anything clients may do ---

LONGEST = 60


@st.composite
def arrivals(draw: st.DrawFn) -> list[tuple[float, str | None, int, float | None]]:
    """(start, adapter, tokens, patience of the client) of up to 60 requests; times in seconds."""
    moment = st.integers(0, 400).map(lambda step: step * STEP_SECONDS)
    adapter = st.sampled_from([None, *(f"a{n}@1" for n in range(6))])
    one = st.tuples(moment, adapter, st.integers(0, LONGEST), st.none() | moment)
    return draw(st.lists(one, min_size=1, max_size=60))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(arrivals(), st.integers(1, 4), st.integers(1, 4), st.sampled_from([0.0, 1.0, NEVER]))
def test_whatever_comes_and_goes_everyone_who_stays_is_admitted_in_time_and_nothing_is_left_behind(
    plan: list[tuple[float, str | None, int, float | None]], places: int, spare_seats: int, patience: float
) -> None:
    async def main() -> None:
        rules = Rules(quantum_tokens=60, quantum_seconds=0.5, patience=patience)
        world = World(rules, places=places, seats=places + spare_seats, weights={"a0@1": 4.0, "a1@1": 0.25})

        async def client(start: float, adapter: str | None, tokens: int, leaves: float | None) -> None:
            await asyncio.sleep(start)
            try:
                async with asyncio.timeout(leaves):
                    await world.serve(adapter, tokens)
            except TimeoutError:
                pass

        # What must hold at every admission is checked inside the world; a lost wake-up ends the fake clock's loop.
        await asyncio.gather(*(client(*request) for request in plan))
        admission = world.admission
        assert (admission.waiting, admission.running, admission._lines, admission._timer) == (0, 0, {}, None)
        assert admission._drains == []
        if patience < NEVER:
            for job in world.jobs:
                assert (job.admitted or job.left or 0) - world.head_since(job) <= world.worst_wait(job, LONGEST)

    simulate(main())
