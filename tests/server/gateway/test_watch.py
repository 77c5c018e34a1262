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
