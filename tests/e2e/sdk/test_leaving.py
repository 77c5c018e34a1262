"""Clients that lose patience: what their SDK raises, what it sends again, and that the engine stops its work."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest

from tests.e2e.sdk.asks import MODEL
from tests.e2e.server import Server
from tests.e2e.waiting import eventually

pytestmark = pytest.mark.e2e

RUNNING = "vllm:num_requests_running"
# Nothing ends this before its length: no end of text, no stop.
LONG: dict[str, Any] = {"model": MODEL, "prompt": "once", "max_tokens": 1500, "extra_body": {"ignore_eos": True}}


def idle(server: Server) -> bool:
    return server.metric(RUNNING) == 0 and server.metric("loradock_requests_in_flight") == 0


def test_a_stream_that_is_left_stops_the_engines_work(server: Server) -> None:
    with server.client() as client:
        stream = client.completions.create(**LONG, stream=True)
        next(iter(stream))
        assert server.metric("loradock_requests_in_flight") == 1
        stream.close()
        eventually(lambda: idle(server))


def test_a_cancelled_task_stops_the_engines_work(server: Server) -> None:
    async def main() -> None:
        async with server.async_client() as client:
            task = asyncio.create_task(client.completions.create(**LONG))
            while not server.metric("loradock_requests_in_flight"):
                await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())
    eventually(lambda: idle(server))


def test_a_timeout_is_the_sdks_own_error_and_stops_the_work_too(server: Server) -> None:
    with server.client(timeout=0.5) as client, pytest.raises(openai.APITimeoutError):
        client.completions.create(**LONG)
    eventually(lambda: idle(server))


def test_the_sdk_sends_again_what_may_be_sent_again_and_nothing_else(server: Server) -> None:
    tried: list[int] = []

    def note(response: Any) -> None:
        tried.append(response.status_code)

    http = openai.DefaultHttpxClient(event_hooks={"response": [note]})
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.key, max_retries=2, http_client=http) as client:
        with pytest.raises(openai.NotFoundError):
            client.completions.create(model="nobody", prompt="x")
        with pytest.raises(openai.BadRequestError):
            client.completions.create(model=MODEL, prompt="x", temperature=-1)
        assert tried == [404, 400], "a request that is wrong stays wrong"
        assert client.completions.create(model=MODEL, prompt="x", max_tokens=1).model == f"{MODEL}@1"
    assert tried == [404, 400, 200]
