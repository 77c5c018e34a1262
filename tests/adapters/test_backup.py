"""Backups taken while others write, and brought back elsewhere: consistent, whole, and refused where they are not."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from loradock_adapters.backup import back_up, read_record, restore
from loradock_adapters.doctor import examine
from loradock_adapters.errors import BackupError, RegistryError
from loradock_adapters.names import AdapterRef
from loradock_adapters.registry import Registry, VersionState
from loradock_adapters.store import FolderStore
from tests.adapters.registry.making import ME
from tests.adapters.test_garbage import collect, put, stage
from tests.postgres import Postgres, postgres_program


@dataclass(slots=True)
class Home:
    """A registry and a store in a folder."""

    folder: Path
    registry: Registry
    store: FolderStore
    made: int = field(default=0)

    @classmethod
    def open(cls, folder: Path) -> Home:
        return cls(folder, Registry.open(f"sqlite:///{folder}/registry.db"), FolderStore(folder / "store"))

    def register(self, name: str) -> str:
        """Bytes that nobody had before become the live version; returns their digest."""
        self.made += 1
        digest = put(self.store, self.folder / "source", f"{name} {self.made}")
        ref = stage(self.registry, name, digest)
        self.registry.versions.verify(ref, by=ME)
        self.registry.versions.make_ready(ref, by=ME)
        return digest

    def corrupt(self, digest: str) -> None:
        file = self.store.path(digest) / "adapter_config.json"
        file.chmod(0o644)
        file.write_text("other bytes")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    (tmp_path / "home").mkdir()
    home = Home.open(tmp_path / "home")
    yield home
    home.registry.close()


def bring_back(source: Path, folder: Path) -> Home:
    restore(source, FolderStore(folder / "store"), folder / "registry.db")
    return Home.open(folder)


def require_sound(home: Home, *, age_seconds: float = 0) -> None:
    assert examine(home.registry, home.store, home.folder / "tmp", age_seconds=age_seconds) == ()
    for adapter in home.registry.catalogue().adapters.values():
        for version in adapter.versions.values():
            if version.state is VersionState.READY:
                home.store.verify(version.digest)


def test_what_was_backed_up_is_there_again_elsewhere(home: Home, tmp_path: Path) -> None:
    digests = [home.register("bot"), home.register("bot"), home.register("poet")]
    secret = home.registry.keys.ensure_admin()
    assert secret is not None
    done = back_up(home.registry, home.store, tmp_path / "out")
    assert (done.adapters, done.versions, done.blobs, done.lost) == (2, 3, 3, ())
    assert read_record(tmp_path / "out") == done
    home.register("bot")

    other = bring_back(tmp_path / "out", tmp_path / "other")
    require_sound(other)
    assert other.store.digests() == tuple(sorted(digests))
    catalogue = other.registry.catalogue()
    assert catalogue.resolve("bot").ref == AdapterRef("bot", 2)
    assert catalogue.adapters["poet"].versions[1].digest == digests[2]
    assert other.registry.keys.ring().find(secret, datetime.now(UTC)) is not None
    assert other.registry.audit.page() == home.registry.audit.page(before_id=other.registry.audit.page()[0].id + 1)
    other.made = home.made
    other.register("bot")
    assert other.registry.catalogue().resolve("bot").ref == AdapterRef("bot", 3)
    assert sorted(path.name for path in (tmp_path / "other").iterdir() if "registry" in path.name)[0] == "registry.db"
    other.registry.close()


def test_backups_under_writes_are_consistent(home: Home, tmp_path: Path) -> None:
    stop, failures = threading.Event(), list[BaseException]()
    for _ in range(3):
        home.register("bot")

    def write() -> None:
        try:
            while not stop.is_set():
                home.register("bot")
                versions = home.registry.catalogue().adapters["bot"].versions
                home.registry.versions.delete(AdapterRef("bot", min(versions)), by=ME)
                collect(home.registry, home.store, grace_seconds=600)
        except BaseException as error:  # noqa: BLE001 a thread's failure must reach the test
            failures.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    revisions: list[int] = []
    for number in range(4):
        revisions.append(back_up(home.registry, home.store, tmp_path / f"out-{number}").revision)
        deadline = time.monotonic() + 60  # sqlite promises nobody a turn
        while home.registry.revision() == revisions[-1] and not failures and time.monotonic() < deadline:
            time.sleep(0.001)
    stop.set()
    writer.join()
    assert failures == []
    assert len(set(revisions)) == 4, "it was meant to be written to meanwhile"
    for number, revision in enumerate(revisions):
        other = bring_back(tmp_path / f"out-{number}", tmp_path / f"other-{number}")
        assert other.registry.revision() == revision
        assert len(other.registry.catalogue().adapters["bot"].versions) in (3, 4)
        require_sound(other, age_seconds=3600)  # a registration that ran is as unfinished as it was
        other.registry.close()


def test_what_is_collected_during_a_backup_is_not_in_it(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = home.register("bot"), home.register("bot")
    fetch = home.store.fetch

    def fetch_late(digest: str) -> Path:
        monkeypatch.undo()
        home.registry.versions.delete(AdapterRef("bot", 1), by=ME)
        assert collect(home.registry, home.store) == [first]
        return fetch(digest)

    monkeypatch.setattr(FolderStore, "fetch", lambda _, digest: fetch_late(digest))
    assert back_up(home.registry, home.store, tmp_path / "out").lost == ()
    other = bring_back(tmp_path / "out", tmp_path / "other")
    assert other.store.digests() == (second,)
    require_sound(other)
    other.registry.close()


def test_a_version_without_its_bytes_is_named_and_the_others_are_saved(home: Home, tmp_path: Path) -> None:
    bad, good = home.register("bot"), home.register("poet")
    home.corrupt(bad)
    done = back_up(home.registry, home.store, tmp_path / "out")
    assert (done.lost, done.blobs) == (("bot@1",), 1)
    other = bring_back(tmp_path / "out", tmp_path / "other")
    assert other.store.digests() == (good,)
    found = examine(other.registry, other.store, tmp_path / "tmp", age_seconds=0)
    assert [(finding.code, finding.where) for finding in found] == [("missing_blob", "bot@1")]
    other.registry.close()


def rot(out: Path) -> None:
    weights = next(out.glob("store/blobs/sha256/*/adapter_config.json"))
    weights.chmod(0o644)
    weights.write_text("rotten")


def lose_registry(out: Path) -> None:
    (out / "registry.db").unlink()


def break_registry(out: Path) -> None:
    data = bytearray((out / "registry.db").read_bytes())
    data[4096 * 3 : 4096 * 8] = b"x" * 4096 * 5
    (out / "registry.db").write_bytes(data)


def lose_record(out: Path) -> None:
    (out / "backup.json").unlink()


def break_record(out: Path) -> None:
    (out / "backup.json").write_text('{"schema": 1}')


@pytest.mark.parametrize("harm", [rot, lose_registry, break_registry, lose_record, break_record])
def test_a_harmed_backup_is_refused_and_a_whole_one_can_be_tried_again(
    home: Home, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    home.register("bot")
    for name in ("harmed", "whole"):
        back_up(home.registry, home.store, tmp_path / name)
    harm(tmp_path / "harmed")
    with pytest.raises((BackupError, RegistryError)):
        bring_back(tmp_path / "harmed", tmp_path / "other")
    assert not list((tmp_path / "other").glob("*registry.db*"))
    other = bring_back(tmp_path / "whole", tmp_path / "other")
    require_sound(other)
    other.registry.close()


def test_nothing_is_overwritten_and_nothing_half_done_is_left(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.register("bot")
    back_up(home.registry, home.store, tmp_path / "out")
    with pytest.raises(BackupError, match="is there already"):
        back_up(home.registry, home.store, tmp_path / "out")
    with pytest.raises(BackupError, match="is there already"):
        restore(tmp_path / "out", home.store, home.folder / "registry.db")

    def fail(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        back_up(home.registry, home.store, tmp_path / "second", fail)
    with pytest.raises(KeyboardInterrupt):
        restore(tmp_path / "out", FolderStore(tmp_path / "other/store"), tmp_path / "other/registry.db", fail)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "other", "out"]
    assert list((tmp_path / "other").iterdir()) == []


def test_postgresql_is_left_to_its_own_tools(postgres: Postgres, tmp_path: Path) -> None:
    registry = Registry.open(postgres.new_database())
    with pytest.raises(RegistryError, match="pg_dump"):
        back_up(registry, FolderStore(tmp_path / "store"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    registry.close()


def test_postgresql_by_its_own_tools_and_the_folder_after_it(postgres: Postgres, tmp_path: Path) -> None:
    """As docs/storage.md says: the registry, more writes, then the artifacts; back in the opposite order."""
    url, other_url = postgres.new_database(), postgres.new_database()
    home = Home(tmp_path, Registry.open(url), FolderStore(tmp_path / "store"))
    digests = [home.register("bot"), home.register("bot")]
    dump = tmp_path / "loradock.dump"
    with dump.open("wb") as file:
        subprocess.run(
            [postgres_program("pg_dump"), "--format=custom", *_reach(postgres, url)], stdout=file, check=True
        )
    home.register("bot")
    home.registry.close()

    shutil.copytree(tmp_path / "store", tmp_path / "other/store")
    command = [postgres_program("pg_restore"), *_reach(postgres, other_url, flag="--dbname"), str(dump)]
    subprocess.run(command, check=True)
    other = Home(tmp_path / "other", Registry.open(other_url), FolderStore(tmp_path / "other/store"))
    versions = other.registry.catalogue().adapters["bot"].versions
    assert [version.digest for version in versions.values()] == digests
    found = examine(other.registry, other.store, tmp_path / "tmp", age_seconds=0)
    assert [finding.code for finding in found] == ["orphan_blob"], "of what was registered after the dump"
    assert examine(other.registry, other.store, tmp_path / "tmp", age_seconds=600) == ()
    other.made = home.made
    other.register("bot")
    assert other.registry.catalogue().resolve("bot").ref == AdapterRef("bot", 3)
    other.registry.close()


def _reach(postgres: Postgres, url: str, *, flag: str = "") -> list[str]:
    name = url.partition("@/")[2].partition("?")[0]
    where = ["--host", str(postgres.folder), "--username", "postgres"]
    return [*where, flag, name] if flag else [*where, name]
