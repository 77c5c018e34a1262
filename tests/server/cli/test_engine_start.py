"""What a person reads of an engine's start, with small programs and files in the engine's place."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from loradock_adapters.base_model import BaseModel
from loradock_server.base import ServedBase
from loradock_server.cli.engine_start import EngineFailed, order_that_fits, supervised
from loradock_server.cli.output import Output
from loradock_server.cli.start_progress import follow_start
from loradock_server.engine import memory_need
from loradock_server.engine.launch import LaunchOrder
from loradock_server.engine.machine_memory import MachineMemory
from loradock_server.engine.start_log import LogFile
from loradock_server.engine.supervisor import Supervisor
from loradock_server.settings import load_settings
from tests.adapters.making import write_base
from tests.server.engine.test_supervisor import order as order  # the fixture

MARKS = (
    ("Starting to load model", "loading the weights"),
    ("Loading weights took", "the model"),
    ("self-test begins", "testing itself"),
)
STARTS = Path(__file__).parents[1] / "engine" / "starts"


def test_the_command_ends_with_the_root_in_one_line_and_its_fix(
    order: LaunchOrder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "engine.log"
    program = f"import sys; sys.stdin.readline(); print(open({str(STARTS / 'gpt2.txt')!r}).read()); sys.exit(1)"
    supervisor = Supervisor(order, log=LogFile(log), command=(sys.executable, "-c", program))
    with pytest.raises(EngineFailed) as raised:
        asyncio.run(asyncio.wait_for(supervised(supervisor, asyncio.Event(), log), 60))
    assert raised.value.exit_code == 1
    Output(as_json=False).error(raised.value)
    cause, fix = capsys.readouterr().err.splitlines()
    assert cause == (
        "error: the engine cannot start: this model takes no adapters in vLLM: "
        "GPT2LMHeadModel does not support LoRA yet."
    )
    assert fix.startswith("fix: serve a model of a class that takes LoRA in vLLM")
    assert fix.endswith("engine.log)")


def test_what_cannot_fit_is_said_before_a_process_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = ServedBase(BaseModel.read(write_base(tmp_path)), "tiny")
    monkeypatch.setattr(memory_need, "on_cpu", lambda: True)
    memory = MachineMemory(1_000_000_000, "the container's limit of 1.0 GB")
    monkeypatch.setattr(MachineMemory, "here", classmethod(lambda cls: memory))
    with pytest.raises(EngineFailed, match=r"not enough memory: .*container's limit of 1.0 GB leaves 1.00 GB"):
        order_that_fits(load_settings(home=tmp_path), base, "t", lambda line: None)
    monkeypatch.setattr(memory_need, "on_cpu", lambda: False)
    order_that_fits(load_settings(home=tmp_path), base, "t", lambda line: None)


def test_phases_are_told_as_they_begin_and_remembered_for_the_next_start(order: LaunchOrder, tmp_path: Path) -> None:
    order = replace(order, cache_root=str(tmp_path / "cache"))

    async def start() -> list[str]:
        path, said = tmp_path / "engine.log", asyncio.Queue[str]()
        log = LogFile(path)
        following = asyncio.create_task(follow_start(order, log, said.put_nowait))
        lines: list[str] = []
        with log.begin() as output:
            for words, phase in MARKS:
                output.write(f"(Worker pid=2) INFO {words}\n".encode())
                output.flush()
                while phase not in " ".join(lines):
                    lines.append(await said.get())
            output.write(b"INFO loradock.engine: serving on unix:/e\n")
        await following
        return lines

    first = asyncio.run(asyncio.wait_for(start(), 60))
    assert any("compiling the model for this processor, once" in line for line in first)
    assert not any("last start" in line for line in first)
    second = asyncio.run(asyncio.wait_for(start(), 60))
    assert "all of the last start took" in second[0]
    assert not any("compiling" in line for line in second[1:])
    assert "testing itself (0 s at the last start)" in second[-1]
