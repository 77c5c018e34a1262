"""Engine processes that are killed, hang or are told to stop: clean errors in time, a new engine by itself.

LONG_TESTS=1 kills each process twenty times in a row, and stops all three.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from loadtest.correctness.loud import make_loud
from loradock_adapters.base_model import BaseModel
from loradock_server import wire
from tests.e2e.server import LORADOCK, ROOT, START_SECONDS, Server, run_server
from tests.e2e.waiting import soon, until_ended

pytestmark = pytest.mark.e2e

LONG = {"ignore_eos": True}
ROUNDS = 20 if os.environ.get("LONG_TESTS") else 1
HANG_SECONDS = 8
DRAIN_SECONDS = 12  # enough for two dozen tokens on any machine, and for two thousand on none
# What docs/engine.md promises is measured in the long form; on a busy machine only that nobody waits for a timeout.
SPARE_SECONDS = 0 if os.environ.get("LONG_TESTS") else 30


@pytest.fixture(scope="module")
def mortal(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with run_server(
        base.folder, LORADOCK_HANG_TIMEOUT=str(HANG_SECONDS), LORADOCK_DRAIN_TIMEOUT=str(DRAIN_SECONDS)
    ) as server:
        folder: Path = make_loud(tmp_path_factory.mktemp("recovery") / "a", base, seed=1)
        server.loradock("adapters", "register", "survivor", str(folder))
        yield server


async def outcome(client: openai.AsyncOpenAI, *, stream: bool, began: asyncio.Event | None = None) -> tuple[str, float]:
    """How a long request ended, and when. `began` is set when the first part of a stream is here."""
    try:
        if stream:
            async for _ in await client.completions.create(
                model="survivor", prompt="Once", max_tokens=1900, stream=True, extra_body=LONG
            ):
                if began is not None:
                    began.set()
        else:
            await client.completions.create(model="survivor", prompt="Once", max_tokens=1900, extra_body=LONG)
    except openai.APIStatusError as error:
        code = error.body.get("code") if isinstance(error.body, dict) else None
        return f"{error.status_code} {code} retry-after={'retry-after' in error.response.headers}", time.monotonic()
    except openai.APIError as error:
        return f"event {error.code}", time.monotonic()
    return "answered", time.monotonic()


@pytest.mark.timeout(1800 + 600 * ROUNDS)
@pytest.mark.parametrize("role", ["api", "core", "worker"])
def test_a_killed_engine_process_ends_requests_cleanly_and_is_replaced(mortal: Server, role: str) -> None:
    expected = answer(mortal)
    for _ in range(ROUNDS):
        restarts = mortal.metric("loradock_engine_restarts_total")
        asyncio.run(fell_under_load(mortal, role, signal.SIGKILL, within=5))
        mortal.wait_until_ready()
        assert answer(mortal) == expected
        assert mortal.metric("loradock_engine_restarts_total") == restarts + 1
    assert "engine exited with" in mortal.printed()


@pytest.mark.parametrize("role", ["api", "core", "worker"] if os.environ.get("LONG_TESTS") else ["core"])
def test_a_hung_engine_process_is_noticed_and_replaced(mortal: Server, role: str) -> None:
    expected = answer(mortal)
    restarts = mortal.metric("loradock_engine_restarts_total")
    asyncio.run(fell_under_load(mortal, role, signal.SIGSTOP, within=HANG_SECONDS + 8))
    mortal.wait_until_ready()
    assert answer(mortal) == expected
    assert mortal.metric("loradock_engine_restarts_total") == restarts + 1
    assert "engine hangs" in mortal.printed() + mortal.engine_log()


def answer(server: Server) -> str:
    with server.client() as client:
        completion = client.completions.create(model="survivor", prompt="Hi", max_tokens=8, temperature=0)
    return completion.choices[0].text


async def fell_under_load(server: Server, role: str, number: signal.Signals, *, within: float) -> None:
    """Send a signal to one engine process under load; all that runs must end cleanly within so many seconds."""
    async with server.async_client() as client:
        began = [asyncio.Event() for _ in range(3)]
        running = [asyncio.create_task(outcome(client, stream=True, began=event)) for event in began]
        running += [asyncio.create_task(outcome(client, stream=False)) for _ in range(3)]
        async with asyncio.timeout(60):
            await asyncio.gather(*(event.wait() for event in began))
        await soon(lambda: server.metric("vllm:num_requests_running") == len(running))
        assert not any(task.done() for task in running), [task.result() for task in running if task.done()]
        old = server.engine_processes()
        struck = time.monotonic()
        old[role].send_signal(number)
        ends = await asyncio.gather(*running)
    assert {how for how, _ in ends} == {"503 engine_unavailable retry-after=True", "event engine_unavailable"}
    assert max(when for _, when in ends) - struck < within + SPARE_SECONDS
    while server.ready():
        assert time.monotonic() - struck < within + SPARE_SECONDS
        await asyncio.sleep(0.05)
    refused = httpx.post(
        f"{server.url}/v1/completions",
        json={"model": "survivor", "prompt": "Hi"},
        headers={"authorization": f"Bearer {server.key}"},
        trust_env=False,
        timeout=30,
    )
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_unavailable")
    assert int(refused.headers["retry-after"]) >= 1
    until_ended(old.values())


def test_sigterm_says_so_first_then_drains_then_cuts_what_is_too_long_and_leaves_nothing_behind(mortal: Server) -> None:
    processes = list(mortal.engine_processes().values())

    async def stop_under_load() -> float:
        async with mortal.async_client() as client:
            began = asyncio.Event()
            long = asyncio.create_task(outcome(client, stream=True, began=began))
            await began.wait()
            short = await client.completions.create(
                model="survivor", prompt="Once", max_tokens=24, stream=True, extra_body=LONG
            )
            await anext(aiter(short))
            told = time.monotonic()
            mortal.process.send_signal(signal.SIGTERM)
            while mortal.ready():
                assert not long.done()
                await asyncio.sleep(0.02)
            reasons = [chunk.choices[0].finish_reason async for chunk in short]
            assert reasons[-1] == "length"
            how, when = await long
            assert how == "event shutting_down"
            assert when - told < DRAIN_SECONDS + 3 + SPARE_SECONDS
            return told

    told = asyncio.run(stop_under_load())
    assert mortal.process.wait(60) == 0
    assert time.monotonic() - told < 2 * DRAIN_SECONDS + 5 + SPARE_SECONDS
    until_ended(processes)
    assert not (mortal.home / "run/server.json").exists()
    assert not (mortal.home / "run/local.key").exists()


def test_an_engine_that_runs_alone_says_that_it_goes_finishes_what_runs_and_exits_well(
    base: BaseModel, tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    env = {name: value for name, value in os.environ.items() if not name.startswith("LORADOCK_")}
    env |= {"LORADOCK_HOME": str(tmp_path), "LORADOCK_MODEL": str(base.folder)}
    env |= {"LORADOCK_ENGINE_URL": url, "LORADOCK_ENGINE_TOKEN": "secret", "LORADOCK_DRAIN_TIMEOUT": "120"}
    env["LORADOCK_COMPILE"] = "false"
    with (
        (tmp_path / "engine.log").open("wb") as sink,
        subprocess.Popen([LORADOCK, "engine"], env=env, cwd=ROOT, stdout=sink, stderr=sink) as process,
        httpx.Client(base_url=url, headers={wire.TOKEN: "secret"}, trust_env=False, timeout=60) as client,
    ):
        try:
            deadline = time.monotonic() + START_SECONDS
            while not says_ready(client):
                assert process.poll() is None, (tmp_path / "engine.log").read_text()[-4000:]
                assert time.monotonic() < deadline
                time.sleep(0.2)
            body = {"model": base.folder.name, "prompt": "Once", "max_tokens": 150, "stream": True, "ignore_eos": True}
            with client.stream("POST", "/v1/completions", json=body) as running:
                lines = running.iter_lines()
                next(lines)
                process.send_signal(signal.SIGTERM)
                while says_ready(client):
                    time.sleep(0.02)
                refused = client.post("/v1/completions", json=body)
                assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
                said = [line for line in lines if line]
            assert said[-1] == "data: [DONE]"
            assert process.wait(60) == 0
        finally:
            if process.poll() is None:
                process.terminate()


def says_ready(client: httpx.Client) -> bool:
    try:
        return bool(client.get(wire.STATE).json()["ready"])
    except httpx.TransportError:
        return False
