"""The ledger against vLLM's own counters: to the token, whoever leaves, whoever is killed."""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from loradock_adapters.base_model import BaseModel
from loradock_server import wire
from tests.e2e.server import CACHE, LORADOCK, ROOT, START_SECONDS, Server
from tests.e2e.waiting import eventually

pytestmark = pytest.mark.e2e

ADAPTER = "home-commands"
MADE = "vllm:generation_tokens_total"
RUNNING = "vllm:num_requests_running"
KEY = "ld-usage-admin-key-0123456789"
TOKEN = "between-the-two"
KILLS = 6


@dataclass(slots=True)
class Asked:
    """What clients know of what they asked."""

    requests: int = 0
    input_tokens: int = 0
    left: int = 0


async def complete(
    client: openai.AsyncOpenAI, model: str, sizes: dict[str, int], dice: random.Random, asked: Asked
) -> None:
    """One to three prompts, one or two answers to each; of the streams more than half are left after some chunks."""
    prompts = dice.sample(sorted(sizes), dice.choice((1, 1, 3)))
    body: dict[str, Any] = {
        "model": model,
        "prompt": prompts,
        "max_tokens": dice.randint(2, 40),
        "n": dice.choice((1, 1, 2)),
        "extra_body": {"ignore_eos": True},
    }
    asked.requests += 1
    asked.input_tokens += sum(sizes[prompt] for prompt in prompts)
    if dice.random() < 0.3:
        await client.completions.create(**body)
        return
    stream = await client.completions.create(stream=True, **body)
    patience = dice.randint(1, 12) if dice.random() < 0.6 else None
    seen = 0
    async for _ in stream:
        seen += 1
        if seen == patience:
            await stream.close()
            asked.left += 1
            return


async def chat(client: openai.AsyncOpenAI, model: str) -> None:
    messages: Any = [{"role": "user", "content": "open the window"}]
    extra = {"ignore_eos": True}
    await client.chat.completions.create(model=model, messages=messages, max_tokens=40, n=2, extra_body=extra)


async def chat_and_leave(client: openai.AsyncOpenAI, model: str, dice: random.Random, most_seconds: float) -> None:
    """Left at any moment: before the engine had it, while it computed, or after."""
    asking = asyncio.create_task(chat(client, model))
    await asyncio.sleep(dice.uniform(0, most_seconds))
    asking.cancel()
    with suppress(asyncio.CancelledError):
        await asking


async def prompt_sizes(client: openai.AsyncOpenAI, model: str) -> dict[str, int]:
    """Three prompts, and of how many tokens they are."""
    sizes = {}
    for words in (1, 20, 60):
        prompt = "once upon a time " * words
        done = await client.completions.create(model=model, prompt=prompt, max_tokens=1)
        assert done.usage is not None
        sizes[prompt] = done.usage.prompt_tokens
    return sizes


def test_the_ledger_has_what_vllm_counted_however_many_clients_leave(server: Server) -> None:
    made = server.loradock("keys", "create", "usage-test")
    models = server.get("/v1/models").json()["data"]
    base = next(model["id"] for model in models if model["id"].startswith("smollm"))
    dice, asked = random.Random(5), Asked()

    def used() -> dict[str, Any]:
        total: dict[str, Any] = server.get(f"/admin/usage?key={made['id']}&group_by=").json()["total"]
        return total

    async def with_client(work: Callable[[openai.AsyncOpenAI], Any]) -> Any:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=made["secret"], max_retries=0) as client:
            return await work(client)

    async def completions(client: openai.AsyncOpenAI) -> None:
        for _ in range(5):
            await asyncio.gather(
                *(complete(client, model, sizes, dice, asked) for model in (ADAPTER, base, f"{ADAPTER}@1", base))
            )

    async def chats(client: openai.AsyncOpenAI) -> None:
        began = time.monotonic()
        await chat(client, ADAPTER)
        whole = max(1.0, time.monotonic() - began)
        await asyncio.gather(*(chat_and_leave(client, model, dice, whole) for model in (ADAPTER, base) * 4))

    eventually(lambda: server.metric(RUNNING) == 0)
    before = server.metric(MADE)
    sizes = asyncio.run(with_client(lambda client: prompt_sizes(client, ADAPTER)))
    asyncio.run(with_client(completions))
    eventually(lambda: used()["requests"] == len(sizes) + asked.requests)
    total = used()
    assert total["input_tokens"] == sum(sizes.values()) + asked.input_tokens
    assert 0 < total["aborted"] <= asked.left
    assert 0 < total["cached_tokens"] <= total["input_tokens"]
    eventually(lambda: total["output_tokens"] == server.metric(MADE) - before)  # vLLM shows a step after it is over

    asyncio.run(with_client(chats))
    eventually(lambda: server.metric(RUNNING) == server.metric("loradock_requests_in_flight") == 0)
    eventually(lambda: used()["output_tokens"] == server.metric(MADE) - before)
    time.sleep(1.2)  # whatever came late or twice would come now
    assert used()["output_tokens"] == server.metric(MADE) - before > total["output_tokens"]
    assert used()["errors"] == 0

    rows = server.loradock("usage", "--key", made["id"], "--by", "key,adapter,version")["data"]
    assert {(row["key_name"], row["adapter"], row["version"]) for row in rows} == {
        ("usage-test", "base", None),
        ("usage-test", ADAPTER, 1),
    }
    assert sum(row["output_tokens"] for row in rows) == used()["output_tokens"]


