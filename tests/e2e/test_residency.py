"""Slots, memory and pins of a real server: who is where, who stays, and that memory comes back, in the end all of it.

LONG_TESTS=1 loads and unloads two hundred adapters instead of forty.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest

from loadtest.correctness.loud import make_loud
from loradock_adapters.base_model import BaseModel
from loradock_adapters.processor import Processor
from tests.e2e.reporting import report
from tests.e2e.server import Server, run_server
from tests.e2e.waiting import eventually, until_ended

pytestmark = pytest.mark.e2e

MEMORY = 64 << 20
# In float32 an adapter on all linear layers of SmolLM2-135M takes 1.22 MB for each rank: of rank 8 four fit easily, of
# rank 32 one does beside two of those, and of rank 64 none.
PER_RANK = 1_220_000
# Compiled kernels fill the ranks of a layer's A up to sixteen: of rank 8 that is 8 more of q, k and v together, of o
# and of down in each of 30 layers. Ranks of 32 are full.
FILLED_AT_8 = 30 * 8 * (576 + 576 + 1536) * 4
# Measured over 30 cycles: 0.3 MB in the API process, 0.9 MB in the worker. An adapter of the cycles below has 4.9 MB.
GROWTH_MEGABYTES = 10
CYCLES = 200 if os.environ.get("LONG_TESTS") else 40


@pytest.fixture(scope="module")
def small(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two slots, four adapters in memory, 64 MiB for them; a0 … a5 are registered, of rank 8."""
    with run_server(
        base.folder,
        LORADOCK_DTYPE="float32",
        LORADOCK_MAX_LORAS="2",
        LORADOCK_MAX_CPU_LORAS="4",
        LORADOCK_ADAPTER_MEMORY_BYTES=str(MEMORY),
        LORADOCK_SMOKE_PROBE="off",  # which would load what the tests want to see on disk
    ) as server:
        folder = tmp_path_factory.mktemp("residency")
        for number in range(6):
            server.register(f"a{number}", make_loud(folder / f"a{number}", base, seed=number))
        yield server


def taken(rank: int) -> int:
    """Bytes of an adapter in memory."""
    filled = FILLED_AT_8 if rank == 8 and Processor.here().level != "none" else 0
    return rank * PER_RANK + filled


def ask(server: Server, model: str) -> str:
    with server.client() as client:
        return client.completions.create(model=model, prompt="Once", max_tokens=4, temperature=0).choices[0].text


def listed(server: Server) -> dict[str, dict[str, Any]]:
    return {adapter["name"]: adapter for adapter in server.loradock("adapters", "list")["data"]}


def tier(server: Server, name: str) -> str:
    return str(server.get(f"/admin/adapters/{name}").json()["tier"])


def in_memory(server: Server) -> set[str]:
    return {name for name, adapter in listed(server).items() if adapter["tier"] == "memory"}


def pin_problems(server: Server) -> dict[str, str]:
    return {name: adapter["pin_problem"] for name, adapter in listed(server).items() if adapter["pin_problem"]}


def test_the_list_says_which_adapter_runs_which_waits_in_memory_and_which_is_on_disk(small: Server) -> None:
    ask(small, "a1")
    with small.client() as client:
        stream = client.completions.create(
            model="a0", prompt="Once", max_tokens=1500, stream=True, extra_body={"ignore_eos": True}
        )
        next(iter(stream))
        eventually(lambda: tier(small, "a0") == "slot")
        shown = listed(small)
        stream.close()
    assert {name: shown[name]["tier"] for name in ("a0", "a1", "a2")} == {"a0": "slot", "a1": "memory", "a2": "disk"}
    assert [shown[name]["in_flight"] for name in ("a0", "a1", "a2")] == [1, 0, 0]
    for name in ("a0", "a1"):
        assert shown[name]["bytes"] == pytest.approx(taken(8), rel=0.05)
        assert shown[name]["last_used"]
    assert (shown["a2"]["bytes"], shown["a2"]["last_used"]) == (0, None)
    eventually(lambda: tier(small, "a0") == "memory")
    assert small.metric("loradock_adapter_resident", adapter="a0", tier="memory") == 1
    assert small.metric("loradock_adapter_resident", adapter="a0", tier="slot") == 0


