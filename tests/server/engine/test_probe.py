"""The smoke probe over its internal route: real admission and residency, behind them a scripted model."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import chain, cycle, repeat
from typing import Any

import httpx
import pytest

from loradock_server.engine.admission import Admission, Reading, Rules
from loradock_server.engine.internal import Internal
from loradock_server.engine.limits import MemoryLimits
from loradock_server.engine.observer import EngineObserver
from loradock_server.engine.probe import BASE_ROWS, ROUNDS, TOKENS, Probe, fixed_prompt
from loradock_server.engine.residency import Residency
from loradock_server.engine.selftest import Answer, Row
from loradock_server.engine.signatures import Signatures
from loradock_server.engine.usage import UsageFeed
from tests.server.engine.residency_world import FakeEngine, digest_of, ids


class ScriptedModel:
    """Logprobs that follow from the prompt; an adapter shifts them by its effect, a base row by the next noise.

    Faithful in what the probe leans on: rows of one call belong together, and an adapter answers only while it is held.
    """

    def __init__(self, residency: Residency) -> None:
        self.residency = residency
        self.effects: dict[str, float] = {}
        self.noise: Iterator[float] = repeat(0.0)
        self.asked: list[list[Row]] = []

    async def answers(self, rows: Sequence[Row], tokens: int) -> list[Answer]:
        self.asked.append(list(rows))
        await asyncio.sleep(0)
        return [self._answer(row, tokens) for row in rows]

    def _answer(self, row: Row, tokens: int) -> Answer:
        shift = next(self.noise)
        if row.adapter is not None:
            (resident,) = (r for r in self.residency.residents() if r.adapter_id == row.adapter)
            assert resident.users == 1
            shift += self.effects[row.adapter]
        given = tuple(-1.0 - token % 7 + shift for token in row.prompt[1:])
        return Answer(given, (5,) * tokens, ({5: -0.5 + shift, 6: -2.0},) * tokens)


class World:
    def __init__(self) -> None:
        self.engine = FakeEngine()
        observer = EngineObserver(10)
        self.residency = Residency(self.engine, self.engine, observer, limits=MemoryLimits(6, 1000, 2))
        self.admission = Admission(Rules(max_waiting_per_adapter=1), places=1, seats=2)
        self.model = ScriptedModel(self.residency)
        internal = Internal(
            residency=self.residency,
            signatures=Signatures(),
            feed=UsageFeed(),
            generation="g",
            describe=lambda: {"ready": True},
            places=self.admission.places,
            metrics=observer.exposition,
            probe=Probe(self.model, self.residency, self.admission, vocab_size=1000, max_model_len=64),
        )
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app=internal), base_url="http://engine")

    async def probe(self, adapter: str) -> httpx.Response:
        return await self.client.post("/internal/probe", json={"id": adapter, "digest": digest_of(adapter)})

    async def verdict(self, adapter: str) -> dict[str, Any]:
        answer = await self.probe(adapter)
        assert answer.status_code == 200, answer.text
        verdict: dict[str, Any] = answer.json()
        return verdict


def run(scenario: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(60):
            await scenario(World())

    asyncio.run(main())


def test_an_adapter_that_moves_logprobs_passes_and_gives_everything_back() -> None:
    async def scenario(world: World) -> None:
        world.model.effects["good@1"] = 0.25
        verdict = await world.verdict("good@1")
        assert (verdict["problem"], verdict["noise"]) == (None, 0)
        assert verdict["effect"] == pytest.approx(0.25)
        (rows,) = world.model.asked
        assert [row.adapter for row in rows] == [*[None] * BASE_ROWS, "good@1"]
        assert len({row.prompt for row in rows}) == 1
        assert ids(world.residency) == ["good@1"]
        assert world.residency.residents()[0].users == 0
        assert world.admission.running == 0

    run(scenario)


def test_an_adapter_without_effect_fails_and_the_reason_has_the_figures() -> None:
    async def scenario(world: World) -> None:
        world.model.effects["idle@1"] = 0.0
        verdict = await world.verdict("idle@1")
        assert "changes nothing" in verdict["problem"]
        assert verdict["effect"] == 0
        assert len(world.model.asked) == ROUNDS

    run(scenario)


def test_what_rounding_does_beside_other_traffic_is_no_effect() -> None:
    async def scenario(world: World) -> None:
        world.model.effects["idle@1"] = 0.0
        world.model.noise = cycle([0.0, 0.1, 0.03, 0.3])  # the last one apart by chance
        assert "changes nothing" in (await world.verdict("idle@1"))["problem"]

    run(scenario)


def test_a_faint_adapter_that_drowns_in_noise_once_passes_in_the_next_round() -> None:
    async def scenario(world: World) -> None:
        world.model.effects["faint@1"] = 0.01
        world.model.noise = chain([0.0, 0.1, 0.03, 0.1], repeat(0.0))
        assert (await world.verdict("faint@1"))["problem"] is None
        assert len(world.model.asked) == 2

    run(scenario)


@pytest.mark.parametrize("effect", [math.nan, math.inf, -math.inf])
def test_logprobs_that_are_no_numbers_fail_in_json_that_anybody_can_read(effect: float) -> None:
    async def scenario(world: World) -> None:
        world.model.effects["broken@1"] = effect
        verdict = await world.verdict("broken@1")
        assert "NaN or infinite" in verdict["problem"]
        assert (verdict["effect"], verdict["noise"]) == (None, None)

    run(scenario)


def test_it_waits_for_its_turn_like_any_request() -> None:
    async def scenario(world: World) -> None:
        world.model.effects["good@1"] = 1.0
        with world.admission.line_up("busy@1", lambda: Reading(0, 0)):
            waiting = asyncio.create_task(world.probe("good@1"))
            while not world.admission.waiting:
                await asyncio.sleep(0)
            assert world.model.asked == []
        assert (await waiting).json()["problem"] is None

    run(scenario)


def test_an_adapter_that_the_engine_refuses_is_told_with_its_status() -> None:
    async def scenario(world: World) -> None:
        world.engine.unfit.add("odd@1")
        answer = await world.probe("odd@1")
        assert (answer.status_code, "rank 999" in answer.text) == (422, True)
        world.engine.gone.add(digest_of("lost@1"))
        assert (await world.probe("lost@1")).status_code == 404
        assert world.admission.running == 0

    run(scenario)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"id": "x"}', b'{"id": "no version", "digest": "d"}', b"\xff"])
def test_a_body_that_names_no_adapter_is_400(body: bytes) -> None:
    async def scenario(world: World) -> None:
        assert (await world.client.post("/internal/probe", content=body)).status_code == 400

    run(scenario)


def test_the_prompt_is_always_the_same_and_fits_the_shortest_context() -> None:
    assert fixed_prompt(1000, 64) == fixed_prompt(1000, 64)
    assert len(fixed_prompt(1000, 16)) + TOKENS == 16
