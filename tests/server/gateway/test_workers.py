"""Several gateway processes on one port, as `--workers` starts them, with the scripted engine behind them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from loradock_adapters.base_model import BaseModel
from loradock_server.base import ServedBase
from loradock_server.cli.worker import COMMAND
from loradock_server.gateway.server import Started, listening
from loradock_server.gateway.workers import WorkerFailed, run_workers
from loradock_server.settings import load_settings
from tests.adapters.making import write_base
from tests.fakes.engine import FakeEngine, Reply, running_engine
from tests.fakes.loop import LoopThread

TOKEN, KEY = "between-the-two", "ld-test-admin-key-0123456789"
BODY = {"model": "tiny", "prompt": "x"}
PATIENCE_SECONDS = 120.0


@dataclass(slots=True)
class Workers:
    url: str
    engine: FakeEngine
    stop: Any
    ended: Any
    others: frozenset[int]

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        """On a connection of its own, so that any worker may answer."""
        headers = {"authorization": f"Bearer {KEY}"}
        return httpx.request(
            method, self.url + path, headers=headers, timeout=PATIENCE_SECONDS, trust_env=False, **more
        )

    def pids(self) -> list[int]:
        """In the order in which they were started."""
        return [pid for pid in _worker_pids() if pid not in self.others]

    def metric(self, name: str, **labels: str) -> float:
        page = self.ask("GET", "/metrics").text
        return sum(
            sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


def _worker_pids() -> list[int]:
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            if "loradock_server.cli.worker" in child.cmdline():
                found.append(child.pid)
    return found


def eventually(holds: Any) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.05)


@contextmanager
def running(folder: Path, workers: int = 2, **flags: Any) -> Iterator[Workers]:
    base, others = BaseModel.read(write_base(folder)), frozenset(_worker_pids())
    with ExitStack() as held:
        path = Path(held.enter_context(TemporaryDirectory(prefix="ld-"))) / "engine.sock"
        home = {"home": folder / "home", "model": str(base.folder), "engine_url": f"unix:{path}"}
        settings = load_settings(**{**home, "port": 0, "admin_key": KEY, "workers": workers, **flags})
        engine = held.enter_context(running_engine(path, token=TOKEN, base={"name": base.name, "digest": base.digest}))
        thread = held.enter_context(LoopThread())
        stop = thread.call(asyncio.Event)
        started: list[Started] = []
        running = run_workers(
            settings,
            base=ServedBase(base, base.name),
            engine_token=TOKEN,
            stop=stop,
            command=COMMAND,
            on_started=started.append,
        )
        serving = asyncio.run_coroutine_threadsafe(running, thread.loop)
        held.callback(lambda: serving.result(PATIENCE_SECONDS))
        held.callback(lambda: thread.call(stop.set))
        eventually(lambda: started or serving.done())
        if serving.done():
            serving.result()
        found = Workers(started[0].url, engine, lambda: thread.call(stop.set), serving.result, others)
        for _ in range(20):
            eventually(lambda: found.ask("GET", "/readyz").status_code == 200)
        yield found


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    with running(tmp_path_factory.mktemp("workers")) as found:
        yield found


def test_whichever_worker_is_asked_the_metrics_are_those_of_all(workers: Workers) -> None:
    before = workers.metric("loradock_requests_total")
    for _ in range(20):
        assert workers.ask("POST", "/v1/completions", json=BODY).status_code == 200
    eventually(lambda: workers.metric("loradock_tokens_total", type="output") >= 40)
    # Each counts an answer when it has left, and a page is another one's.
    eventually(lambda: workers.metric("loradock_request_duration_seconds_count") - before >= 20)
    pages = {workers.metric("loradock_requests_total") - before for _ in range(12)}
    assert pages == {20.0}
    eventually(lambda: {workers.metric("loradock_engine_up") for _ in range(6)} == {1.0})
    assert workers.metric("loradock_request_duration_seconds_count") - before == 20.0


def test_both_workers_take_connections_and_each_has_a_usage_feed_of_its_own(workers: Workers) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: workers.ask("POST", "/v1/completions", json=BODY), range(40)))
    gateways = {seen.headers["x-loradock-gateway"] for seen in workers.engine.history}
    assert len(gateways) == 2


def test_a_key_is_good_and_then_revoked_at_every_worker(workers: Workers) -> None:
    made = workers.ask("POST", "/admin/keys", json={"name": "app"}).json()

    def asked(count: int) -> set[int]:
        headers = {"authorization": f"Bearer {made['secret']}"}
        url = f"{workers.url}/v1/models"
        # Each on a connection of its own; a dozen do not all come to one of two workers.
        return {
            httpx.get(url, headers=headers, timeout=PATIENCE_SECONDS, trust_env=False).status_code for _ in range(count)
        }

    assert asked(12) == {200}, "also where it was not made, and at once"
    assert workers.ask("DELETE", f"/admin/keys/{made['id']}").status_code == 200
    eventually(lambda: asked(12) == {401})


def test_a_worker_that_is_killed_is_replaced_and_what_it_was_answering_is_not_in_flight_any_more(
    workers: Workers,
) -> None:
    gate = workers.engine.gate()
    workers.engine.enqueue(Reply(gate=gate))
    counted = workers.metric("loradock_requests_total")
    asked: list[httpx.Response | httpx.TransportError] = []

    def ask() -> None:
        try:
            asked.append(workers.ask("POST", "/v1/completions", json=BODY))
        except httpx.TransportError as error:
            asked.append(error)

    client = threading.Thread(target=ask)
    client.start()
    workers.engine.wait_for(gate)
    eventually(lambda: workers.metric("loradock_requests_in_flight") == 1)
    before = workers.pids()
    for pid in before:  # one of them answers it
        os.kill(pid, signal.SIGKILL)
    client.join(PATIENCE_SECONDS)
    gate.open()
    assert isinstance(asked[0], httpx.TransportError)
    eventually(lambda: len(workers.pids()) == 2 and not set(workers.pids()) & set(before))
    # Connections made meanwhile waited for the new ones.
    assert workers.ask("POST", "/v1/completions", json=BODY).status_code == 200
    eventually(lambda: workers.metric("loradock_requests_in_flight") == 0)
    assert workers.metric("loradock_requests_total") >= counted  # what the dead counted stays


def test_workers_that_are_killed_leave_a_ledger_that_has_what_the_engine_counted(workers: Workers) -> None:
    for _ in range(6):
        assert workers.ask("POST", "/v1/completions", json=BODY).status_code == 200
    before = workers.pids()
    for pid in before:  # sooner than they write
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: len(workers.pids()) == 2 and not set(workers.pids()) & set(before))

    def is_whole() -> bool:
        used = workers.ask("GET", "/admin/usage?group_by=").json()["total"]
        published = workers.engine.published
        tokens = sum(record["output_tokens"] for record in published)
        return bool((used["requests"], used["output_tokens"]) == (len(published), tokens))

    eventually(is_whole)
    time.sleep(1.2)  # whatever comes twice would come now
    assert is_whole()


def test_an_end_lets_every_worker_finish_what_it_answers(tmp_path: Path) -> None:
    with running(tmp_path) as workers:
        gate = workers.engine.gate()
        workers.engine.enqueue(Reply(gate=gate))
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(workers.ask, "POST", "/v1/completions", json=BODY)
            workers.engine.wait_for(gate)
            workers.stop()
            eventually(lambda: _is_leaving(workers))
            gate.open()
            assert answer.result(PATIENCE_SECONDS).status_code == 200
        workers.ended(PATIENCE_SECONDS)
        assert workers.pids() == []


def _is_leaving(workers: Workers) -> bool:
    try:
        return len(workers.pids()) == 1 or workers.ask("GET", "/readyz").status_code == 503
    except httpx.TransportError:  # it waited for the one that was idle, and has left
        return False


def test_a_port_that_somebody_has_is_an_error_even_if_he_would_share_it(tmp_path: Path) -> None:
    with (
        listening("127.0.0.1", 0, shared=True) as taken,
        pytest.raises(OSError, match="in use"),
        running(tmp_path, port=taken.getsockname()[1]),
    ):
        pass


def test_a_worker_that_cannot_start_ends_the_start(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    with pytest.raises(WorkerFailed, match="before it answered"), running(tmp_path, engine_url="ftp://nowhere"):
        pass


def test_workers_keep_a_limit_together(tmp_path: Path) -> None:
    limit = 10
    with running(tmp_path, base_requests_per_minute=limit) as workers:
        let_in, refused, begun = 0, 0, time.monotonic()
        # Slowly, so that they hear of each other; each by itself would let in ten.
        while refused < 4:
            time.sleep(0.3)
            status = workers.ask("POST", "/v1/completions", json=BODY).status_code
            let_in, refused = (let_in + 1, 0) if status == 200 else (let_in, refused + 1)
        drained = (time.monotonic() - begun) * limit / 60
        assert limit <= let_in <= limit + drained + 6
        eventually(lambda: workers.metric("loradock_rate_limited_total", limit="adapter_requests_per_minute") >= 4)


def test_workers_leave_when_the_process_that_started_them_is_killed(tmp_path: Path) -> None:
    base = write_base(tmp_path)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LORADOCK_")}
    environment |= {
        "LORADOCK_HOME": str(tmp_path / "home"),
        "LORADOCK_MODEL": str(base),
        "LORADOCK_ENGINE_URL": "http://127.0.0.1:9",
        "LORADOCK_ENGINE_TOKEN": TOKEN,
    }
    program = [sys.executable, "-c", "from loradock_server.cli.main import app; app()"]
    with (tmp_path / "log").open("wb") as log:
        parent = subprocess.Popen(
            [*program, "gateway", "--workers", "2", "--port", "0"], env=environment, stdout=log, stderr=log
        )
    try:
        eventually(lambda: any(_is_healthy(f"http://127.0.0.1:{port}") for port in _ports_of(parent.pid)))
        eventually(lambda: len(psutil.Process(parent.pid).children()) == 2)
        children = psutil.Process(parent.pid).children()
    finally:
        parent.kill()
        parent.wait()
    gone, left = psutil.wait_procs(children, PATIENCE_SECONDS)
    assert (len(gone), left) == (2, [])


def _is_healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz", trust_env=False).is_success
    except httpx.TransportError:
        return False


def _ports_of(pid: int) -> set[int]:
    """On which the process listens; whoever picked a free one for it might find it taken."""
    lines = psutil.Process(pid).net_connections("tcp")
    return {line.laddr.port for line in lines if line.status == psutil.CONN_LISTEN}
