"""Residency: one load per adapter whoever asks, room made from the idle only, no version with other bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from loradock_server.engine.limits import MemoryLimits
from loradock_server.engine.residency import (
    PREPARATIONS,
    AdapterGone,
    AdapterTooLarge,
    AdapterUnfit,
    NoRoom,
    Prepared,
    Residency,
    ResidencyError,
    Retiring,
)
from tests.server.engine.residency_world import SIZE, FakeEngine, digest_of, ids, pin, settled, until, use


def run(
    scenario: Callable[[FakeEngine, Residency], Awaitable[None]],
    *,
    capacity: int = 2,
    budget: int = 1 << 30,
    places: int = 1,
    room_timeout: float = 30,
) -> None:
    async def main() -> None:
        engine = FakeEngine()
        limits = MemoryLimits(capacity, budget, places)
        residency = Residency(engine, engine, engine, limits=limits, room_timeout_seconds=room_timeout)
        async with asyncio.timeout(90):
            await scenario(engine, residency)
            await settled()
        assert engine.held == []  # whatever happened

    asyncio.run(main())


def test_the_first_lease_loads_and_the_next_finds_it_there() -> None:
    async def scenario(engine: FakeEngine, residency: Residency) -> None:
        async with residency.lease("a@1", "d1") as state:
            assert state == "cold"
        async with residency.lease("a@1", "d1") as state:
            assert state == "resident"
        assert engine.loaded_ids == ["a@1"]

    run(scenario)


def test_fifty_requests_for_a_cold_adapter_cause_one_load() -> None:
    async def scenario(engine: FakeEngine, residency: Residency) -> None:
        engine.gate.clear()

        async def ask() -> str:
            async with residency.lease("a@1", "d1") as state:
                return state

        asking = [asyncio.create_task(ask()) for _ in range(50)]
        await asyncio.sleep(0.05)
        engine.gate.set()
        assert set(await asyncio.gather(*asking)) == {"cold"}
        assert engine.loaded_ids == ["a@1"]

    run(scenario)


def test_a_client_that_leaves_does_not_break_off_the_load_that_others_wait_for() -> None:
    async def scenario(engine: FakeEngine, residency: Residency) -> None:
        engine.gate.clear()

        async def ask() -> None:
            async with residency.lease("a@1", "d1"):
                pass

        leaving, staying = asyncio.create_task(ask()), asyncio.create_task(ask())
        await asyncio.sleep(0.05)
        leaving.cancel()
        await asyncio.sleep(0)
        engine.gate.set()
        await staying
        assert ids(residency) == ["a@1"]

    run(scenario)


def test_room_is_made_from_the_longest_idle_and_never_from_one_in_use() -> None:
    async def scenario(engine: FakeEngine, residency: Residency) -> None:
        async with residency.lease("old@1", "d1"):
            pass
        async with residency.lease("busy@1", "d2"), residency.lease("new@1", "d3"):
            assert ids(residency) == ["busy@1", "new@1"]
        assert engine.unloaded_ids == ["old@1"]
        assert ("evicted", "old@1", True) in engine.events

    run(scenario)


def test_when_all_are_in_use_a_new_one_waits_and_then_hears_the_limit() -> None:
    async def scenario(engine: FakeEngine, residency: Residency) -> None:
        async with residency.lease("a@1", "d1"), residency.lease("b@1", "d2"):
            with pytest.raises(NoRoom, match="all 2 adapters"):
                async with residency.lease("c@1", "d3"):
                    pass
        async with residency.lease("c@1", "d3") as state:
            assert state == "cold"

    run(scenario, room_timeout=0.2)


def test_a_waiting_load_goes_on_as_soon_as_a_place_is_free() -> None:
    async def scenario(engine: FakeEngine, residency: Residency) -> None:
        async def ask() -> None:
            async with residency.lease("c@1", "d3"):
                pass

        async with residency.lease("b@1", "d2"):
            async with residency.lease("a@1", "d1"):
                waiting = asyncio.create_task(ask())
                await asyncio.sleep(0.02)
                assert not waiting.done()
            await waiting
        assert engine.unloaded_ids == ["a@1"]

    run(scenario)


@pytest.mark.parametrize(("where", "error"), [("unfit", AdapterUnfit), ("gone", AdapterGone)])
def test_a_failed_load_tells_every_waiter_and_the_next_request_tries_again(
    where: str, error: type[ResidencyError]
) -> None:
    async def scenario(engine: FakeEngine, residency: Residency) -> None:
        broken: set[str] = getattr(engine, where)
        broken.add("a@1" if where == "unfit" else "d1")
        for _ in range(2):
            with pytest.raises(error):
                async with residency.lease("a@1", "d1"):
                    pass
        assert ids(residency) == []
        broken.clear()
        async with residency.lease("a@1", "d1") as state:
            assert state == "cold"
        assert engine.events == [("loaded", "a@1", False), ("loaded", "a@1", False), ("loaded", "a@1", True)]

    run(scenario)


def test_an_id_is_never_served_from_other_bytes_than_it_was_loaded_with() -> None:
    async def scenario(engine: FakeEngine, residency: Residency) -> None:
        async with residency.lease("a@1", "d1"):
            pass
        with pytest.raises(AdapterUnfit, match="never changes its bytes"):
            async with residency.lease("a@1", "other"):
                pass

    run(scenario)


def test_unloading_waits_for_the_last_request_and_turns_new_ones_away() -> None:
    async def scenario(engine: FakeEngine, residency: Residency) -> None:
        async with residency.lease("a@1", "d1"):
            unloading = asyncio.create_task(residency.unload("a@1"))
            await asyncio.sleep(0.02)
            assert not unloading.done()
            with pytest.raises(Retiring):
                async with residency.lease("a@1", "d1"):
                    pass
        assert await unloading
        assert ids(residency) == []
        assert not await residency.unload("a@1")

    run(scenario)


def test_an_unload_that_runs_out_of_time_leaves_the_adapter_serving() -> None:
    async def scenario(engine: FakeEngine, residency: Residency) -> None:
        async with residency.lease("a@1", "d1"):
            with pytest.raises(TimeoutError):
                await residency.unload("a@1", timeout_seconds=0.02)
            async with residency.lease("a@1", "d1") as state:
                assert state == "resident"
        assert engine.unloaded_ids == []

    run(scenario)


def test_two_cold_adapters_that_compete_for_one_place_are_both_served_with_one_load_each() -> None:
    async def scenario(engine: FakeEngine, residency: Residency) -> None:
        async def ask(adapter_id: str) -> None:
            async with residency.lease(adapter_id, adapter_id):
                await asyncio.sleep(0.01)

        await asyncio.gather(*(ask(f"a{number}@1") for number in range(5)))
        assert len(engine.loaded_ids) == 5

    run(scenario, capacity=1)


def test_the_place_of_an_adapter_being_unloaded_goes_to_the_load_that_waits_for_one() -> None:
    async def scenario(engine: FakeEngine, residency: Residency) -> None:
        async def ask() -> None:
            async with residency.lease("c@1", "d3"):
                pass

        async with residency.lease("b@1", "d2"):
            async with residency.lease("a@1", "d1"):
                waiting = asyncio.create_task(ask())
                await asyncio.sleep(0.02)
                unloading = asyncio.create_task(residency.unload("a@1"))
                await asyncio.sleep(0.02)
            assert await unloading
            await waiting

    run(scenario)


def test_loads_that_queue_for_room_give_up_together_and_not_one_after_the_other() -> None:
    async def scenario(engine: FakeEngine, residency: Residency) -> None:
        async def ask(adapter_id: str) -> None:
            async with residency.lease(adapter_id, adapter_id):
                pass

        async with residency.lease("busy@1", "d1"):
            began = asyncio.get_running_loop().time()
            ends = await asyncio.gather(*(ask(f"a{n}@1") for n in range(10)), return_exceptions=True)
            assert {type(end) for end in ends} == {NoRoom}
            assert asyncio.get_running_loop().time() - began < 1 * 6, "and not after ten"

    run(scenario, capacity=1, room_timeout=1)


def test_unloading_an_adapter_that_is_just_being_loaded_undoes_the_load() -> None:
    async def scenario(engine: FakeEngine, residency: Residency) -> None:
        async def ask() -> None:
            async with residency.lease("a@1", "d1"):
                pass

        engine.gate.clear()
        asking = asyncio.create_task(ask())
        await until(lambda: engine.loaded_ids == ["a@1"])
        unloading = asyncio.create_task(residency.unload("a@1"))
        await asyncio.sleep(0.02)
        engine.gate.set()
        assert await unloading
        await asyncio.gather(asking, return_exceptions=True)
        assert (ids(residency), engine.loaded_ids, engine.unloaded_ids) == ([], ["a@1"], ["a@1"])

    run(scenario)


def test_a_failure_nobody_thought_of_is_told_with_its_reason_and_harms_no_other_adapter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(engine: FakeEngine, residency: Residency) -> None:
        def fetch(digest: str) -> Path:
            if digest == "d1":
                raise PermissionError(13, "Permission denied", "/blobs/d1")
            return Path("/blobs") / digest

        monkeypatch.setattr(engine, "fetch", fetch)
        with pytest.raises(ResidencyError, match="PermissionError.*Permission denied") as caught:
            async with residency.lease("a@1", "d1"):
                pass
        assert caught.value.status == 500
        async with residency.lease("b@1", "d2") as state:
            assert state == "cold"

    run(scenario)


def test_a_place_is_free_again_when_the_clients_that_waited_for_its_adapter_have_left() -> None:
    async def scenario(engine: FakeEngine, residency: Residency) -> None:
        async def ask(adapter_id: str) -> None:
            async with residency.lease(adapter_id, adapter_id):
                pass

        engine.gate.clear()
        leaving = asyncio.create_task(ask("a@1"))
        await until(lambda: engine.loaded_ids == ["a@1"])
        staying = asyncio.create_task(ask("b@1"))
        await until(lambda: "b@1" in engine.prepared)
        leaving.cancel()
        engine.gate.set()
        await staying
        assert engine.unloaded_ids == ["a@1"]

    run(scenario, capacity=1)


def test_a_prefetch_uses_only_room_that_nobody_has() -> None:
    async def scenario(engine: FakeEngine, residency: Residency) -> None:
        residency.prefetch("a@1", "d1")
        residency.prefetch("a@1", "d1")
        async with residency.lease("a@1", "d1"):
            assert engine.loaded_ids == ["a@1"]
        async with residency.lease("b@1", "d2"):
            residency.prefetch("c@1", "d3")
            await asyncio.sleep(0.02)
            assert ids(residency) == ["a@1", "b@1"]

    run(scenario)


def test_a_prefetch_that_fails_is_tried_again_by_the_request_that_then_hears_of_it() -> None:
    async def scenario(engine: FakeEngine, residency: Residency) -> None:
        engine.unfit.add("a@1")
        residency.prefetch("a@1", "d1")
        await settled()
        with pytest.raises(AdapterUnfit):
            async with residency.lease("a@1", "d1"):
                pass
        assert engine.loaded_ids == ["a@1", "a@1"]

    run(scenario)


def test_a_request_that_comes_just_after_a_load_has_failed_gets_a_try_of_its_own() -> None:
    async def scenario(engine: FakeEngine, residency: Residency) -> None:
        async def comes_then() -> str:
            await engine.gate.wait()  # after the load, which waits there first: its failure is not yet told to anybody
            engine.unfit.clear()
            return await use(residency, "a@1")

        engine.gate.clear()
        engine.unfit.add("a@1")
        first = asyncio.create_task(use(residency, "a@1"))
        await until(lambda: engine.loaded_ids == ["a@1"])
        second = asyncio.create_task(comes_then())
        await asyncio.sleep(0.01)
        engine.gate.set()
        assert await second == "cold"
        with pytest.raises(AdapterUnfit):
            await first

    run(scenario)


def test_idle_is_counted_from_the_end_of_the_last_use() -> None:
    async def scenario(engine: FakeEngine, residency: Residency) -> None:
        async with residency.lease("long@1", digest_of("long@1")):
            await use(residency, "short@1")
            await asyncio.sleep(0.01)
        await use(residency, "new@1")
        assert ids(residency) == ["long@1", "new@1"]

    run(scenario)


# --- Bytes ---


def test_the_longest_idle_leave_until_the_new_one_fits_into_the_budget() -> None:
    async def scenario(engine: FakeEngine, residency: Residency) -> None:
        for name in ("a@1", "b@1", "c@1"):
            await use(residency, name)
        await use(residency, "a@1")
        await use(residency, "big@1", 150)
        assert engine.unloaded_ids == ["b@1", "c@1"]
        assert residency.used_bytes == 250

    run(scenario, capacity=10, budget=300)


def test_nobody_is_pushed_out_while_count_and_bytes_both_allow_one_more() -> None:
    async def scenario(engine: FakeEngine, residency: Residency) -> None:
        for name in ("a@1", "b@1", "c@1"):
            await use(residency, name)
        assert engine.unloaded_ids == []

    run(scenario, capacity=3, budget=300)


def test_an_adapter_larger_than_the_budget_is_refused_at_once_with_value_limit_and_fix() -> None:
    async def scenario(engine: FakeEngine, residency: Residency) -> None:
        async with residency.lease("a@1", digest_of("a@1")):
            for _ in range(2):
                began = asyncio.get_running_loop().time()
                with pytest.raises(AdapterTooLarge, match=r"1,001 bytes.*1,000.*LORADOCK_ADAPTER_MEMORY_BYTES") as told:
                    await use(residency, "big@1", 1001)
                assert asyncio.get_running_loop().time() - began < 15, "it did not wait for room"
                assert told.value.status == 422
        assert engine.prepared.count("big@1") == 1  # its size is known now
        assert engine.unloaded_ids == []

    run(scenario, capacity=10, budget=1000)


def test_when_the_bytes_are_in_use_a_new_one_waits_and_then_hears_that_limit() -> None:
    async def scenario(engine: FakeEngine, residency: Residency) -> None:
        async with residency.lease("a@1", digest_of("a@1")):
            with pytest.raises(NoRoom, match=r"b@1 takes 150 bytes; of 200 .* LORADOCK_ADAPTER_MEMORY_BYTES"):
                await use(residency, "b@1", 150)
        assert await use(residency, "b@1", 150) == "cold"

    run(scenario, capacity=10, budget=200, room_timeout=0.2)


def test_the_idle_stay_when_not_even_all_of_them_would_make_enough_room() -> None:
    async def scenario(engine: FakeEngine, residency: Residency) -> None:
        await use(residency, "idle@1")
        async with residency.lease("busy@1", digest_of("busy@1")):
            with pytest.raises(NoRoom):
                await use(residency, "big@1", 250)
            assert ids(residency) == ["busy@1", "idle@1"]

    run(scenario, capacity=10, budget=300, room_timeout=0.2)


def test_memory_counts_until_the_engine_has_let_go_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(engine: FakeEngine, residency: Residency) -> None:
        let_go = asyncio.Event()

        async def unload(adapter_id: str, number: int) -> None:
            await let_go.wait()

        await use(residency, "a@1")
        await use(residency, "b@1")
        monkeypatch.setattr(engine, "unload", unload)
        unloading = asyncio.create_task(residency.unload("a@1"))
        loading = asyncio.create_task(use(residency, "c@1"))
        await until(lambda: "c@1" in engine.prepared)
        await asyncio.sleep(0.01)
        assert residency.used_bytes == 200
        assert engine.loaded_ids == ["a@1", "b@1"]
        let_go.set()
        await asyncio.gather(unloading, loading)
        assert ids(residency) == ["b@1", "c@1"]  # and nobody was pushed out for what came free anyway

    run(scenario, capacity=10, budget=200)


def test_a_burst_of_cold_adapters_holds_few_preparations_at_a_time() -> None:
    async def scenario(engine: FakeEngine, residency: Residency) -> None:
        engine.gate.clear()
        asking = [asyncio.create_task(use(residency, f"a{number}@1")) for number in range(20)]
        await until(lambda: len(engine.held) == PREPARATIONS)
        await asyncio.sleep(0.05)
        assert len(engine.held) == PREPARATIONS
        engine.gate.set()
        assert set(await asyncio.gather(*asking)) == {"cold"}
        assert engine.most_held == PREPARATIONS

    run(scenario, capacity=30)


@pytest.mark.parametrize("end", ["loaded", "unfit", "no room", "too large", "broken", "cancelled", "unloading fails"])
def test_what_was_prepared_is_given_back_however_the_load_ends(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(engine: FakeEngine, residency: Residency) -> None:
        if end == "unfit":
            engine.unfit.add("a@1")
        elif end == "broken":

            async def broken(adapter_id: str, prepared: Prepared) -> int:
                raise ConnectionResetError(104, "gone")

            monkeypatch.setattr(engine, "load", broken)
        elif end == "unloading fails":
            await use(residency, "idle@1", 200)

            async def stuck(adapter_id: str, number: int) -> None:
                raise ConnectionResetError(104, "gone")

            monkeypatch.setattr(engine, "unload", stuck)
        async with AsyncExitStack() as held:
            if end == "no room":
                await held.enter_async_context(residency.lease("busy@1", digest_of("busy@1")))
            if end == "cancelled":
                engine.gate.clear()
                asking = asyncio.create_task(use(residency, "a@1"))
                await until(lambda: engine.loaded_ids == ["a@1"])  # and what was prepared is the load's to give back
                (load,) = [task for task in asyncio.all_tasks() if task.get_name() == "load a@1"]
                load.cancel()
                await asyncio.wait({asking})
                return
            size = {"no room": 150, "too large": 500}.get(end, SIZE)
            errors = {"loaded": None, "no room": NoRoom, "too large": AdapterTooLarge, "unfit": AdapterUnfit}
            error = errors.get(end, ResidencyError)
            if error is None:
                await use(residency, "a@1", size)
            else:
                with pytest.raises(error):
                    await use(residency, "a@1", size)
            assert engine.prepared.count("a@1") == 1

    run(scenario, capacity=10, budget=200, room_timeout=0.2)  # which looks at what is still held


def test_a_prefetch_pushes_nobody_out_when_it_turns_out_too_large_for_the_spare_room() -> None:
    async def scenario(engine: FakeEngine, residency: Residency) -> None:
        await use(residency, "a@1")
        before = list(engine.events)
        for _ in range(3):
            residency.prefetch("b@1", digest_of("b@1", 150))
            await settled()
        assert (ids(residency), engine.events) == (["a@1"], before)  # nor does it count as a failed load
        assert engine.prepared.count("b@1") == 1
        assert await use(residency, "b@1", 150) == "cold"

    run(scenario, capacity=10, budget=200)


# --- Pins ---


def test_a_pinned_adapter_is_loaded_at_once_and_survives_any_number_of_others() -> None:
    async def scenario(engine: FakeEngine, residency: Residency) -> None:
        pin(residency, "kept@1")
        await settled()
        assert ids(residency) == ["kept@1"]
        for number in range(10):
            await use(residency, f"a{number}@1")
        assert await use(residency, "kept@1") == "resident"
        assert "kept@1" not in engine.unloaded_ids
        assert engine.loaded_ids.count("kept@1") == 1

    run(scenario, capacity=3)


def test_one_that_is_in_memory_already_is_pinned_where_it_is_and_let_go_with_its_pin() -> None:
    async def scenario(engine: FakeEngine, residency: Residency) -> None:
        await use(residency, "kept@1")
        pin(residency, "kept@1")
        await use(residency, "a@1")
        await use(residency, "b@1")
        assert ids(residency) == ["b@1", "kept@1"]
        residency.pin({})
        await use(residency, "c@1")
        assert ids(residency) == ["b@1", "c@1"]
        assert engine.loaded_ids.count("kept@1") == 1

    run(scenario)


def test_a_pin_that_moves_to_the_next_version_keeps_that_and_lets_the_old_one_go() -> None:
    async def scenario(engine: FakeEngine, residency: Residency) -> None:
        pin(residency, "bot@1")
        await settled()
        pin(residency, "bot@2")
        await settled()
        assert ids(residency) == ["bot@1", "bot@2"]
        for name in ("a@1", "b@1"):
            await use(residency, name)
        assert ids(residency) == ["a@1", "b@1", "bot@2"]

    run(scenario, capacity=3)


def test_pins_over_the_count_are_not_loaded_and_the_later_ones_hear_it() -> None:
    async def scenario(engine: FakeEngine, residency: Residency) -> None:
        pin(residency, "z@1", "b@1", "a@1")  # in the order in which they were pinned
        await settled()
        assert ids(residency) == ["b@1", "z@1"]
        (name, problem), *others = residency.pins.problems().items()
        assert (name, others) == ("a@1", [])
        assert "3 adapters are pinned, at most 2 can be" in problem.text
        assert "raise LORADOCK_MAX_CPU_LORAS" in problem.text
        pin(residency, "b@1", "a@1")
        await settled()
        assert "a@1" in ids(residency)
        assert residency.pins.problems() == {}

    run(scenario, capacity=4, places=2)


def test_pins_leave_the_bytes_that_running_adapters_need() -> None:
    async def scenario(engine: FakeEngine, residency: Residency) -> None:
        # 4 adapters, 2 of them running: half of 400 bytes can be pinned.
        pin(residency, "a@1", "b@1", size=150)
        await settled()
        assert ids(residency) == ["a@1"]
        problem = residency.pins.problems()["b@1"]
        assert "it takes 150 bytes and those pinned before it 150; at most 200" in problem.text
        async with residency.lease("x@1", digest_of("x@1")), residency.lease("y@1", digest_of("y@1")):
            assert ids(residency) == ["a@1", "x@1", "y@1"]
        # In memory as any other while somebody asks for it, and pushed out as any other.
        assert await use(residency, "b@1", 150) == "cold"
        await use(residency, "c@1", 200)
        assert ids(residency) == ["a@1", "c@1"]

    run(scenario, capacity=4, places=2, budget=400)


def test_what_only_pins_keep_out_is_refused_at_once_too() -> None:
    async def scenario(engine: FakeEngine, residency: Residency) -> None:
        pin(residency, "a@1")
        await settled()
        with pytest.raises(AdapterTooLarge, match=r"350 bytes.*the 300 .*pinned ones leave; .*unpin others"):
            await use(residency, "big@1", 350)
        residency.pin({})
        assert await use(residency, "big@1", 350) == "cold"

    run(scenario, capacity=4, places=2, budget=400)


def test_a_pin_that_cannot_be_loaded_says_why_is_logged_once_and_tried_again_when_asked(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario(engine: FakeEngine, residency: Residency) -> None:
        engine.gone.add(digest_of("a@1"))
        for _ in range(3):
            pin(residency, "a@1")
            await settled()
            assert residency.pins.problems()["a@1"].text == "blob a@1:100 is missing"
        assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
            "pinned adapter a@1 is not kept in memory: blob a@1:100 is missing"
        ]
        engine.gone.clear()
        pin(residency, "a@1")
        await settled()
        assert (ids(residency), residency.pins.problems()) == (["a@1"], {})

    run(scenario)


def test_a_pin_that_failed_is_well_as_soon_as_a_request_has_loaded_it() -> None:
    async def scenario(engine: FakeEngine, residency: Residency) -> None:
        engine.unfit.add("a@1")
        pin(residency, "a@1")
        await settled()
        assert residency.pins.problems()["a@1"].reason == "adapter_rejected"
        engine.unfit.clear()
        await use(residency, "a@1")
        assert residency.pins.problems() == {}
        await use(residency, "b@1")
        await use(residency, "c@1")
        assert ids(residency) == ["a@1", "c@1"]

    run(scenario)


def test_a_pin_waits_for_nobody_and_gets_its_room_at_a_later_try() -> None:
    async def scenario(engine: FakeEngine, residency: Residency) -> None:
        async with residency.lease("big@1", digest_of("big@1", 350)):
            pin(residency, "a@1")
            began = asyncio.get_running_loop().time()
            await settled()
            assert asyncio.get_running_loop().time() - began < 15
            assert "a@1 takes 100 bytes" in residency.pins.problems()["a@1"].text
        pin(residency, "a@1")
        await settled()
        assert ids(residency) == ["a@1"]
        assert ("loaded", "a@1", False) not in engine.events

    run(scenario, capacity=4, places=2, budget=400)


def test_a_request_that_joins_a_pins_load_waits_for_room_as_any_request() -> None:
    async def scenario(engine: FakeEngine, residency: Residency) -> None:
        async with residency.lease("big@1", digest_of("big@1", 350)):
            pin(residency, "a@1")
            asking = asyncio.create_task(use(residency, "a@1"))
            await until(lambda: "a@1" in engine.prepared)
            await asyncio.sleep(0.01)
            assert not asking.done()
        assert await asking == "cold"
        assert engine.prepared == ["big@1", "a@1"]

    run(scenario, capacity=4, places=2, budget=400)


def test_unloading_takes_a_pinned_adapter_out_and_its_pin_with_it() -> None:
    async def scenario(engine: FakeEngine, residency: Residency) -> None:
        pin(residency, "a@1", "b@1")
        await settled()
        assert await residency.unload("a@1")
        await settled()
        assert ids(residency) == ["b@1"]
        assert list(residency.pins.wanted) == ["b@1"]

    run(scenario, capacity=4)


def test_pins_are_loaded_one_after_the_other_so_that_a_request_waits_for_one_at_most() -> None:
    async def scenario(engine: FakeEngine, residency: Residency) -> None:
        engine.gate.clear()
        pin(residency, *(f"p{number}@1" for number in range(5)))
        await until(lambda: "p0@1" in engine.loaded_ids)
        asking = asyncio.create_task(use(residency, "asked@1"))
        await until(lambda: "asked@1" in engine.prepared)
        engine.gate.set()
        await asking
        await settled()
        assert engine.loaded_ids[:2] == ["p0@1", "asked@1"]
        assert len(engine.loaded_ids) == 6

    run(scenario, capacity=10)


def test_without_memory_beyond_the_running_ones_nothing_can_be_pinned() -> None:
    async def scenario(engine: FakeEngine, residency: Residency) -> None:
        pin(residency, "a@1")
        await settled()
        assert ids(residency) == []
        assert "at most 0 can be" in residency.pins.problems()["a@1"].text

    run(scenario, capacity=2, places=2)


def test_limits_below_what_runs_at_a_time_are_refused() -> None:
    with pytest.raises(ValueError, match="2 adapters in memory, but 3 run"):
        MemoryLimits(2, 1 << 20, 3)
