"""Several registries on one SQLite file, from many threads and processes at once."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from loradock_adapters.registry import Catalogue, Registration, Registry, VersionFacts

THREADS, EACH = 8, 12


def facts(number: int) -> VersionFacts:
    return VersionFacts(f"{number:064x}", 1, 8, ("q_proj",), "b" * 64, "upload")


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


def test_two_registries_on_one_file_never_give_a_version_number_twice(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/registry.db"
    registries = [Registry.open(url), Registry.open(url)]
    made: list[Registration] = []

    def register(index: int) -> None:
        for number in range(EACH):
            made.append(registries[index % 2].register("bot", facts(index * EACH + number), created_by="me"))

    at_once(THREADS, register)
    assert sorted(one.ref.version for one in made) == list(range(1, THREADS * EACH + 1))
    for registry in registries:
        catalogue = registry.catalogue()
        assert catalogue.revision == THREADS * EACH
        assert len(catalogue.adapters["bot"].versions) == THREADS * EACH
        by_digest = {one.digest: one.ref for one in made}
        assert {v.digest: v.ref for v in catalogue.adapters["bot"].versions.values()} == by_digest
        registry.close()


def test_the_same_bytes_registered_at_once_become_one_version(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/registry.db"
    registries = [Registry.open(url), Registry.open(url)]
    made: list[Registration] = []
    at_once(THREADS, lambda index: made.append(registries[index % 2].register("bot", facts(1), created_by="me")))
    assert sorted(one.created for one in made) == [False] * (THREADS - 1) + [True]
    assert {one.ref.version for one in made} == {1}
    assert registries[0].revision() == 1
    for registry in registries:
        registry.close()


def test_a_catalogue_taken_while_others_write_is_consistent_in_itself(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/registry.db"
    writer, reader = Registry.open(url), Registry.open(url)
    done = threading.Event()
    seen: list[Catalogue] = []

    def work(index: int) -> None:
        if index == 0:
            for number in range(60):
                writer.register("bot", facts(number), created_by="me")
                if number % 20 == 19:
                    writer.delete_adapter("bot")
            done.set()
        else:
            while not done.is_set():
                seen.append(reader.catalogue())

    at_once(2, work)
    assert [one.revision for one in seen] == sorted(one.revision for one in seen)
    assert len({one.revision for one in seen}) > 2, "reader and writer were meant to overlap"
    for catalogue in seen:
        # Each register adds 1 to the revision, each delete too: what must be there follows from the revision.
        within = catalogue.revision % 21
        assert ("bot" in catalogue.adapters) == (within > 0)
        if within:
            newest = catalogue.resolve("bot").ref.version
            assert set(catalogue.adapters["bot"].versions) == set(range(newest - within + 1, newest + 1))
    writer.close()
    reader.close()


OPEN = """
import sys
from loradock_adapters.registry import Registry
print("ready", flush=True)
sys.stdin.readline()
print(*[Registry.open(url).revision() for url in sys.argv[1:]])
"""


def test_processes_that_start_together_on_new_files_all_get_in(tmp_path: Path) -> None:
    urls = [f"sqlite:///{tmp_path}/{number}.db" for number in range(6)]
    command = [sys.executable, "-c", OPEN, *urls]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
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
        (0, "0 0 0 0 0 0\n")
    ] * 4, ended


def test_threads_may_open_different_new_files_at_once(tmp_path: Path) -> None:
    at_once(6, lambda index: Registry.open(f"sqlite:///{tmp_path}/{index}.db").close())


def test_one_admin_key_is_made_however_many_start_at_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/registry.db"
    registries = [Registry.open(url), Registry.open(url)]
    made: list[str | None] = []
    at_once(THREADS, lambda index: made.append(registries[index % 2].keys.ensure_admin()))
    assert sum(secret is not None for secret in made) == 1
    assert len(registries[0].keys.list()) == 1
    for registry in registries:
        registry.close()
