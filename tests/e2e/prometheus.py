"""Starts a real Prometheus (Debian's `prometheus`) in a temporary folder, on a free port of 127.0.0.1.

Scrapes what it is told to, every second, with the repository's own rules loaded. Knows nothing about the
scraped server but its address.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

RULES = Path(__file__).parents[2] / "deploy/prometheus/rules.yml"
START_TIMEOUT_SECONDS = 60.0
CI_FIX = "apt-get install -y --no-install-recommends prometheus"


class PrometheusFailed(RuntimeError):
    """Prometheus ended, never became ready, or never saw what was waited for; the message says why."""


def need_tool(name: str) -> str:
    """Path of a command that tests need: without it they skip on a developer's machine and fail in CI."""
    path = shutil.which(name)
    if path is None:
        message = f"{name} is not installed; {CI_FIX}"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return path


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A running server; `url` is what the functions of tests.deploy.promql take."""

    url: str
    log: Path

    def scrapes(self) -> int:
        """Successful scrapes of the target so far, 0 while it is down."""
        samples = self._api("query?query=sum(sum_over_time(up%5B1h%5D))")["result"]
        return int(float(samples[0]["value"][1])) if samples else 0

    def wait_for_scrapes(self, more: int = 3, timeout_seconds: float = 60.0) -> None:
        """Return after `more` further successful scrapes; rate() needs two. Raises PrometheusFailed."""
        wanted = self.scrapes() + more
        deadline = time.monotonic() + timeout_seconds
        while (seen := self.scrapes()) < wanted:
            if time.monotonic() > deadline:
                faults = [target["lastError"] for target in self._api("targets")["activeTargets"]]
                raise PrometheusFailed(f"{seen} of {wanted} scrapes after {timeout_seconds:.0f} s: {faults}")
            time.sleep(0.2)

    def _api(self, call: str) -> Any:
        with urllib.request.urlopen(f"{self.url}/api/v1/{call}", timeout=30) as response:
            return json.load(response)["data"]


@contextlib.contextmanager
def run_prometheus(
    *targets: str,
    interval: str = "1s",
    rules: Path | None = RULES,
    headers: Mapping[str, str] | None = None,
) -> Iterator[Prometheus]:
    """Scrape `targets` ("127.0.0.1:8000", path /metrics) as job `loradock` until the block ends.

    `headers` may hold one: {"Authorization": "Bearer …"}. Raises PrometheusFailed if it does not get ready.
    """
    binary = need_tool("prometheus")
    with tempfile.TemporaryDirectory(prefix="prometheus-") as folder:
        home = Path(folder)
        config = home / "prometheus.yml"
        config.write_text(yaml.safe_dump(_config(targets, interval, rules, headers)), encoding="utf-8")
        port = _free_port()
        log = home / "log"
        with log.open("wb") as sink:
            process = subprocess.Popen(
                [
                    binary,
                    f"--config.file={config}",
                    f"--storage.tsdb.path={home / 'data'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                ],
                stdout=sink,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )
        try:
            server = Prometheus(f"http://127.0.0.1:{port}", log)
            _wait_until_ready(server, process)
            yield server
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _config(
    targets: Sequence[str], interval: str, rules: Path | None, headers: Mapping[str, str] | None
) -> dict[str, Any]:
    job: dict[str, Any] = {"job_name": "loradock", "static_configs": [{"targets": list(targets)}]}
    if headers:
        kind, _, credentials = headers["Authorization"].partition(" ")
        job["authorization"] = {"type": kind, "credentials": credentials}
    return {
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
        "rule_files": [str(rules)] if rules else [],
        "scrape_configs": [job],
    }


def _wait_until_ready(server: Prometheus, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError):  # of urllib, or that of a wait for the answer, which it lets through
            urllib.request.urlopen(f"{server.url}/-/ready", timeout=2).close()
            return
        time.sleep(0.05)
    tail = server.log.read_text(errors="replace")[-2000:]
    raise PrometheusFailed(f"prometheus is not ready (exit status {process.poll()}):\n{tail}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
