"""Processes whose leader is killed, with small programs in the place of vLLM's core and worker."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

# The leader starts a core, the core starts a worker, both as vLLM does; each says so and does nothing any more.
PROGRAM = """
import multiprocessing, os, pathlib, sys, time
from loradock_server.engine import orphans

def say(role):
    path = pathlib.Path(sys.argv[1], role)
    path.with_suffix(".new").write_text(str(os.getpid()))
    path.with_suffix(".new").rename(path)

def start(role):
    multiprocessing.get_context("spawn").Process(target=run, args=(role,)).start()

def run(role):
    if sys.argv[2] == "late":
        say("waiting")
        wait_for_the_end_of_the_parent()
    orphans.end_with_parent()
    if role == "core" and sys.argv[2] == "led":
        start("worker")
    say(role)
    if sys.argv[2] == "not led":
        wait_for_the_end_of_the_parent()
        say("alone")
    time.sleep(600)

def wait_for_the_end_of_the_parent():
    parent = multiprocessing.parent_process().pid
    while os.getppid() == parent:
        time.sleep(0.02)

if __name__ == "__main__":
    if sys.argv[2] != "not led":
        orphans.lead()
    start("core")
    time.sleep(600)
"""


class Family:
    """The program in a process group of its own."""

    def __init__(self, folder: Path, way: str) -> None:
        self._folder = folder
        program = folder / "program.py"
        program.write_text(PROGRAM)
        self.leader = subprocess.Popen([sys.executable, program, folder, way], start_new_session=True)

    def pid(self, role: str) -> int:
        """Of the process that says it is this, once it does."""
        path = self._folder / role
        deadline = time.monotonic() + 60
        while not path.exists():
            assert time.monotonic() < deadline, f"nobody is {role}"
            time.sleep(0.02)
        return int(path.read_text())

    def end_leader(self) -> None:
        self.leader.kill()
        self.leader.wait()

    def end(self) -> None:
        os.killpg(self.leader.pid, signal.SIGKILL)
        self.leader.wait()


@pytest.fixture
def family(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Family]:
    family = Family(tmp_path, request.param)
    try:
        yield family
    finally:
        with contextlib.suppress(ProcessLookupError):  # as it should be
            family.end()


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 60
    while _lives(pid):
        assert time.monotonic() < deadline, f"{pid} lives on"
        time.sleep(0.02)


def _lives(pid: int) -> bool:
    try:
        # A zombie has ended; who inherits orphans here collects them in its own time.
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):  # the latter between opening and reading
        return False


@pytest.mark.parametrize("family", ["led"], indirect=True)
def test_core_and_worker_of_a_killed_engine_end_even_when_they_hang(family: Family) -> None:
    core, worker = family.pid("core"), family.pid("worker")
    os.kill(core, signal.SIGSTOP)
    family.end_leader()
    wait_until_gone(core)
    wait_until_gone(worker)


@pytest.mark.parametrize("family", ["late"], indirect=True)
def test_a_core_that_is_born_after_the_death_of_its_engine_ends_too(family: Family) -> None:
    core = family.pid("waiting")
    family.end_leader()
    wait_until_gone(core)


@pytest.mark.parametrize("family", ["not led"], indirect=True)
def test_a_process_outside_of_an_engine_outlives_its_parent(family: Family) -> None:
    core = family.pid("core")
    family.end_leader()
    assert family.pid("alone") == core
