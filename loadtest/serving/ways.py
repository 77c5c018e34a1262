"""The three ways to serve, as running processes: which endpoint answers for which adapter, and whose memory counts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from loadtest.bench import rows, servers
from loadtest.gateway.servers import free_port, process, wait_for
from loradock_adapters.merging.into_base import merge_into_base

RESERVE = 1.5e9  # bytes of memory that stay free
KV_CACHE = 256 << 20  # bytes; for eight short requests at a time more than enough

Adapters = Sequence[tuple[str, Path]]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where one adapter answers."""

    url: str
    model: str
    key: str = ""


@dataclass(frozen=True, slots=True)
class Fleet:
    """What runs: an endpoint for each adapter that found room, and the processes with all they started."""

    endpoints: tuple[Endpoint, ...]
    roots: tuple[int, ...]

    def memory(self) -> int:
        """Bytes: the proportional set sizes of all processes, so that what they share counts once."""
        return sum(one.memory_full_info().pss for one in self._processes())

    def processes(self) -> int:
        return len(self._processes())

    def _processes(self) -> list[psutil.Process]:
        roots = [psutil.Process(pid) for pid in self.roots]
        return [one for root in roots for one in (root, *root.children(recursive=True))]


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
    largest = 0
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
            yield Fleet(tuple(endpoints), tuple(roots))
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextlib.contextmanager
def loradock(base: Path, adapters: Adapters, say: Say) -> Iterator[Fleet]:
    """One `loradock serve` with all of them, as it comes but for the compiler, which the others go without too."""
    before = {child.pid for child in psutil.Process().children()}
    say(f"starting LoRADock with {len(adapters)} adapters")
    flags = f"--kv-cache-memory-bytes={KV_CACHE}"
    settings = {"LORADOCK_COMPILE": "false", "LORADOCK_MAX_LORAS": "16", "LORADOCK_ENGINE_ARGS": flags}
    with servers.ours(base, **settings) as server:
        asyncio.run(rows.register(server, list(adapters)))
        roots = {child.pid for child in psutil.Process().children()} - before
        yield Fleet(tuple(Endpoint(server.url, name, server.key) for name, _ in adapters), tuple(roots))


WAYS: dict[str, Callable[[Path, Adapters, Say], contextlib.AbstractContextManager[Fleet]]] = {
    "peft": peft,
    "merged": merged,
    "loradock": loradock,
}
WORDS = {
    "peft": "transformers + PEFT, a process for each adapter",
    "merged": "merged models, a vLLM for each",
    "loradock": "LoRADock, one process group for all",
}
