"""`loradock serve` is killed with everything it started (`kill -9`, at once, under load) and started again on its home.

What clients got more than a second before is in the ledger then, and nothing is in it that nobody asked for.
Only with LONG_TESTS=1: each kill costs a start of the engine.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest

from loradock_adapters.base_model import BaseModel
from tests.e2e.server import EXAMPLES, Server, launch, server_environment
from tests.e2e.waiting import eventually, until_ended

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(not os.environ.get("LONG_TESTS"), reason="LONG_TESTS=1 runs it")]

KILLS = int(os.environ.get("KILLS", "4"))
CLIENTS = 5
MOST_TOKENS = 24
BOUND_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Answer:
    at: float
    input_tokens: int
    output_tokens: int


@dataclass(slots=True)
class Round:
    """What clients got from one life of the server, whole answers only, and what they were still waiting for."""

    answers: list[Answer] = field(default_factory=list)
    waiting: int = 0


@pytest.fixture
def home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="loradock-e2e-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.timeout(3600)
def test_a_server_that_is_killed_whole_loses_at_most_a_second_of_usage(base: BaseModel, home: Path) -> None:
    seed = int(os.environ.get("CRASH_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
    print(f"CRASH_SEED={seed}")  # noqa: T201 shown when it fails
    dice = random.Random(seed)
    env = server_environment(base.folder, home)
    server = launch(home, env, "--adapters-from", str(EXAMPLES))
    try:
        server.wait_until_ready()
        eventually(lambda: "home-commands" in server.get("/v1/models").text)
        key = server.loradock("keys", "create", "killed")
        for number in range(KILLS):
            before = used(server, key["id"])
            found = Round()
            killed = asyncio.run(ask_and_kill(server, key["secret"], dice, found))
            server = launch(home, env)
            server.wait_until_ready()
            after = used(server, key["id"])
            judge(number, found, killed, {name: after[name] - before[name] for name in after})
        assert server.stop() == 0
    finally:
        if server.process.poll() is None:
            server.kill()


async def ask_and_kill(server: Server, secret: str, dice: random.Random, found: Round) -> float:
    """Returns when it was killed."""
    url = f"{server.url}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key=secret, max_retries=0, timeout=60) as client:
        clients = [
            asyncio.create_task(keep_asking(client, random.Random(dice.random()), found)) for _ in range(CLIENTS)
        ]
        while len(found.answers) < 2 * CLIENTS:
            await asyncio.sleep(0.05)
        await asyncio.sleep(BOUND_SECONDS + dice.uniform(0.5, 5))
        everyone = [psutil.Process(server.process.pid)]
        everyone += everyone[0].children(recursive=True)
        killed = time.monotonic()
        for process in everyone:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        for asking in clients:
            asking.cancel()
        await asyncio.wait(clients)
    server.process.wait(60)
    until_ended(everyone)
    for name in ("server.json", "local.key"):  # what a killed server left; the next one is found by what it writes
        (server.home / "run" / name).unlink(missing_ok=True)
    return killed


async def keep_asking(client: openai.AsyncOpenAI, dice: random.Random, found: Round) -> None:
    """Whole answers and whole streams."""
    while True:
        body: dict[str, Any] = {
            "model": dice.choice(("home-commands", "mail-triage", "home-commands@1")),
            "prompt": "once upon a time " * dice.randint(1, 20),
            "max_tokens": dice.randint(2, MOST_TOKENS),
            "extra_body": {"ignore_eos": True},
        }
        usage = None
        found.waiting += 1
        with suppress(openai.OpenAIError, httpx.HTTPError):
            if dice.random() < 0.5:
                usage = (await client.completions.create(**body)).usage
            else:
                stream = await client.completions.create(stream=True, stream_options={"include_usage": True}, **body)
                async for chunk in stream:
                    usage = chunk.usage or usage
        if usage is None:
            return  # the server is gone; this one stays among those that wait
        found.waiting -= 1
        found.answers.append(Answer(time.monotonic(), usage.prompt_tokens, usage.completion_tokens))


def used(server: Server, key: str) -> dict[str, int]:
    """Of the key, once nothing is added any more."""
    seen: list[dict[str, int]] = [{}]

    def settled() -> bool:
        total = server.get(f"/admin/usage?key={key}&group_by=").json()["total"]
        seen.append({name: total[name] for name in ("requests", "input_tokens", "output_tokens")})
        time.sleep(1.0)
        return seen[-1] == seen[-2]

    eventually(settled)
    return seen[-1]


def judge(number: int, found: Round, killed: float, written: dict[str, int]) -> None:
    got = {
        "requests": len(found.answers),
        "input_tokens": sum(answer.input_tokens for answer in found.answers),
        "output_tokens": sum(answer.output_tokens for answer in found.answers),
    }
    sure = [answer for answer in found.answers if answer.at <= killed - BOUND_SECONDS]
    # The oldest answer that is not in it: they are written in the order in which they ended.
    lost = max(0, got["requests"] - written["requests"])
    lost_seconds = killed - sorted(answer.at for answer in found.answers)[-lost] if lost else 0.0
    missing = f"{lost} answers of the last {lost_seconds:.2f} s are not in it"
    print(f"kill {number}: clients got {got}, the ledger has {written}: {missing}")  # noqa: T201 the figures
    assert len(sure) > CLIENTS, "clients were meant to be busy"
    assert len(sure) <= written["requests"] <= got["requests"] + found.waiting
    assert written["input_tokens"] >= sum(answer.input_tokens for answer in sure)
    assert written["output_tokens"] >= sum(answer.output_tokens for answer in sure)
    assert written["output_tokens"] <= got["output_tokens"] + found.waiting * MOST_TOKENS