def test_memory_for_adapters_is_bounded_in_bytes_and_what_never_fits_is_refused_at_once(
    small: Server, base: BaseModel, tmp_path: Path
) -> None:
    small.register("large", make_loud(tmp_path / "large", base, seed=100, rank=32))
    small.register("huge", make_loud(tmp_path / "huge", base, seed=101, rank=64))
    for number in range(4):
        ask(small, f"a{number}")
    assert small.metric("loradock_adapter_memory_bytes") == pytest.approx(4 * taken(8), rel=0.05)
    ask(small, "large")
    eventually(lambda: in_memory(small) == {"a2", "a3", "large"})
    assert small.metric("loradock_adapter_memory_bytes") == pytest.approx(taken(32) + 2 * taken(8), rel=0.05)
    assert small.metric("loradock_adapter_memory_limit_bytes") == MEMORY
    with pytest.raises(openai.APIStatusError) as refused:
        ask(small, "huge")
    assert (refused.value.status_code, refused.value.code) == (422, "adapter_too_large")
    assert "LORADOCK_ADAPTER_MEMORY_BYTES" in str(refused.value)
    assert small.metric("loradock_adapter_memory_bytes") == pytest.approx(taken(32) + 2 * taken(8), rel=0.05)


def test_a_pinned_adapter_is_loaded_unasked_outlives_all_others_and_comes_back_with_a_new_engine(
    small: Server,
) -> None:
    assert tier(small, "a5") == "disk"
    small.loradock("adapters", "pin", "a5")
    eventually(lambda: tier(small, "a5") == "memory")
    evicted = small.metric("loradock_adapter_evictions_total")
    for number in (0, 1, 2, 3, 4, 0, 1, 2):
        ask(small, f"a{number}")
    assert small.metric("loradock_adapter_evictions_total") > evicted + 3
    assert small.metric("loradock_adapter_loads_total", adapter="a5") == 1
    assert small.metric("loradock_adapter_resident", adapter="a5") == 1
    said = ask(small, "a5")

    restarts = small.metric("loradock_engine_restarts_total")
    small.engine_processes()["api"].kill()
    eventually(lambda: not small.ready())
    small.wait_until_ready()
    assert small.metric("loradock_engine_restarts_total") == restarts + 1
    eventually(lambda: in_memory(small) == {"a5"})
    assert ask(small, "a5") == said

    for name in ("a0", "a1", "a2"):
        small.loradock("adapters", "pin", name)
    # The engine is told of pins twice a second, and asked what became of them as often.
    eventually(lambda: pin_problems(small).keys() == {"a1", "a2"})
    assert "at most 2 can be" in pin_problems(small)["a2"]
    small.loradock("adapters", "unpin", "a0")
    small.loradock("adapters", "unpin", "a5")
    eventually(lambda: tier(small, "a1") == tier(small, "a2") == "memory")
    for name in ("a3", "a4", "a0"):
        ask(small, name)
    eventually(lambda: tier(small, "a5") == "disk")
    small.loradock("adapters", "delete", "a2", "--yes")
    eventually(lambda: small.metric("loradock_adapter_resident", adapter="a2") == 0)
    small.loradock("adapters", "unpin", "a1")


@pytest.mark.timeout(1800 + 10 * CYCLES)
def test_memory_comes_back_when_adapters_come_and_go(small: Server, base: BaseModel, tmp_path: Path) -> None:
    """Each cycle brings an adapter of 4.9 MB that was never there before: kept, they would be 147 MB, or 730."""
    processes = small.engine_processes()
    assert {"api", "worker"} <= processes.keys()

    def megabytes() -> dict[str, float]:
        return {role: process.memory_info().rss / 1e6 for role, process in processes.items()}

    before: dict[str, float] = {}
    for cycle in range(CYCLES):
        if cycle == CYCLES // 4:
            before = megabytes()
        folder = make_loud(tmp_path / "passing", base, seed=1000 + cycle, rank=4)
        small.register(f"passing{cycle}", folder)
        shutil.rmtree(folder)
        ask(small, f"passing{cycle}")
        gone = httpx.delete(
            f"{small.url}/admin/adapters/passing{cycle}",
            headers={"authorization": f"Bearer {small.key}"},
            trust_env=False,
            timeout=60,
        ).json()
        assert gone["unloaded"]
    grown = {role: rss - before[role] for role, rss in megabytes().items()}
    report(f"{CYCLES} adapters came and went: " + ", ".join(f"{role} {mb:+.1f} MB" for role, mb in grown.items()))
    assert max(grown.values()) < GROWTH_MEGABYTES, grown
    assert small.metric("loradock_adapter_resident") <= 4


def test_killed_together_supervisor_and_engine_leave_no_process_that_holds_memory(small: Server) -> None:
    """The last one here: it ends the server."""
    children = psutil.Process(small.process.pid).children(recursive=True)
    api, core = (small.engine_processes()[role] for role in ("api", "core"))
    core.suspend()  # a core that hangs is where a look at a pipe would not do
    small.process.kill()
    api.kill()
    until_ended(children)
    small.process.wait()
