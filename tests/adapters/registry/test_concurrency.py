"""Several registries on one database, from many threads and processes at once."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from loradock_adapters.registry import Catalogue, Registry, Staged
from tests.adapters.registry.making import ME, facts, register
from tests.postgres import Postgres

THREADS, EACH = 8, 12


def at_once(count: int, work: Callable[[int], None]) -> None:
    start, failures = threading.Barrier(count), list[BaseException]()

    def run(index: int) -> None:
        try:
            start.wait(timeout=30)
            work(index)
        except BaseException as error:  # noqa: BLE001 a thread's failure must reach the test
            failures.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures


def test_two_registries_on_one_database_never_give_a_version_number_twice(url: str) -> None:
    registries = [Registry.open(url), Registry.open(url)]
    made: list[Staged] = []

    def register_some(index: int) -> None:
        for number in range(EACH):
            made.append(register(registries[index % 2], "bot", index * EACH + number))

    at_once(THREADS, register_some)
    assert sorted(one.ref.version for one in made) == list(range(1, THREADS * EACH + 1))
    for registry in registries:
        catalogue = registry.catalogue()
        assert catalogue.revision == 3 * THREADS * EACH, "each is staged, verified and made ready"
        assert len(catalogue.adapters["bot"].versions) == THREADS * EACH
        assert {v.digest for v in catalogue.adapters["bot"].versions.values()} == {
            facts(number).digest for number in range(THREADS * EACH)
        }
        registry.close()


def test_the_same_bytes_registered_at_once_become_one_version(url: str) -> None:
    registries = [Registry.open(url), Registry.open(url)]
    made: list[Staged] = []
    at_once(THREADS, lambda index: made.append(register(registries[index % 2], "bot", 1)))
    assert sorted(one.created for one in made) == [False] * (THREADS - 1) + [True]
    assert {one.ref.version for one in made} == {1}
    assert registries[0].revision() == 3
    for registry in registries:
        registry.close()


def test_a_catalogue_taken_while_others_write_is_consistent_in_itself(url: str) -> None:
    writer, reader = Registry.open(url), Registry.open(url)
    done = threading.Event()
    seen: list[Catalogue] = []

    def work(index: int) -> None:
        if index == 0:
            try:
                for number in range(60):
                    register(writer, "bot", number)
                    if number % 20 == 19:
                        writer.delete_adapter("bot", by=ME)
            finally:
                done.set()
        else:
            while not done.is_set():
                seen.append(reader.catalogue())

    at_once(2, work)
    assert [one.revision for one in seen] == sorted(one.revision for one in seen)
    assert len({one.revision for one in seen}) > 2, "reader and writer were meant to overlap"
    for catalogue in seen:
        # Each register adds 3 to the revision, each delete 1: what must be there follows from the revision.
        within = catalogue.revision % 61
        assert ("bot" in catalogue.adapters) == (within > 0)
        if within >= 3:
            newest, ready = catalogue.resolve("bot").ref.version, within // 3
            there = range(newest - ready + 1, newest + 1 + (within % 3 > 0))
            assert set(catalogue.adapters["bot"].versions) == set(there)
    writer.close()
    reader.close()


OPEN = """
import sys
from loradock_adapters.registry import Registry
print("ready", flush=True)
sys.stdin.readline()
print(*[Registry.open(url).revision() for url in sys.argv[1:]])
"""


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_processes_that_start_together_on_new_databases_all_get_in(
    kind: str, tmp_path: Path, postgres: Postgres
) -> None:
    urls = [f"sqlite:///{tmp_path}/{number}.db" if kind == "sqlite" else postgres.new_database() for number in range(3)]
    command = [sys.executable, "-c", OPEN, *urls]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    ended = [process.communicate(timeout=120) for process in processes]
    assert [(process.returncode, out) for process, (out, _) in zip(processes, ended, strict=True)] == [
        (0, "0 0 0\n")
    ] * 3, ended


def test_threads_may_open_different_new_files_at_once(tmp_path: Path) -> None:
    at_once(6, lambda index: Registry.open(f"sqlite:///{tmp_path}/{index}.db").close())


def test_one_admin_key_is_made_however_many_start_at_once(url: str) -> None:
    registries = [Registry.open(url), Registry.open(url)]
    made: list[str | None] = []
    at_once(THREADS, lambda index: made.append(registries[index % 2].keys.ensure_admin()))
    assert sum(secret is not None for secret in made) == 1
    assert len(registries[0].keys.list()) == 1
    for registry in registries:
        registry.close()
