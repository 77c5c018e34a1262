"""An operator's story on the real engine under traffic: two versions, split, promote, roll back, retire, collect."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from loadtest.correctness.loud import make_loud
from loradock_adapters.base_model import BaseModel
from tests.e2e.server import Server

pytestmark = pytest.mark.e2e

PROMPT = "The weather today is"
TOKENS = 12
USERS = 12


async def stream(server: Server, model: str, user: str) -> tuple[str, str]:
    """Ask once; the version that every chunk and the header named, and the text."""
    async with server.async_client() as client:
        raw = await client.completions.with_raw_response.create(
            model=model, prompt=PROMPT, max_tokens=TOKENS, temperature=0, user=user, stream=True
        )
        text, named = "", {raw.headers["x-loradock-adapter"]}
        async for chunk in raw.parse():
            named.add(chunk.model)
            text += "".join(choice.text for choice in chunk.choices)
    assert len(named) == 1, named
    return named.pop(), text


@dataclass(frozen=True, slots=True)
class Answered:
    """What a request got, and in which phase of the story; "" for one that saw a change of phase."""

    phase: str
    user: str
    version: str
    text: str


class Traffic:
    """Requests of a dozen users, three at a time, until told to stop."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.phase = ""
        self.stopping = False
        self.answers: list[Answered] = []

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for first in range(3):
                group.create_task(self._keep_asking(first))

    async def _keep_asking(self, number: int) -> None:
        while not self.stopping:
            user, phase = f"user-{number}", self.phase
            version, text = await stream(self._server, "story", user)
            # One that was on its way when the phase changed may have been routed before or after.
            self.answers.append(Answered(phase if phase == self.phase else "", user, version, text))
            number = (number + 3) % USERS

    def of(self, phase: str) -> list[Answered]:
        return [answer for answer in self.answers if answer.phase == phase]


STORY = (
    ("promoted", ("promote", "story", "2")),
    ("rolled back", ("rollback", "story")),
    ("promoted again", ("promote", "story", "2")),
    ("retired", ("retire", "story@1")),
)


async def operate(server: Server, traffic: Traffic, commands: Iterable[tuple[str, tuple[str, ...]]]) -> None:
    """One command after the other, and after each of them a round of requests. A failing request fails the test."""
    running = asyncio.create_task(traffic.run())
    for phase, command in commands:
        traffic.phase = f"until {phase}"
        await asyncio.to_thread(server.loradock, "adapters", *command)
        traffic.phase = phase
        while len(traffic.of(phase)) < 2 * USERS:
            if running.done():
                running.result()
            await asyncio.sleep(0.05)
    traffic.stopping = True
    await running


def test_a_release_is_tried_taken_back_and_finished_and_no_request_notices(
    server: Server, base: BaseModel, tmp_path: Path
) -> None:
    first, second = make_loud(tmp_path / "one", base, seed=51), make_loud(tmp_path / "two", base, seed=52)
    server.loradock("adapters", "register", "story", str(first))
    traffic = Traffic(server)
    begin = (
        ("registered", ("register", "story", str(second), "--no-promote")),
        ("split", ("split", "story", "1=50", "2=50")),
    )
    asyncio.run(operate(server, traffic, (*begin, *STORY)))

    both, newer = {"story@1", "story@2"}, {"story@2"}
    phases = {"registered": {"story@1"}, "split": both, "promoted": newer, "rolled back": both}
    phases |= {"promoted again": newer, "retired": newer}
    assert {phase: {answer.version for answer in traffic.of(phase)} for phase in phases} == phases
    # No text came from both: the header named the one that answered. (One version may say two things, as rounding in
    # batches of different sizes decides between near ties.)
    texts = {version: {answer.text for answer in traffic.answers if answer.version == version} for version in both}
    assert texts["story@1"].isdisjoint(texts["story@2"])
    sticky = [(answer.user, answer.version) for phase in ("split", "rolled back") for answer in traffic.of(phase)]
    assert len(set(sticky)) == len({user for user, _ in sticky}), "each user stays on one version"
    digest = server.loradock("adapters", "show", "story")["versions"][0]["digest"]
    refused = server.post("/v1/completions", {"model": "story@1", "prompt": PROMPT})
    assert (refused.status_code, refused.json()["error"]["code"]) == (410, "adapter_retired")
    server.loradock("adapters", "delete", "story@1", "--yes")
    assert digest in [blob["digest"] for blob in server.loradock("gc", "--grace", "0")["blobs"]]
    assert asyncio.run(stream(server, "story", "x"))[0] == "story@2"
    server.loradock("adapters", "delete", "story", "--yes")  # other tests count what this server has
