"""What state and metrics show of adapters in memory, and pins as the gateway sends them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from loradock_server.engine.admission import Admission, Reading, Rules
from loradock_server.engine.internal import Internal
from loradock_server.engine.limits import MemoryLimits
from loradock_server.engine.observer import EngineObserver
from loradock_server.engine.residency import Residency
from loradock_server.engine.signatures import Signatures
from loradock_server.engine.usage import UsageFeed
from tests.server.engine.residency_world import FakeEngine, digest_of, settled, use


class World:
    """Real residency, admission and metrics behind the internal routes."""

    def __init__(self, *, label_limit: int = 10) -> None:
        self.engine = FakeEngine()
        observer = EngineObserver(label_limit)
        self.residency = Residency(self.engine, self.engine, observer, limits=MemoryLimits(6, 1000, 2))
        self.signatures = Signatures()
        self.admission = Admission(Rules(), places=2, seats=4)
        internal = Internal(
            residency=self.residency,
            signatures=self.signatures,
            feed=UsageFeed(),
            generation="g",
            describe=lambda: {"ready": True},
            places=self.admission.places,
            metrics=observer.exposition,
            probe=None,
        )
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app=internal), base_url="http://engine")

    async def state(self) -> dict[str, Any]:
        state: dict[str, Any] = (await self.client.get("/internal/state")).json()
        return state

    async def pin(self, *adapters: str) -> None:
        pins = [{"id": name, "digest": digest_of(name)} for name in adapters]
        assert (await self.client.post("/internal/pins", json={"pins": pins})).status_code == 200
        await settled()

    async def lora_requests_info(self) -> dict[str, str]:
        page = (await self.client.get("/internal/metrics")).text
        families = {family.name: family for family in text_string_to_metric_families(page)}
        (sample,) = families["vllm:lora_requests_info"].samples
        return {label.removesuffix("_lora_adapters"): value for label, value in sample.labels.items()}

    async def samples(self, name: str) -> dict[tuple[str, ...], float]:
        page = (await self.client.get("/internal/metrics")).text
        return {
            tuple(label for key in ("adapter", "version", "tier") if (label := sample.labels.get(key))): sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if sample.name == name
        }


def run(scenario: Callable[[World], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        async with asyncio.timeout(60):
            await scenario(World(**options))

    asyncio.run(main())


def meter() -> Reading:
    return Reading(0, 0)


def test_an_adapter_that_holds_a_place_is_in_a_slot_and_another_in_memory() -> None:
    async def scenario(world: World) -> None:
        await use(world.residency, "idle@1")
        assert world.admission.places().taken == frozenset()
        with world.admission.line_up("busy@2", meter), world.admission.line_up(None, meter):
            assert world.admission.places().taken == {"busy@2"}
            async with world.residency.lease("busy@2", digest_of("busy@2", 250)):
                busy, idle = (await world.state())["adapters"]
                tiers = await world.samples("loradock_adapter_resident")
        assert (busy["id"], busy["tier"], busy["in_flight"], busy["bytes"]) == ("busy@2", "slot", 1, 250)
        assert (idle["id"], idle["tier"], idle["in_flight"], idle["bytes"]) == ("idle@1", "memory", 0, 100)
        assert tiers == {("busy", "2", "slot"): 1, ("idle", "1", "memory"): 1}
        assert await world.samples("loradock_adapter_resident") == {
            ("busy", "2", "memory"): 1,
            ("idle", "1", "memory"): 1,
        }
        assert await world.samples("loradock_adapter_memory_bytes") == {(): 350}
        assert await world.samples("loradock_adapter_memory_limit_bytes") == {(): 1000}

    run(scenario)


def test_one_that_left_memory_leaves_no_series_behind() -> None:
    async def scenario(world: World) -> None:
        await use(world.residency, "a@1")
        assert await world.samples("loradock_adapter_resident") == {("a", "1", "memory"): 1}
        await world.residency.unload("a@1")
        assert await world.samples("loradock_adapter_resident") == {}
        assert await world.samples("loradock_adapter_memory_bytes") == {(): 0}

    run(scenario)


def test_the_gauge_for_endpoint_pickers_says_who_runs_and_who_waits_now() -> None:
    async def scenario(world: World) -> None:
        assert await world.lora_requests_info() == {"max_lora": "2", "running": "", "waiting": ""}
        with ExitStack() as asking:
            for adapter in ("b@1", "a@1", "c@1", None, "a@1", "a@1"):  # a's last one finds no seat
                asking.enter_context(world.admission.line_up(adapter, meter))
            assert await world.lora_requests_info() == {"max_lora": "2", "running": "a@1,b@1", "waiting": "c@1"}
        assert await world.lora_requests_info() == {"max_lora": "2", "running": "", "waiting": ""}

    run(scenario)


def test_adapters_over_the_label_limit_are_counted_together() -> None:
    async def scenario(world: World) -> None:
        for name in ("a@1", "b@1", "c@1"):
            await use(world.residency, name)
        tiers = await world.samples("loradock_adapter_resident")
        assert tiers == {("a", "1", "memory"): 1, ("other", "other", "memory"): 2}

    run(scenario, label_limit=1)


def test_scrapes_at_the_same_time_see_the_whole_truth_each() -> None:
    async def scenario(world: World) -> None:
        for number in range(5):
            await use(world.residency, f"a{number}@1")
        for page in await asyncio.gather(*(world.samples("loradock_adapter_resident") for _ in range(40))):
            assert sum(page.values()) == 5

    run(scenario)


def test_pins_are_loaded_shown_and_replaced() -> None:
    async def scenario(world: World) -> None:
        await world.pin("a@1", "b@1")
        state = await world.state()
        assert state["pins"] == [
            {"id": "a@1", "digest": digest_of("a@1"), "pin_problem": None},
            {"id": "b@1", "digest": digest_of("b@1"), "pin_problem": None},
        ]
        assert [(a["id"], a["pinned"], a["last_used"]) for a in state["adapters"]] == [
            ("a@1", True, None),
            ("b@1", True, None),
        ]
        await world.pin("b@1")
        state = await world.state()
        assert [(a["id"], a["pinned"]) for a in state["adapters"]] == [("a@1", False), ("b@1", True)]
        assert [pin["id"] for pin in state["pins"]] == ["b@1"]

    run(scenario)


def test_a_pin_that_is_not_kept_says_why_in_the_state() -> None:
    async def scenario(world: World) -> None:
        await world.pin(*(f"p{number}@1" for number in range(5)))
        state = await world.state()
        assert len(state["adapters"]) == 4
        assert [bool(pin["pin_problem"]) for pin in state["pins"]] == [False] * 4 + [True]
        assert "at most 4 can be" in state["pins"][4]["pin_problem"]
        assert state["memory"] == {"bytes": 400, "limit_bytes": 1000, "adapters": 4, "limit_adapters": 6}

    run(scenario)


def test_an_unload_through_the_route_drops_a_pinned_one() -> None:
    async def scenario(world: World) -> None:
        await world.pin("a@1")
        assert (await world.client.post("/internal/unload", json={"id": "a@1"})).json() == {"unloaded": True}
        state = await world.state()
        assert (state["adapters"], state["pins"]) == ([], [])

    run(scenario)
