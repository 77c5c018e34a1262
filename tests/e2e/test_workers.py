"""`loradock serve --workers 2` on the real engine: whichever worker is asked, the server is one.

Only with LONG_TESTS=1, for its start of an engine; `tests/server/gateway/test_workers.py` has workers with a fake one.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import httpx
import psutil
import pytest

from loradock_adapters.base_model import BaseModel
from tests.e2e.server import EXAMPLES, Server, run_server
from tests.e2e.waiting import eventually, until_ended

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(not os.environ.get("LONG_TESTS"), reason="LONG_TESTS=1 runs it")]

ADAPTER = "home-commands"


class Worker:
    """A connection that stays with one of the workers, and which."""

    def __init__(self, server: Server, key: str) -> None:
        self.http = httpx.Client(
            base_url=server.url, headers={"authorization": f"Bearer {key}"}, trust_env=False, timeout=120
        )
        answer = self.http.get("/v1/models")
        assert answer.status_code == 200, answer.text
        mine = answer.extensions["network_stream"].get_extra_info("client_addr")[1]
        self.pid = next(
            pid
            for pid in worker_pids(server)
            if any(line.raddr and line.raddr.port == mine for line in psutil.Process(pid).net_connections("tcp"))
        )

    def complete(self, model: str = ADAPTER, tokens: int = 4) -> httpx.Response:
        return self.http.post("/v1/completions", json=body(model, tokens))


def body(model: str, tokens: int, **more: Any) -> dict[str, Any]:
    return {"model": model, "prompt": "turn on the light", "max_tokens": tokens, "ignore_eos": True, **more}


def worker_pids(server: Server) -> set[int]:
    found = set()
    for child in psutil.Process(server.process.pid).children():
        with suppress(psutil.NoSuchProcess):
            if "loradock_server.cli.worker" in child.cmdline():
                found.add(child.pid)
    return found


def one_of_each(stack: ExitStack, server: Server, key: str) -> tuple[Worker, Worker]:
    """The kernel chooses whom a connection comes to; connect until both were."""
    found: dict[int, Worker] = {}
    deadline = time.monotonic() + 60
    while len(found) < 2:
        assert time.monotonic() < deadline, "all connections come to one worker"
        worker = Worker(server, key)
        stack.callback(worker.http.close)
        found.setdefault(worker.pid, worker)
    one, two = found.values()
    return one, two


class Stream(threading.Thread):
    """Read to its end, however that comes."""

    def __init__(self, worker: Worker, tokens: int) -> None:
        super().__init__()
        self.begun = threading.Event()
        self.lines: list[str] = []
        self.failure: httpx.HTTPError | None = None
        self._worker, self._tokens = worker, tokens
        self.start()

    def run(self) -> None:
        try:
            said = body(ADAPTER, self._tokens, stream=True)
            with self._worker.http.stream("POST", "/v1/completions", json=said) as answer:
                for line in answer.iter_lines():
                    self.lines += [line] if line else []
                    self.begun.set()
        except httpx.HTTPError as error:
            self.failure = error
        self.begun.set()

    @property
    def is_whole(self) -> bool:
        self.join(120)
        return not self.failure and self.lines[-1] == "data: [DONE]" and '"finish_reason":"length"' in self.lines[-2]


@pytest.fixture(scope="module")
def workers(base: BaseModel) -> Iterator[Server]:
    with run_server(base.folder, "--workers", "2", "--adapters-from", str(EXAMPLES)) as running:
        eventually(lambda: ADAPTER in running.get("/v1/models").text)
        yield running


@pytest.fixture
def key(workers: Server) -> dict[str, Any]:
    made: dict[str, Any] = workers.loradock("keys", "create", "workers-test", "--scope", "infer", "--scope", "admin")
    return made


@pytest.fixture
def pair(workers: Server, key: dict[str, Any]) -> Iterator[tuple[Worker, Worker]]:
    with ExitStack() as stack:
        yield one_of_each(stack, workers, key["secret"])


def used(worker: Worker, key: dict[str, Any]) -> tuple[int, int]:
    total = worker.http.get(f"/admin/usage?key={key['id']}&group_by=").json()["total"]
    return total["requests"], total["output_tokens"]


def test_both_answer_and_count_together(workers: Server, key: dict[str, Any], pair: tuple[Worker, Worker]) -> None:
    one, two = pair
    name = "loradock_requests_total"
    counted = workers.metric(name, adapter=ADAPTER)
    for _ in range(3):
        for worker in pair:
            answer = worker.complete()
            assert answer.status_code == 200, answer.text
            assert answer.json()["model"] == f"{ADAPTER}@1"
    chat = {"model": ADAPTER, "messages": [{"role": "user", "content": "open the window"}], "max_tokens": 4}
    assert one.http.post("/v1/chat/completions", json=chat).status_code == 200
    # Each page is the sum of both, whoever answers it.
    assert {workers.metric(name, adapter=ADAPTER) - counted for _ in range(8)} == {7.0}
    for worker in pair:
        eventually(lambda worker=worker: used(worker, key)[0] == 7)  # type: ignore[misc]
    assert used(one, key) == used(two, key)
    assert used(one, key)[1] >= 6 * 4


def test_what_is_registered_at_one_is_served_by_the_other(workers: Server, pair: tuple[Worker, Worker]) -> None:
    one, two = pair
    folder = EXAMPLES / "mail-triage" / "adapter"
    files = [("file", (path.name, path.read_bytes())) for path in folder.iterdir()]
    done = one.http.post("/admin/adapters/second/versions", files=files)
    assert done.status_code in (200, 201), done.text
    eventually(lambda: two.complete("second").status_code == 200)
    assert two.complete("second").json()["model"] == "second@1"
    assert two.http.delete("/admin/adapters/second?force=true").is_success
    eventually(lambda: one.complete("second").status_code == 404)


def test_they_keep_a_limit_together(workers: Server, pair: tuple[Worker, Worker]) -> None:
    limit = 8
    made = workers.loradock("keys", "create", "limited", "--requests-per-minute", str(limit))
    with ExitStack() as stack:
        one, two = one_of_each(stack, workers, made["secret"])
        begun = time.monotonic()
        let_in = 0
        while one.complete(tokens=1).status_code == 200:
            let_in += 1
        drained = (time.monotonic() - begun) * limit / 60
        assert limit <= let_in <= limit + drained + 1
        # The other one, which let in nobody, hears of it.
        eventually(lambda: two.complete(tokens=1).status_code == 429)


def test_a_worker_is_killed_while_the_other_streams(
    workers: Server, key: dict[str, Any], pair: tuple[Worker, Worker]
) -> None:
    one, two = pair
    before = used(two, key)
    lost, kept = Stream(one, 200), Stream(two, 200)
    assert lost.begun.wait(60)
    assert kept.begun.wait(60)
    os.kill(one.pid, signal.SIGKILL)
    assert kept.is_whole, (kept.failure, kept.lines[-3:])
    assert not lost.is_whole
    eventually(lambda: len(worker_pids(workers)) == 2 and one.pid not in worker_pids(workers))
    with ExitStack() as stack:
        for worker in one_of_each(stack, workers, key["secret"]):
            assert worker.complete().status_code == 200
    eventually(lambda: workers.metric("loradock_requests_in_flight") == 0)
    # The stream that died with its worker was computed in part, and its place taken by the new one counts it.
    eventually(lambda: used(two, key)[0] == before[0] + 4)
    assert before[1] + 200 + 2 * 4 <= used(two, key)[1] <= before[1] + 400 + 2 * 4
    assert workers.metric("loradock_engine_restarts_total") == 0


def test_ctrl_c_lets_both_finish_and_leaves_nothing(
    workers: Server, key: dict[str, Any], pair: tuple[Worker, Worker]
) -> None:
    """The last one of this file: the server is gone afterwards."""
    everyone = psutil.Process(workers.process.pid).children(recursive=True)
    streams = [Stream(worker, 150) for worker in pair]
    for stream in streams:
        assert stream.begun.wait(60)
    workers.process.send_signal(signal.SIGINT)
    for stream in streams:
        assert stream.is_whole, (stream.failure, stream.lines[-3:])
    assert workers.process.wait(60) == 0, workers.printed()[-2000:]
    until_ended(everyone)
    assert "stopped" in workers.printed()
