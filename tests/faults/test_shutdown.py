"""SIGTERM to the gateway's process under load: no new work, what runs is finished, what was used is in the ledger."""

from __future__ import annotations

import json
import signal
import socket
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from loradock_adapters.base_model import BaseModel
from tests.faults.test_clients import connected
from tests.faults.test_engine_process import tokens
from tests.faults.world import Engine, eventually, running_gateway

DRAIN_SECONDS = 150
SPARE_SECONDS = 60


def test_sigterm_takes_no_new_work_finishes_what_runs_and_writes_the_ledger(
    base: BaseModel, own_engine: Engine, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    with running_gateway(home, base, own_engine, drain_timeout=DRAIN_SECONDS) as gateway, gateway.http() as http:
        answers: list[httpx.Response] = []

        def ask(stream: bool) -> None:
            body = {"model": "tiny", "prompt": "waits_for_the_word", "stream": stream}
            answers.append(http.post("/v1/completions", json=body))

        running = [threading.Thread(target=ask, args=(stream,)) for stream in (True, False)]
        for thread in running:
            thread.start()
        eventually(lambda: gateway.held()["in_flight"] == 2)
        with connected(gateway) as idle:  # a client that keeps a connection and asks nothing holds nobody up
            record = {"seq": 5000, "request_id": "r", "adapter": None, "input_tokens": 11, "output_tokens": 2}
            gateway.process.send_signal(signal.SIGTERM)
            told = time.monotonic()
            eventually(lambda: not gateway.ready())
            refused = http.post("/v1/completions", json={"model": "tiny", "prompt": "good"})
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
            assert refused.headers["retry-after"]
            assert not answers
            own_engine.order(publish=json.dumps(record))
            eventually(lambda: tokens(http) >= 11)
            own_engine.order(word="")
            for thread in running:
                thread.join(SPARE_SECONDS)
            assert gateway.process.wait(SPARE_SECONDS) == 0
            assert idle.recv(100) == b""
        assert time.monotonic() - told < DRAIN_SECONDS
    assert [answer.status_code for answer in answers] == [200, 200]
    assert any(answer.text.endswith("data: [DONE]\n\n") for answer in answers)
    with closing(sqlite3.connect(home / "registry.db")) as registry:
        assert registry.execute("SELECT sum(input_tokens) FROM usage").fetchone() == (11,)
    with pytest.raises(OSError, match="refused"), socket.create_connection(gateway.address):
        pass
