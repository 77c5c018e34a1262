"""The processes under test: the fake engine, and in front of it other people's gateways and ours."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from loadtest.gateway.fake_engine import MODEL
from loadtest.registry.gateways import write_base
from loadtest.registry.seed import name_of, seed
from loradock_adapters.base_model import BaseModel

START_SECONDS = 120.0
ADMIN_KEY = "ld-bench-admin-key-0123456789"
LIMITS = {
    "requests_per_minute": 10_000_000,
    "tokens_per_minute": 1_000_000_000_000,
    "max_concurrency": 50_000,
    "tokens_per_day": 1_000_000_000_000_000,
}
ENGINE_TOKEN = "bench-engine-token"
ROUTER = "vllm-router==0.1.17"
LITELLM = "litellm[proxy]"


class BenchError(RuntimeError):
    """Something that is needed is missing or does not start; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to ask, what for, and what with; `pid` is the process that is measured, if its memory is of interest."""

    name: str
    port: int
    model: str = MODEL
    headers: Mapping[str, str] = field(default_factory=dict)
    pid: int | None = None


@dataclass(frozen=True, slots=True)
class Engine:
    """A running fake engine, and the base model that it says it has."""

    socket: Path
    port: int
    base: BaseModel
    folder: Path
    pid: int

    @property
    def target(self) -> Target:
        return Target("direct", self.port)


@contextlib.contextmanager
def fake_engine(*flags: str) -> Iterator[Engine]:
    """The fake engine in a folder that is thrown away."""
    folder = Path(tempfile.mkdtemp(prefix="ld-bench-"))
    try:
        base = BaseModel.read(write_base(folder / "base"))
        path, port = folder / "engine.sock", free_port()
        command = [sys.executable, "-m", "loadtest.gateway.fake_engine", f"--socket={path}", f"--port={port}"]
        with process([*command, f"--base-digest={base.digest}", *flags], {}, folder / "engine.log") as running:
            wait_for(f"http://127.0.0.1:{port}/v1/models", running, folder / "engine.log")
            yield Engine(path, port, base, folder, running.pid)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def ours(engine: Engine, name: str = "LoRADock", **settings: str) -> Iterator[Target]:
    """`loradock gateway` as it is deployed: a registry with one adapter, a key, limits, metrics, and traces of one
    request in a hundred, exported to a collector that is not there.
    """
    home = engine.folder / name.replace(" ", "-")
    home.mkdir()
    seed(f"sqlite:///{home}/registry.db", 1, 1, engine.base.digest)
    port, log = free_port(), home / "gateway.log"
    environment = {
        "LORADOCK_HOME": str(home),
        "LORADOCK_PORT": str(port),
        "LORADOCK_MODEL": str(engine.base.folder),
        "LORADOCK_ADMIN_KEY": ADMIN_KEY,
        "LORADOCK_ENGINE_URL": f"unix:{engine.socket}",
        "LORADOCK_ENGINE_TOKEN": ENGINE_TOKEN,
        "LORADOCK_LOG_LEVEL": "warning",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0.01",
        **settings,
    }
    command = [sys.executable, "-c", "from loradock_server.cli.main import app; app()", "gateway"]
    with process(command, environment, log) as running:
        url = f"http://127.0.0.1:{port}"
        wait_for(f"{url}/readyz", running, log)
        key = _prepare(url)
        yield Target(name, port, name_of(0), {"authorization": f"Bearer {key}"}, running.pid)


def _prepare(url: str) -> str:
    """A key for inference, and limits on it and on the adapter, all far above what is asked."""
    with httpx.Client(base_url=url, headers={"authorization": f"Bearer {ADMIN_KEY}"}, trust_env=False) as admin:
        answer = admin.post("/admin/keys", json={"name": "bench", "scopes": ["inference"], "limits": LIMITS})
        limited = admin.patch(f"/admin/adapters/{name_of(0)}", json=LIMITS)
        for one in (answer, limited):
            if not one.is_success:
                raise BenchError(f"{one.request.url} answered {one.status_code}: {one.text[:300]}")
        return str(answer.json()["secret"])


@contextlib.contextmanager
def vllm_router(engine: Engine, rivals: Path, policy: str | None = None) -> Iterator[Target]:
    """vLLM's router in Rust, with one worker behind it; as it comes, which is `cache_aware`, or with this policy."""
    program = _installed(rivals / "vllm-router", ROUTER, "vllm-router")
    name = ROUTER.replace("==", " ") + (f", {policy}" if policy else "")
    port, metrics, log = free_port(), free_port(), engine.folder / f"{name}.log"
    command = [program, "--host=127.0.0.1", f"--port={port}", f"--prometheus-port={metrics}", "--log-level=error"]
    command += [f"--worker-urls=http://127.0.0.1:{engine.port}", *([f"--policy={policy}"] if policy else [])]
    with process(command, {}, log) as running:
        wait_for(f"http://127.0.0.1:{port}/health", running, log)
        yield Target(name, port)


@contextlib.contextmanager
def litellm(engine: Engine, rivals: Path) -> Iterator[Target]:
    """LiteLLM's proxy, one worker, no database."""
    program = _installed(rivals / "litellm", LITELLM, "litellm")
    port, log, config = free_port(), engine.folder / "litellm.log", engine.folder / "litellm.yaml"
    key = f"sk-{secrets.token_hex(16)}"
    config.write_text(
        f"model_list:\n  - model_name: {MODEL}\n    litellm_params:\n      model: openai/{MODEL}\n"
        f"      api_base: http://127.0.0.1:{engine.port}/v1\n      api_key: none\n"
        f"general_settings:\n  master_key: {key}\n"
    )
    command = [program, f"--config={config}", "--host=127.0.0.1", f"--port={port}"]
    with process(command, {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}, log) as running:
        wait_for(f"http://127.0.0.1:{port}/health/liveliness", running, log)
        yield Target("LiteLLM", port, headers={"authorization": f"Bearer {key}"})


def _installed(folder: Path, requirement: str, program: str) -> str:
    """The program, in a virtual environment of its own; made on first use, from the package index."""
    path = folder / "bin" / program
    if not path.exists():
        venv.create(folder, with_pip=True)
        done = subprocess.run([folder / "bin" / "pip", "install", "--quiet", requirement], check=False)
        if done.returncode or not path.exists():
            raise BenchError(f"{requirement} could not be installed into {folder}")
    return str(path)


@contextlib.contextmanager
def process(command: Sequence[str], extra: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run it for the block. The environment's own LORADOCK_* and OTEL_* settings do not reach it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LORADOCK_", "OTEL_"))}
    with log.open("wb") as output:
        running = subprocess.Popen(
            command, env={**kept, **extra}, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )
    try:
        yield running
    finally:
        running.terminate()
        try:
            running.wait(60)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def wait_for(url: str, running: subprocess.Popen[bytes], log: Path) -> None:
    """Until it answers 200. Raises BenchError with the end of its log."""
    deadline = time.monotonic() + START_SECONDS
    while running.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url, trust_env=False, timeout=5).is_success:
                return
        time.sleep(0.05)
    raise BenchError(f"{running.args!r} did not start:\n{log.read_text(errors='replace')[-3000:]}")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])
