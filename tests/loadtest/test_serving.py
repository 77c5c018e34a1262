"""The comparison of ways to serve: processes for as many adapters as fit, and the table of what was measured."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiohttp import web

from loadtest.gateway.servers import BenchError
from loadtest.serving import __main__ as program
from loadtest.serving import llama_cpp, measure, ways
from loadtest.serving.fleet import Endpoint, Fleet

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
        if way == "loradock":  # rows of before 2026-12-01 lack these
            found |= {"alone": 41.2, "start_seconds": 31.4}
        program.keep(
            path, way, adapters, found | {"tokens_per_second": 100.4, "when": "2026-11-26 17:00", "machine": machine}
        )
    monkeypatch.setattr(sys, "argv", ["loadtest.serving", "--table", "--out", str(path)])

    assert program.main() == 0

    *lines, _, last = capsys.readouterr().out.splitlines()[2:]
    assert last == "On 2 cores of a processor, 25 GB, Python 3.11.7. Times are UTC."
    assert [line.split(" | ")[1:6] for line in lines] == [
        ["4", "4", "4", "6.00 GB", "–"],
        ["16", "**9**", "9", "13.50 GB", "–"],
        ["16", "16", "16", "24.00 GB", "31 s"],
    ]
    assert [line.split(" | ")[6:8] for line in lines] == [["100", "–"], ["100", "–"], ["100", "41"]]
    assert len(json.loads(path.read_text())) == 3


async def a_server(answers: list[dict[str, Any]]) -> tuple[web.AppRunner, str]:
    async def complete(request: web.Request) -> web.Response:
        answers.append(await request.json())
        return web.json_response({"usage": {"completion_tokens": answers[-1]["max_tokens"]}})

    app = web.Application()
    app.add_routes([web.post("/v1/completions", complete)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    return runner, site.name


async def ask_all(endpoints: Callable[[str], tuple[Endpoint, ...]]) -> tuple[list[dict[str, Any]], tuple[float, ...]]:
    answers: list[dict[str, Any]] = []
    runner, url = await a_server(answers)
    try:
        return answers, await measure._speeds(endpoints(url), rounds=1)
    finally:
        await runner.cleanup()


def test_where_a_name_chooses_no_adapter_the_request_does_and_one_client_is_measured_too() -> None:
    answers, speeds = asyncio.run(
        ask_all(lambda url: tuple(Endpoint(url, f"a{n}", body=llama_cpp.lora(n)) for n in range(3)))
    )
    assert len(speeds) == 2
    assert len(answers) == 16 + sum(measure.CLIENTS.values())
    for answer in answers:
        assert answer["lora"] == [{"id": int(answer["model"][1:]), "scale": 1.0}]
    assert len({tuple(answer["prompt"]) for answer in answers}) == len(answers)


def test_llama_cpp_is_built_once_and_what_it_lacks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda tool: None if tool == "ninja" else f"/usr/bin/{tool}")
    with pytest.raises(BenchError, match="needs ninja: install cmake, ninja-build and g"):
        llama_cpp.installed(tmp_path)
    programs = tmp_path / "build/bin"
    programs.mkdir(parents=True)
    for name in ("llama-server", "llama-quantize"):
        (programs / name).touch()
    assert llama_cpp.installed(tmp_path).program("llama-server") == programs / "llama-server"


def test_a_conversion_that_fails_leaves_no_half_of_a_model_behind(tmp_path: Path) -> None:
    halved = [sys.executable, "-c", "import sys; open(sys.argv[1], 'w').write('x'); sys.exit('no room')"]
    with pytest.raises(BenchError, match="no room"):
        llama_cpp._made(halved, tmp_path / "base.gguf")
    assert not (tmp_path / "base.gguf").exists()
