"""The ways to serve, as running processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from loadtest.bench import rows, servers
from loadtest.gateway.servers import free_port, process, wait_for
from loadtest.serving import llama_cpp
from loadtest.serving.fleet import Adapters, Endpoint, Fleet, Say
from loradock_adapters.merging.into_base import merge_into_base

RESERVE = 1.5e9  # bytes of memory that stay free
KV_CACHE = 256 << 20  # bytes; for eight short requests at a time more than enough


def is_room(largest: int) -> bool:
    """Whether another process like the largest fits beside what runs."""
    return bool(psutil.virtual_memory().available > largest + RESERVE)


@contextlib.contextmanager
def peft(base: Path, adapters: Adapters, say: Say) -> Iterator[Fleet]:
    """A process of transformers and PEFT for each adapter."""

    def command(folder: Path, port: int, work: Path) -> list[str]:
        return [sys.executable, "-m", "loadtest.serving.peft_server", str(base), str(folder), str(port)]

    with one_each(adapters, command, "adapter", say) as fleet:
        yield fleet


@contextlib.contextmanager
def merged(base: Path, adapters: Adapters, say: Say) -> Iterator[Fleet]:
    """A stock vLLM for each merged model, LoRA off."""

    def command(folder: Path, port: int, work: Path) -> list[str]:
        model = work / folder.name
        merge_into_base(folder, base, model, onto="bf16")
        (work / "stock.py").write_text(servers.STOCK)
        return [
            *(sys.executable, str(work / "stock.py"), f"--model={model}", f"--served-model-name={folder.name}"),
            *(f"--port={port}", "--host=127.0.0.1", "--max-model-len=2048", f"--kv-cache-memory-bytes={KV_CACHE}"),
            *("--enforce-eager", "--disable-uvicorn-access-log"),
        ]

    with one_each(adapters, command, None, say) as fleet:
        yield fleet


@contextlib.contextmanager
def one_each(
    adapters: Adapters, command: Callable[[Path, int, Path], list[str]], model: str | None, say: Say
) -> Iterator[Fleet]:
    """A process for each adapter, one after the other, as long as there is memory for one more."""
    work = Path(tempfile.mkdtemp(prefix="loradock-ways-"))
    cores = sorted(os.sched_getaffinity(0))
    endpoints: list[Endpoint] = []
    roots: list[int] = []
    largest, began = 0, time.monotonic()
    try:
        with contextlib.ExitStack() as stack:
            for number, (name, folder) in enumerate(adapters, start=1):
                if not is_room(largest):
                    say(f"no memory for more than {len(roots)} processes")
                    break
                say(f"starting process {number} of {len(adapters)}")
                port, log = free_port(), work / f"{name}.log"
                before = psutil.virtual_memory().available
                settings = servers.STOCK_ENVIRONMENT
                if len(adapters) > 1:
                    # Left alone their threads spin against each other, and every vLLM takes the first core.
                    core = cores[number % len(cores)]
                    settings = settings | {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": str(core)}
                running = stack.enter_context(process(command(folder, port, work), settings, log))
                wait_for(f"http://127.0.0.1:{port}/health", running, log)
                largest = max(largest, before - psutil.virtual_memory().available)
                endpoints.append(Endpoint(f"http://127.0.0.1:{port}", model or name))
                roots.append(running.pid)
            yield Fleet(tuple(endpoints), tuple(roots), time.monotonic() - began)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def loradock(*, compiled: bool) -> Callable[[Path, Adapters, Say], contextlib.AbstractContextManager[Fleet]]:
    """One `loradock serve` with all of them, as it comes but for the compiler, which not every row has."""

    @contextlib.contextmanager
    def serve(base: Path, adapters: Adapters, say: Say) -> Iterator[Fleet]:
        before, began = {child.pid for child in psutil.Process().children()}, time.monotonic()
        say(f"starting LoRADock with {len(adapters)} adapters")
        flags = f"--kv-cache-memory-bytes={KV_CACHE}"
        settings = {
            "LORADOCK_MAX_LORAS": "16",
            "LORADOCK_ENGINE_ARGS": flags,
            "LORADOCK_COMPILE": str(compiled).lower(),
        }
        with servers.ours(base, **settings) as server:
            asyncio.run(rows.register(server, list(adapters)))
            roots = {child.pid for child in psutil.Process().children()} - before
            endpoints = tuple(Endpoint(server.url, name, server.key) for name, _ in adapters)
            yield Fleet(endpoints, tuple(roots), time.monotonic() - began)

    return serve


WAYS: dict[str, Callable[[Path, Adapters, Say], contextlib.AbstractContextManager[Fleet]]] = {
    "peft": peft,
    "merged": merged,
    "llama-f16": llama_cpp.way("f16"),
    "llama-q8": llama_cpp.way("q8_0"),
    "loradock": loradock(compiled=False),
    "loradock-compiled": loradock(compiled=True),
}
WORDS = {
    "peft": "transformers + PEFT, a process for each adapter",
    "merged": "merged models, a vLLM for each",
    "llama-f16": "llama.cpp, one server, base in f16",
    "llama-q8": "llama.cpp, one server, base in Q8_0",
    "loradock": "LoRADock, one process group for all",
    "loradock-compiled": "LoRADock, compiled, as it is by default",
}
