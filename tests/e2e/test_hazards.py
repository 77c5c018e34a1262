"""Small memory, clients that leave, files that vanish, logprobs of prompts: the real engine lives through all of it."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from loadtest.correctness.loud import make_loud
from loradock_adapters.base_model import BaseModel
from tests.e2e.server import Server, run_server
from tests.e2e.waiting import eventually

pytestmark = pytest.mark.e2e

NAMES = ("ash", "birch", "cedar", "elm")
PLACES = 2


@pytest.fixture(scope="module")
def cramped(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    """A server with room for two of its four adapters, and the folder with their sources."""
    folder = tmp_path_factory.mktemp("hazards")
    with run_server(base.folder, LORADOCK_MAX_LORAS=str(PLACES), LORADOCK_MAX_CPU_LORAS=str(PLACES)) as server:
        for seed, name in enumerate(NAMES):
            make_loud(folder / name, base, seed)
            server.loradock("adapters", "register", name, str(folder / name))
        yield server, folder
        assert server.metric("loradock_engine_restarts_total") == 0


def answer(server: Server, model: str) -> str:
    with server.client() as client:
        done = client.completions.create(model=model, prompt="The tree", max_tokens=8, temperature=0, seed=1)
    return done.choices[0].text


def digest_of(server: Server, name: str) -> str:
    return str(server.loradock("adapters", "show", name)["versions"][0]["digest"])


def blob_of(server: Server, name: str) -> Path:
    return server.home / "store/blobs/sha256" / digest_of(server, name)


def resident(server: Server) -> set[str]:
    return {name for name in NAMES if server.metric("loradock_adapter_resident", adapter=name) == 1}


def test_adapters_that_make_room_for_each_other_while_clients_leave_are_never_mixed_up(
    cramped: tuple[Server, Path],
) -> None:
    server, _ = cramped
    expected = {name: answer(server, name) for name in NAMES}
    assert len(set(expected.values())) == len(NAMES)
    choices = random.Random(1)

    async def leave_early(client: openai.AsyncOpenAI, name: str) -> None:
        stream = await client.completions.create(
            model=name, prompt="The tree", max_tokens=500, stream=True, extra_body={"ignore_eos": True}
        )
        for _ in range(choices.randrange(1, 6)):
            await anext(aiter(stream))
        await stream.close()

    async def stay(client: openai.AsyncOpenAI, name: str) -> None:
        done = await client.completions.create(model=name, prompt="The tree", max_tokens=8, temperature=0, seed=1)
        assert done.choices[0].text == expected[name]

    async def rush() -> None:
        async with server.async_client() as client:
            for _ in range(12):
                jobs = [leave_early(client, choices.choice(NAMES)) for _ in range(3)]
                jobs += [stay(client, choices.choice(NAMES)) for _ in range(2)]
                await asyncio.gather(*jobs)

    asyncio.run(rush())
    # Those that were left hold their places a moment longer, and what comes next looks at who is in memory.
    eventually(lambda: server.metric("vllm:num_requests_running") == server.metric("loradock_requests_in_flight") == 0)
    assert "is removed under" not in server.engine_log()  # an adapter left only when the engine had let go of it


def test_an_adapter_whose_files_vanish_is_a_404_once_it_has_left_memory_and_nothing_else_notices(
    cramped: tuple[Server, Path],
) -> None:
    server, folder = cramped
    expected = {name: answer(server, name) for name in NAMES}
    assert resident(server) == set(NAMES[-PLACES:])
    gone, held = NAMES[0], NAMES[-1]
    for name in (gone, held):
        blob = blob_of(server, name)
        blob.chmod(0o755)
        shutil.rmtree(blob)
    with pytest.raises(openai.NotFoundError, match="register the adapter again") as caught:
        answer(server, gone)
    assert caught.value.code == "adapter_missing"
    assert answer(server, held) == expected[held]
    assert answer(server, NAMES[1]) == expected[NAMES[1]]
    for name in (gone, held):
        server.loradock("adapters", "register", name, str(folder / name))
    assert {name: answer(server, name) for name in NAMES} == expected


def test_an_adapter_whose_bytes_rot_is_refused_at_its_next_load_and_repaired_by_registering_it_again(
    cramped: tuple[Server, Path],
) -> None:
    server, folder = cramped
    expected = {name: answer(server, name) for name in NAMES}
    rotten = NAMES[0]
    weights = blob_of(server, rotten) / "adapter_model.safetensors"
    weights.chmod(0o644)
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(openai.NotFoundError, match="holds other bytes"):
        answer(server, rotten)
    server.loradock("adapters", "register", rotten, str(folder / rotten))
    assert {name: answer(server, name) for name in NAMES} == expected


def test_prompt_logprobs_of_several_requests_in_one_batch_come_for_adapters_and_base(
    cramped: tuple[Server, Path], base: BaseModel
) -> None:
    server, _ = cramped
    models = [NAMES[0], NAMES[0], NAMES[1], base.folder.name] * 2

    async def ask(client: openai.AsyncOpenAI, model: str) -> int:
        done = await client.completions.create(
            model=model, prompt="The tree grows in the garden", max_tokens=4, echo=True, logprobs=1
        )
        logprobs = done.choices[0].logprobs
        assert logprobs is not None
        return len(logprobs.tokens or [])

    async def main() -> list[int]:
        async with server.async_client() as client:
            return await asyncio.gather(*(ask(client, model) for model in models))

    assert min(asyncio.run(main())) >= 8
