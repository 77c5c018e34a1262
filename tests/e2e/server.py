"""A real `loradock serve` in a process of its own: real gateway, real vLLM, a home folder that is thrown away."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil

from loadtest.engine_roles import engine_roles

ROOT = Path(__file__).parents[2]
CACHE = ROOT / "var/cache"
EXAMPLES = ROOT / "adapters/examples"
LORADOCK = Path(sys.executable).with_name("loradock")
START_SECONDS = 900
ENGINES_OWN = "loradock_adapter_memory_limit_bytes"  # a metric that the engine shows as long as it runs
CLIENTS: list[openai.OpenAI] = []
"""Made by `Server.client` and perhaps open."""


class Server:
    """A running server; `home` holds its state and logs."""

    def __init__(self, home: Path, process: subprocess.Popen[bytes], output: Path, env: dict[str, str]) -> None:
        self.home = home
        self.process = process
        self.output = output
        self.env = env
        self.url = ""
        self.key = ""

    def wait_until_ready(self, timeout_seconds: float = START_SECONDS) -> None:
        """Return once /readyz is 200; says what the server printed when it never is."""
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            if not self.url:
                self._find()
            if self.url and self.ready():
                return
            time.sleep(0.1)
        raise AssertionError(f"the server is not ready:\n{self.printed()}\n{self.engine_log()[-4000:]}")

    def ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", trust_env=False, timeout=30).status_code == 200
        except httpx.TransportError:
            return False

    def _find(self) -> None:
        try:
            found = json.loads((self.home / "run/server.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return
        self.url, self.key = found["url"], found["key"]

    def printed(self) -> str:
        return self.output.read_text(errors="replace")

    def engine_log(self) -> str:
        path = self.home / "logs/engine.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def situation(self) -> str:
        """What a report needs when a request gets no answer: who is in flight, who waits, what was logged last."""
        page = [line for line in self.get("/metrics").text.splitlines() if not line.startswith("#")]
        telling = ("in_flight", "waiting", "running", "resident", "engine_up", "restarts", "loads_total")
        lines = [line for line in page if any(word in line for word in telling) and not line.endswith(" 0.0")]
        for role, process in self.engine_processes().items():
            times = process.cpu_times()
            lines.append(f"{role}: {process.status()}, {times.user + times.system:.1f} s of processor time")
        return "\n".join([*lines, self.printed()[-3000:], self.engine_log()[-3000:]])

    def client(self, **options: Any) -> openai.OpenAI:
        """Closed after the test by conftest, if not sooner: one that is left to the collector fails another test."""
        client = openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.key, max_retries=0, **options)
        CLIENTS.append(client)
        return client

    def async_client(self, **options: Any) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key=self.key, max_retries=0, **options)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, headers={"authorization": f"Bearer {self.key}"}, trust_env=False, timeout=30)

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.key}"}
        return httpx.post(self.url + path, json=body, headers=headers, trust_env=False, timeout=60)

    def loradock(self, *args: str, timeout: float = 120) -> Any:
        """Run the command line on this machine, as its operator would; returns the JSON it prints."""
        done = subprocess.run(
            [LORADOCK, *args, "--json"], env=self.env, cwd=self.home, capture_output=True, timeout=timeout, check=False
        )
        assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
        return json.loads(done.stdout)

    def register(self, name: str, folder: Path) -> str:
        """Upload an adapter; returns its id. Quicker than the command line, where there are many."""
        done = httpx.post(
            f"{self.url}/admin/adapters/{name}/versions",
            files=[("file", (path.name, path.read_bytes())) for path in folder.iterdir()],
            headers={"authorization": f"Bearer {self.key}"},
            trust_env=False,
            timeout=60,
        )
        assert done.status_code in (200, 201), done.text
        return str(done.json()["id"])

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that carry these labels; 0 when there are none."""
        from prometheus_client.parser import text_string_to_metric_families

        total = 0.0
        for family in text_string_to_metric_families(self.metrics()):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    total += sample.value
        return total

    def metrics(self) -> str:
        """The page with the engine's part, which the gateway leaves out when a busy engine takes a second for it."""
        deadline = time.monotonic() + 30
        while ENGINES_OWN not in (page := self.get("/metrics").text):
            if time.monotonic() > deadline or not self.ready():
                break
        return page

    def engine_processes(self) -> dict[str, psutil.Process]:
        """vLLM's processes by role: api, core, worker."""
        found = engine_roles(psutil.Process(self.process.pid))
        return {role: process for role, process in found.items() if role in ("api", "core", "worker")}

    def stop(self, timeout_seconds: float = 60.0) -> int:
        """SIGTERM, as an operator or a container would; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        for process in [*psutil.Process(self.process.pid).children(recursive=True), self.process]:
            process.kill()
        self.process.wait()


def server_environment(base: Path, home: Path, **variables: str) -> dict[str, str]:
    """Of a server whose state lies in `home`, on a free port."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("LORADOCK_")}
    env |= {"LORADOCK_HOME": str(home), "LORADOCK_PORT": "0", "LORADOCK_MODEL": str(base)}
    env["LORADOCK_SOURCE_ROOTS"] = str(home / "opened")
    # Compiling takes over a minute for each configuration, and is kept here as it is in a home that stays: the two
    # servers that most tests share do it (conftest), others are there for other things.
    env["LORADOCK_COMPILE"] = "false"
    # Two engines that run side by side (conftest) would both be bound to the same core; one thread each instead, which
    # is what two cores give one engine.
    env |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
    env |= {"VLLM_CACHE_ROOT": str(CACHE / "vllm"), "TORCHINDUCTOR_CACHE_DIR": str(CACHE / "inductor")}
    return env | variables


def launch(home: Path, env: dict[str, str], *flags: str) -> Server:
    """Start a server, and return at once."""
    output = home / "printed.log"
    with output.open("ab") as sink:
        process = subprocess.Popen(
            [LORADOCK, "serve", *flags],
            env=env,
            cwd=ROOT,
            stdout=sink,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
    return Server(home, process, output, env)


@contextmanager
def run_server(base: Path, *flags: str, **variables: str) -> Iterator[Server]:
    """Start a server on a free port, wait until it is ready, stop it at the end."""
    home = Path(tempfile.mkdtemp(prefix="loradock-e2e-"))
    server = launch(home, server_environment(base, home, **variables), *flags)
    try:
        server.wait_until_ready()
        yield server
    finally:
        if server.process.poll() is None:
            server.stop()
        shutil.rmtree(home, ignore_errors=True)
