"""Residency: one load per adapter whoever asks, room made from the idle only, no version with other bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from loradock_server.engine.residency import (
    AdapterGone,
    AdapterUnfit,
    NoRoom,
    Residency,
    ResidencyError,
    Retiring,
)


class FakeEngine:
    """Loader, artifacts and observer in one; faithful in that loading takes time and numbers are never reused."""

    def __init__(self) -> None:
        self.loaded_ids: list[str] = []
        self.unloaded_ids: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.unfit: set[str] = set()
        self.gone: set[str] = set()
        self.events: list[tuple[Any, ...]] = []

    async def load(self, adapter_id: str, folder: Path) -> int:
        self.loaded_ids.append(adapter_id)
        await self.gate.wait()
        if adapter_id in self.unfit:
            raise AdapterUnfit(f"{adapter_id} has rank 999")
        return len(self.loaded_ids)

    async def unload(self, adapter_id: str, number: int) -> None:
        self.unloaded_ids.append(adapter_id)

    def fetch(self, digest: str) -> tuple[Path, int]:
        if digest in self.gone:
            raise AdapterGone(f"blob {digest} is missing")
        return Path("/blobs") / digest, 100

    def loaded(self, adapter_id: str, seconds: float, *, ok: bool) -> None:
        self.events.append(("loaded", adapter_id, ok))

    def evicted(self, adapter_id: str, *, for_room: bool) -> None:
        self.events.append(("evicted", adapter_id, for_room))


def run(scenario: Callable[[FakeEngine, Residency], Awaitable[None]], *, capacity: int = 2) -> None:
    async def main() -> None:
        engine = FakeEngine()
        residency = Residency(engine, engine, engine, capacity=capacity, room_timeout_seconds=0.2)
        async with asyncio.timeout(10):
            await scenario(engine, residency)

    asyncio.run(main())


def ids(residency: Residency) -> list[str]:
    return [resident.adapter_id for resident in residency.residents()]


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

    run(scenario)


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
            assert asyncio.get_running_loop().time() - began < 0.2 * 3

    run(scenario, capacity=1)


def test_unloading_an_adapter_that_is_just_being_loaded_undoes_the_load() -> None:
    async def scenario(engine: FakeEngine, residency: Residency) -> None:
        async def ask() -> None:
            async with residency.lease("a@1", "d1"):
                pass

        engine.gate.clear()
        asking = asyncio.create_task(ask())
        await asyncio.sleep(0.02)
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
        def fetch(digest: str) -> tuple[Path, int]:
            if digest == "d1":
                raise PermissionError(13, "Permission denied", "/blobs/d1")
            return Path("/blobs"), 1

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
        await asyncio.sleep(0.02)
        staying = asyncio.create_task(ask("b@1"))
        await asyncio.sleep(0.02)
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
        await asyncio.sleep(0.05)
        with pytest.raises(AdapterUnfit):
            async with residency.lease("a@1", "d1"):
                pass
        assert engine.loaded_ids == ["a@1", "a@1"]

    run(scenario)
