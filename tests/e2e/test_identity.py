"""No answer is by other weights than its `model` says, while versions are promoted, unloaded, deleted and reloaded.

In float32: each answer's logprobs are compared with those of exactly the bytes that its id was registered with, as they
came from the engine when it had nothing else to do (and, for some of them, from PEFT). LONG_TESTS=1 goes on for longer.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import openai
import pytest

pytest.importorskip("peft")

from loadtest.correctness.asking import Reply, Tokens, ask, distance, gap, some_text
from loadtest.correctness.loud import make_loud
from loadtest.correctness.oracle import Oracle
from loradock_adapters.base_model import BaseModel
from loradock_server import wire
from tests.e2e.reporting import report
from tests.e2e.server import Server

LONG = bool(os.environ.get("LONG_TESTS"))
# Without the start of the server, which compiles: on a busy machine that alone takes minutes.
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3600 if LONG else 1800, func_only=True)]

CONTENTS = 60 if LONG else 20  # different adapters
NAMES = 30 if LONG else 10
CLIENTS = 400 if LONG else 200  # that ask at the same time
QUESTIONS = 15 if LONG else 2  # by each of them, and more until there were
CHANGES = 40 if LONG else 4  # of each kind
ANSWER = 4  # tokens
PATIENCE_SECONDS = 60  # for one answer of an engine that has nothing else to do
TOLERANCE = 3e-4  # of a logprob; noise between batch sizes is below 1e-4
# Refusals that a client must expect here: the name is deleted, or leaves memory, just now.
EXPECTED = {"model_not_found", "adapter_unloading", "adapter_capacity"}

Truth = dict[tuple[int | None, Tokens], Reply]


@dataclass
class Record:
    """What was registered, asked, answered and refused. `content_of`: adapter id to the number of its content."""

    content_of: dict[str, int] = field(default_factory=dict)
    replies: list[tuple[str, Reply]] = field(default_factory=list)  # asked for, answer
    refusals: Counter[str] = field(default_factory=Counter)
    promoted: int = 0
    unloaded: int = 0
    deleted: int = 0

    @property
    def commotion(self) -> int:
        """How often the rarest kind of change was made."""
        return min(self.promoted, self.unloaded, self.deleted)


class Administrator:
    """Changes the server under its clients' feet until cancelled."""

    def __init__(self, server: Server, contents: list[Path], record: Record, seed: int) -> None:
        self._files = [[("file", (p.name, p.read_bytes())) for p in sorted(folder.iterdir())] for folder in contents]
        self._record = record
        self._choices = random.Random(seed)
        self._gateway = httpx.AsyncClient(
            base_url=server.url, headers={"authorization": f"Bearer {server.key}"}, timeout=300, trust_env=False
        )
        self._engine = httpx.AsyncClient(
            base_url="http://engine",
            headers={wire.TOKEN: server.env["LORADOCK_ENGINE_TOKEN"]},
            transport=httpx.AsyncHTTPTransport(uds=str(server.home / "run/engine.sock")),
            timeout=300,
        )

    async def register(self, name: str, content: int) -> str:
        """A new version with these bytes, or the old one that has them; it is live from here on."""
        done = await self._gateway.post(f"/admin/adapters/{name}/versions", files=self._files[content])
        while done.status_code == 409 and "deleted" in done.text:  # while it was being registered
            done = await self._gateway.post(f"/admin/adapters/{name}/versions", files=self._files[content])
        assert done.status_code in (200, 201), done.text
        adapter_id = str(done.json()["id"])
        assert self._record.content_of.setdefault(adapter_id, content) == content
        return adapter_id

    async def promote_for_ever(self) -> None:
        while True:
            await self.register(f"id-{self._choices.randrange(NAMES)}", self._choices.randrange(CONTENTS))
            self._record.promoted += 1
            await asyncio.sleep(0.2)

    async def unload_for_ever(self) -> None:
        while True:
            adapter_id = self._choices.choice(list(self._record.content_of))
            done = await self._engine.post(wire.UNLOAD, json={"id": adapter_id})
            assert done.status_code in (200, 503), done.text
            self._record.unloaded += done.status_code == 200 and done.json()["unloaded"]
            await asyncio.sleep(0.1)

    async def delete_for_ever(self) -> None:
        while True:
            await asyncio.sleep(1)
            name = f"id-{self._choices.randrange(NAMES)}"
            done = await self._gateway.delete(f"/admin/adapters/{name}")
            assert done.status_code in (200, 204, 404), done.text
            self._record.deleted += done.status_code != 404
            await self.register(name, self._choices.randrange(CONTENTS))

    async def close(self) -> None:
        await self._gateway.aclose()
        await self._engine.aclose()


