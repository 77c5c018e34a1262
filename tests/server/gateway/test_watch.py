"""What the gateway knows of its engine when answers and losses cross each other."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from loradock_adapters.base_model import BaseModel
from loradock_server.gateway.engine_answer import Timeouts
from loradock_server.gateway.engine_client import EngineClient
from loradock_server.gateway.watch import EngineWatch
from loradock_server.telemetry.metrics import GatewayMetrics
from tests.adapters.making import write_base


class LateClient(EngineClient):
    """Whose engine said that it is ready before `asked`, and is heard when the test lets it: a slow loop does that."""

    def __init__(self) -> None:
        super().__init__("unix:/nowhere", "token", "gateway", timeouts=Timeouts(1, 1, 1, 1))
        self.asked, self.heard = asyncio.Event(), asyncio.Event()

    async def state(self) -> dict[str, Any]:
        self.asked.set()
        await self.heard.wait()
        return {"ready": True}


@pytest.mark.parametrize("gone", [True, False])
def test_an_answer_from_before_the_engine_was_lost_does_not_make_it_ready_again(tmp_path: Path, gone: bool) -> None:
    base = BaseModel.read(write_base(tmp_path))

    async def main() -> None:
        client = LateClient()
        watch = EngineWatch(client, base, GatewayMetrics(CollectorRegistry()))
        asking = asyncio.create_task(watch.ask())
        await client.asked.wait()
        watch.request_failed("connection refused", gone)
        client.heard.set()
        await asking
        assert watch.state.ready is not gone
        await watch.ask()
        assert watch.state.ready

    asyncio.run(main())


class LyingClient(EngineClient):
    def __init__(self, said: Any) -> None:
        super().__init__("unix:/nowhere", "token", "gateway", timeouts=Timeouts(1, 1, 1, 1))
        self.said = said

    async def state(self) -> dict[str, Any]:
        said: dict[str, Any] = self.said
        return said


async def _lied_to(said: Any, base: BaseModel) -> EngineWatch:
    client = LyingClient({"ready": True})
    watch = EngineWatch(client, base, GatewayMetrics(CollectorRegistry(), 10))
    await watch.ask()
    assert watch.state.ready
    client.said = said
    await watch.ask()
    return watch


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"ready": "\ud800"},
        {"ready": float("inf")},
        {"ready": True, "restarts": 1e300},
        {"ready": True, "restarts": [1]},
        {"ready": True, "restarts": 10**30},
        {"ready": True, "restarts": -1},
        {"ready": True, "adapters": 5},
        {"ready": True, "adapters": [None]},
        {"ready": True, "adapters": [{"id": {}}]},
        {"ready": True, "adapters": [{"tier": "cpu"}]},
        {"ready": True, "adapters": [{"id": "a@1", "last_used": 1e300}]},
        {"ready": True, "adapters": [{"id": "a@1", "bytes": "many"}]},
        {"ready": True, "pins": {"a@1": "x"}},
        {"ready": True, "base": "tiny"},
        {"ready": True, "memory": [1, 2]},
        {"ready": True, "max_model_len": {}},
        {"ready": True, "generation": ["g"]},
    ],
)
def test_a_state_of_other_types_is_a_problem_and_nothing_of_it_is_kept(said: Any, tmp_path: Path) -> None:
    state = asyncio.run(_lied_to(said, BaseModel.read(write_base(tmp_path)))).state
    assert not state.ready
    assert state.problem is not None
    assert "cannot be read" in state.problem
    assert state.adapters == {}
