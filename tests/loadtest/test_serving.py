"""The comparison of ways to serve: processes for as many adapters as fit, and the table of what was measured."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import psutil
import pytest

from loadtest.serving import __main__ as program
from loadtest.serving import ways
from loadtest.serving.ways import Endpoint, Fleet

# A server that answers /health, as the ways' own do; what it serves does not matter here.
HEALTHY = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_):
        pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def start(folder: Path, port: int, work: Path) -> list[str]:
    return [sys.executable, "-c", HEALTHY, str(port)]


def test_processes_are_started_only_as_long_as_there_is_memory_for_one_more(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    rooms = iter((True, True, False))
    monkeypatch.setattr(ways, "is_room", lambda largest: next(rooms))
    adapters = [(f"adapter-{number}", Path(f"adapter-{number}")) for number in range(4)]

    with ways.one_each(adapters, start, None, said.append) as fleet:
        assert [endpoint.model for endpoint in fleet.endpoints] == ["adapter-0", "adapter-1"]
        assert fleet.processes() == 2
        running = [psutil.Process(pid) for pid in fleet.roots]
        assert fleet.memory() == pytest.approx(sum(one.memory_full_info().pss for one in running), rel=0.2)

    assert "no memory for more than 2 processes" in said
    assert not any(one.is_running() for one in running)


def test_the_memory_of_a_fleet_is_that_of_all_processes_below_it() -> None:
    mine = Fleet((Endpoint("http://127.0.0.1:1", "m"),), (os.getpid(),))
    assert mine.memory() >= psutil.Process().memory_full_info().pss * 0.8


def test_results_are_kept_beside_those_of_earlier_runs_and_what_did_not_fit_stands_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "measured.json"
    machine = {"processor": "a processor", "cores": 2, "memory": 24.6e9, "python": "3.11.7"}
    for way, adapters, served in (("merged", 16, 9), ("merged", 4, 4), ("loradock", 16, 16)):
        found = {"way": way, "adapters": adapters, "served": served, "processes": served, "memory": 1.5e9 * served}
        program.keep(
            path, way, adapters, found | {"tokens_per_second": 100.4, "when": "2026-11-26 17:00", "machine": machine}
        )
    monkeypatch.setattr(sys, "argv", ["loadtest.serving", "--table", "--out", str(path)])

    assert program.main() == 0

    *lines, _, last = capsys.readouterr().out.splitlines()[2:]
    assert last == "On 2 cores of a processor, 25 GB, Python 3.11.7. Times are UTC."
    assert [line.split(" | ")[1:6] for line in lines] == [
        ["4", "4", "4", "6.00 GB", "100"],
        ["16", "**9**", "9", "13.50 GB", "100"],
        ["16", "16", "16", "24.00 GB", "100"],
    ]
    assert len(json.loads(path.read_text())) == 3
