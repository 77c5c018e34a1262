"""A real engine whose kernels are broken on purpose must not come up (LONG_TESTS=1; it costs a start of the engine)."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from loradock_adapters.base_model import BaseModel
from tests.e2e.server import LORADOCK, START_SECONDS, Server

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not os.environ.get("LONG_TESTS"), reason="the long form only; set LONG_TESTS=1"),
]

# vLLM's own fault (map: H1), put back into our kernels: index -1, the last slot, for the rows of the base.
BREAK = """
from loradock_server.engine.kernels import segments

def find_segments(rows, slots, sound=segments.find_segments):
    last = slots[-1]
    return sound([row or last or 0 for row in rows], slots) if any(rows) else []

segments.find_segments = find_segments
"""


def test_an_engine_that_answers_the_base_by_an_adapter_is_never_ready(base: BaseModel, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(BREAK)  # Python runs it at the start of every process
    home = tmp_path / "home"
    env = {name: value for name, value in os.environ.items() if not name.startswith("LORADOCK_")}
    env |= {"LORADOCK_HOME": str(home), "LORADOCK_PORT": "0", "LORADOCK_MODEL": str(base.folder)}
    output = tmp_path / "printed.log"
    with output.open("wb") as sink:
        process = subprocess.Popen(
            [LORADOCK, "serve"], env=env | {"PYTHONPATH": str(tmp_path)}, stdout=sink, stderr=subprocess.STDOUT
        )
    server = Server(home, process, output, env)
    try:
        deadline = time.monotonic() + START_SECONDS
        while process.poll() is None:
            assert time.monotonic() < deadline, server.engine_log()[-4000:]
            if not server.url:
                server._find()
            assert not (server.url and server.ready())
            time.sleep(0.1)
        assert process.returncode == 1
        assert "self-test failed, the engine will not serve" in server.engine_log()
        *_, cause, _ = server.printed().splitlines()
        assert cause.startswith("error: the engine cannot start: the engine's self-test failed")
        assert "base requests would be answered by adapters" in cause
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
