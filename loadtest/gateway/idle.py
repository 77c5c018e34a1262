"""Many streams that say nothing: what they take of the gateway's memory, and whether others are still answered."""

from __future__ import annotations

import asyncio
import resource
import time
from dataclasses import dataclass

import httpx
import psutil
import uvloop

from loadtest.gateway import servers, wrk
from loadtest.gateway.servers import BenchError, Target

_AT_ONCE = 200
_OPEN_SECONDS = 120.0
_SPARE_FILES = 100
# The kernel deals connections out to workers, not quite evenly; per cent.
_UNEVEN = 110


@dataclass(frozen=True, slots=True)
class Idle:
    """Megabytes (10^6 bytes) of resident memory; milliseconds of a plain request beside all the streams."""

    streams: int
    workers: int
    before: float
    held: float
    after: float
    answer: float
    opened_seconds: float


def measure(streams: int, workers: int) -> Idle:
    """Hold so many streams through a gateway. Raises BenchError if one does not begin or the files do not suffice."""
    # Each stream is two connections to the gateway, and one to the engine and to us.
    _allow_files(max(streams, 2 * streams // workers * (_UNEVEN if workers > 1 else 100) // 100) + _SPARE_FILES)
    # The engine says nothing for as long as it takes; that is not what is measured.
    settings = {"LORADOCK_CHUNK_TIMEOUT": "600", "LORADOCK_FIRST_BYTE_TIMEOUT": "600", "LORADOCK_WORKERS": str(workers)}
    with servers.fake_engine("--idle") as engine, servers.ours(engine, **settings) as target:
        if target.pid is None:
            raise BenchError("the gateway has no process of its own")
        found: Idle = uvloop.run(_hold(target, target.pid, streams, workers))
        return found


async def _hold(target: Target, pid: int, streams: int, workers: int) -> Idle:
    before = _resident(pid)
    began = time.perf_counter()
    gate = asyncio.Semaphore(_AT_ONCE)
    async with asyncio.timeout(_OPEN_SECONDS):
        held = await asyncio.gather(*(_begin(target, gate) for _ in range(streams)))
    opened = time.perf_counter() - began
    await asyncio.sleep(2)
    resident = _resident(pid)
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        times = []
        for _ in range(20):
            asked = time.perf_counter()
            answer = await client.post(
                f"http://127.0.0.1:{target.port}{wrk.PATH}",
                content=wrk.body_of(target, stream=False),
                headers={"content-type": "application/json", **target.headers},
            )
            if not answer.is_success:
                raise BenchError(f"beside {streams} streams a request was answered {answer.status_code}")
            times.append((time.perf_counter() - asked) * 1000)
    for writer in held:
        writer.close()
    await asyncio.sleep(3)
    return Idle(streams, workers, before, resident, _resident(pid), sorted(times)[len(times) // 2], opened)


async def _begin(target: Target, gate: asyncio.Semaphore) -> asyncio.StreamWriter:
    """A stream whose first event has come."""
    body = wrk.body_of(target, stream=True).encode()
    async with gate:
        reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
        writer.write(wrk.request_bytes(target, body))
        if b" 200 " not in await reader.readline():
            raise BenchError("a stream was refused: " + (await reader.read(2000)).decode(errors="replace"))
        await reader.readuntil(b"data:")
    return writer


def _resident(pid: int) -> float:
    """Of the process and those that it started."""
    process = psutil.Process(pid)
    return float(sum(one.memory_info().rss for one in (process, *process.children(recursive=True)))) / 1e6


def _allow_files(count: int) -> None:
    """For this process and those it starts. Raises BenchError where the system does not."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        raise BenchError(f"a process may open {hard} files here and {count} are needed; raise ulimit -n or add workers")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