@pytest.mark.skipif(
    not os.environ.get("LONG_TESTS"), reason="starts an engine of its own; the fake one's test is quick"
)
def test_a_killed_gateway_loses_nothing_that_a_real_engine_counted(base: BaseModel, tmp_path: Path) -> None:
    dice, asked = random.Random(7), Asked()
    with ExitStack() as stack:
        env, engine = stack.enter_context(engine_alone(base, tmp_path))

        def made() -> int:
            page = engine.get(wire.METRICS).text
            families = text_string_to_metric_families(page)
            return int(sum(s.value for f in families for s in f.samples if s.name == MADE))

        async def ask_on(url: str) -> None:
            async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:
                while True:
                    with suppress(openai.OpenAIError, httpx.HTTPError):
                        await complete(client, base.name, {"once upon a time": 4}, dice, asked)

        async def until_killed(url: str, process: subprocess.Popen[bytes]) -> None:
            clients = [asyncio.create_task(ask_on(url)) for _ in range(6)]
            await asyncio.sleep(dice.uniform(1, 3))
            process.kill()
            for client in clients:
                client.cancel()
            await asyncio.wait(clients)

        before = made()
        for _ in range(KILLS):
            with gateway_alone(env) as (url, process):
                asyncio.run(until_killed(url, process))
        with gateway_alone(env) as (url, process):

            def written() -> int:
                headers = {"authorization": f"Bearer {KEY}"}
                answer = httpx.get(f"{url}/admin/usage?group_by=", headers=headers, trust_env=False, timeout=30)
                return int(answer.json()["total"]["output_tokens"])

            eventually(lambda: written() == made() - before)
            time.sleep(1.5)
            assert written() == made() - before > 20 * KILLS
            process.terminate()


@contextmanager
def engine_alone(base: BaseModel, folder: Path) -> Iterator[tuple[dict[str, str], httpx.Client]]:
    """A real engine; yields the environment for its gateways, and a client of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    env = {name: value for name, value in os.environ.items() if not name.startswith("LORADOCK_")}
    env |= {"LORADOCK_HOME": str(folder), "LORADOCK_MODEL": str(base.folder), "LORADOCK_COMPILE": "false"}
    env |= {"LORADOCK_ENGINE_URL": url, "LORADOCK_ENGINE_TOKEN": TOKEN, "VLLM_CACHE_ROOT": str(CACHE / "vllm")}
    env |= {"LORADOCK_ADMIN_KEY": KEY, "LORADOCK_PORT": "0"}
    with (
        (folder / "engine.log").open("wb") as sink,
        subprocess.Popen([LORADOCK, "engine"], env=env, cwd=ROOT, stdout=sink, stderr=sink) as process,
        httpx.Client(base_url=url, headers={wire.TOKEN: TOKEN}, trust_env=False, timeout=60) as client,
    ):
        try:
            eventually(lambda: process.poll() is not None or says_ready(client, wire.STATE), START_SECONDS)
            yield env, client
        finally:
            process.terminate()


@contextmanager
def gateway_alone(env: dict[str, str]) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A gateway process for that engine, ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    url = f"http://127.0.0.1:{port}"
    with (
        subprocess.Popen([LORADOCK, "gateway"], env={**env, "LORADOCK_PORT": port}, cwd=ROOT) as process,
        httpx.Client(base_url=url, trust_env=False, timeout=60) as client,
    ):
        try:
            eventually(lambda: says_ready(client, "/readyz"))
            yield url, process
        finally:
            if process.poll() is None:
                process.terminate()


def says_ready(client: httpx.Client, path: str) -> bool:
    with suppress(httpx.TransportError, json.JSONDecodeError):
        answer = client.get(path)
        return answer.status_code == 200 and answer.json().get("ready", True)
    return False
