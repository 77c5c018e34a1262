"""kill -9 of each engine process: clean errors within five seconds, then a new engine by itself, adapters included."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import psutil
import pytest

from loradock_adapters.base_model import BaseModel
from tests.e2e.loud import make_loud
from tests.e2e.server import Server, run_server

pytestmark = pytest.mark.e2e

LONG = {"ignore_eos": True}


@pytest.fixture(scope="module")
def mortal(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with run_server(base.folder) as server:
        folder: Path = make_loud(tmp_path_factory.mktemp("recovery") / "a", base, seed=1)
        server.loradock("adapters", "register", "survivor", str(folder))
        yield server


async def outcome(client: openai.AsyncOpenAI, *, stream: bool) -> tuple[str, float]:
    """How a long request ended, and when."""
    try:
        if stream:
            async for _ in await client.completions.create(
                model="survivor", prompt="Once", max_tokens=1900, stream=True, extra_body=LONG
            ):
                pass
        else:
            await client.completions.create(model="survivor", prompt="Once", max_tokens=1900, extra_body=LONG)
    except openai.APIStatusError as error:
        code = error.body.get("code") if isinstance(error.body, dict) else None
        return f"{error.status_code} {code} retry-after={'retry-after' in error.response.headers}", time.monotonic()
    except openai.APIError as error:
        return f"event {error.code}", time.monotonic()
    return "answered", time.monotonic()


@pytest.mark.parametrize("role", ["api", "core", "worker"])
def test_a_killed_engine_process_ends_requests_cleanly_and_is_replaced(mortal: Server, role: str) -> None:
    expected = mortal.client().completions.create(model="survivor", prompt="Hi", max_tokens=8, temperature=0)
    restarts = mortal.metric("loradock_engine_restarts_total")

    async def kill_under_load() -> None:
        async with mortal.async_client() as client:
            running = [asyncio.create_task(outcome(client, stream=number % 2 == 0)) for number in range(6)]
            await asyncio.sleep(3)
            assert not any(task.done() for task in running), [task.result() for task in running if task.done()]
            old = mortal.engine_processes()
            killed = time.monotonic()
            old[role].kill()
            ends = await asyncio.gather(*running)
        assert {how for how, _ in ends} == {"503 engine_unavailable retry-after=True", "event engine_unavailable"}
        assert max(when for _, when in ends) - killed < 5
        while mortal.ready():
            assert time.monotonic() - killed < 5
            await asyncio.sleep(0.05)
        refused = httpx.post(
            f"{mortal.url}/v1/completions",
            json={"model": "survivor", "prompt": "Hi"},
            headers={"authorization": f"Bearer {mortal.key}"},
            trust_env=False,
        )
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_unavailable")
        assert int(refused.headers["retry-after"]) >= 1
        for process in old.values():
            process.wait(10)

    asyncio.run(kill_under_load())
    mortal.wait_until_ready()
    again = mortal.client().completions.create(model="survivor", prompt="Hi", max_tokens=8, temperature=0)
    assert again.choices[0].text == expected.choices[0].text
    assert mortal.metric("loradock_engine_restarts_total") == restarts + 1
    assert "engine exited with" in mortal.printed()


def test_sigterm_stops_everything_and_leaves_nothing_behind(mortal: Server) -> None:
    processes = list(mortal.engine_processes().values())
    assert mortal.stop() == 0
    # A zombie has ended; who inherits orphans here collects them in its own time.
    assert not [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert not (mortal.home / "run/server.json").exists()
    assert not (mortal.home / "run/local.key").exists()