@pytest.fixture(scope="module")
def contents(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder: Path = tmp_path_factory.mktemp("contents")
    return [
        make_loud(folder / str(number), base, seed=500 + number, rank=2, strength=0.4) for number in range(CONTENTS)
    ]


@pytest.fixture(scope="module")
def prompts(base: BaseModel) -> list[Tokens]:
    """The second is long enough for the prefix cache to keep some of it."""
    return [some_text(base.folder, length, seed=length) for length in (10, 70)]


@pytest.fixture(scope="module")
def truth(exact: Server, base: BaseModel, contents: list[Path], prompts: list[Tokens]) -> Truth:
    """What each content answers when the engine has nothing else to do; None is the base."""
    for number, folder in enumerate(contents):
        exact.register(f"truth-{number}", folder)

    async def main() -> Truth:
        async with exact.async_client(timeout=PATIENCE_SECONDS) as client:
            models: dict[int | None, str] = {
                None: base.name,
                **{number: f"truth-{number}" for number in range(CONTENTS)},
            }
            return {(n, p): await ask(client, model, p, ANSWER) for n, model in models.items() for p in prompts}

    try:
        found = asyncio.run(main())
    except openai.APITimeoutError as error:
        raise AssertionError(f"a request got no answer in {PATIENCE_SECONDS} s\n{exact.situation()}") from error
    for number in range(CONTENTS):
        exact.loradock("adapters", "delete", f"truth-{number}", "--yes")
    return found


def test_the_engine_alone_is_right_about_some_of_them_and_all_are_far_apart(
    base: BaseModel, contents: list[Path], truth: Truth, prompts: list[Tokens]
) -> None:
    oracle = Oracle(base.folder)
    for number in (0, CONTENTS // 2, CONTENTS - 1):
        oracle.load(f"content-{number}", contents[number])
        for prompt in prompts:
            reply = truth[number, prompt]
            logprobs = oracle.logprobs(f"content-{number}", (*prompt, *reply.tokens))
            likely = [float(logprobs[len(prompt) - 1 + i, token]) for i, token in enumerate(reply.tokens)]
            assert gap(likely, reply.logprobs) < TOLERANCE
    for prompt in prompts:
        replies = [truth[number, prompt] for number in (None, *range(CONTENTS))]
        apart = min(distance(x, y) for i, x in enumerate(replies) for y in replies[:i])
        report(f"two of them are {apart:.3g} apart at least")
        assert apart > 100 * TOLERANCE


def test_every_answer_is_by_the_weights_that_its_id_names(
    exact: Server, base: BaseModel, contents: list[Path], truth: Truth, prompts: list[Tokens]
) -> None:
    record = Record()
    loads_before = exact.metric("loradock_adapter_loads_total")

    async def one_client(client: openai.AsyncOpenAI, number: int) -> None:
        choices = random.Random(number)
        for question in itertools.count():
            if question >= QUESTIONS and record.commotion >= CHANGES:
                return
            name = f"id-{min(int(choices.expovariate(0.3)), NAMES - 1)}"  # some much more often than others
            known = choices.choice(list(record.content_of))
            asked = choices.choices([name, known, base.name], [6, 3, 1])[0]
            try:
                reply = await ask(client, asked, choices.choice(prompts), ANSWER)
            except openai.APIStatusError as error:
                if error.code not in EXPECTED:
                    raise
                record.refusals[str(error.code)] += 1
            else:
                record.replies.append((asked, reply))

    async def main() -> None:
        admin = Administrator(exact, contents, record, seed=1)
        for number in range(NAMES):
            await admin.register(f"id-{number}", number)
        forever = [
            asyncio.create_task(f()) for f in (admin.promote_for_ever, admin.unload_for_ever, admin.delete_for_ever)
        ]
        async with exact.async_client(timeout=600) as client, asyncio.TaskGroup() as clients:
            for number in range(CLIENTS):
                clients.create_task(one_client(client, number))
        for task in forever:
            task.cancel()
        for result in await asyncio.gather(*forever, return_exceptions=True):
            assert isinstance(result, asyncio.CancelledError), result
        await admin.close()

    asyncio.run(main())
    worst = 0.0
    for asked, reply in record.replies:
        if "@" in asked or asked == base.name:
            assert reply.model == asked
        else:
            assert reply.model.rpartition("@")[0] == asked
        content = None if asked == base.name else record.content_of[reply.model]
        found = distance(reply, truth[content, reply.prompt])
        assert found < TOLERANCE, f"{reply.model} answered as somebody else"
        worst = max(worst, found)
    # The commotion was there: many answers by many versions, most of them through changes.
    answered = Counter(reply.model for _, reply in record.replies)
    loads = exact.metric("loradock_adapter_loads_total") - loads_before
    report(
        f"{len(record.replies)} answers by {len(answered)} ids, at most {worst:.2g} from the truth, through "
        f"{loads:.0f} loads, {record.promoted} promotions, {record.unloaded} unloads, {record.deleted} deletions; "
        f"refused: {dict(record.refusals)}"
    )
    asked_for = len(record.replies) + record.refusals.total()
    # A third asks for old ids, most of which are deleted by the end of a long run: a slow machine's is one.
    assert len(record.replies) > 0.5 * asked_for, record.refusals
    assert len(answered) > 1.5 * NAMES
    assert record.commotion >= CHANGES
    assert loads > len(answered)  # some came back
    assert any(reply.cached for _, reply in record.replies)
    assert exact.metric("loradock_engine_restarts_total") == 0
    assert "is removed under" not in exact.engine_log()
