"""Faults are planted by hand; the doctor finds each, repairs it, and finds nothing after that."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from loradock_adapters.doctor import examine
from loradock_adapters.errors import BlobMissing, RegistryError
from loradock_adapters.names import AdapterRef
from loradock_adapters.registry import Registry, Split, VersionState
from loradock_adapters.store import FolderStore
from tests.adapters.registry.making import ME
from tests.adapters.test_garbage import put, stage


@dataclass(slots=True)
class Home:
    """A registry with bot@1, bot@2 and bot@3 (live), whose bytes are in the store."""

    folder: Path
    registry: Registry
    store: FolderStore
    digests: list[str]

    def findings(self, *, repair: bool = False, age_seconds: float = 0) -> list[tuple[str, str]]:
        found = examine(self.registry, self.store, self.folder / "tmp", age_seconds=age_seconds, repair=repair)
        return [(finding.code, finding.where) for finding in found]

    def repair(self) -> list[tuple[str, str]]:
        """What was found and repaired; after which nothing is wrong any more."""
        found = self.findings(repair=True)
        assert self.findings() == []
        return found

    def lose(self, version: int) -> None:
        self.store.remove(self.digests[version - 1])

    def corrupt(self, version: int) -> None:
        file = self.store.path(self.digests[version - 1]) / "adapter_config.json"
        file.chmod(0o644)
        file.write_text("other bytes")

    def state(self, version: int) -> VersionState:
        return self.registry.catalogue().adapters["bot"].versions[version].state

    def live(self) -> str:
        return str(self.registry.catalogue().adapters["bot"].aliases["live"].split)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    registry = Registry.open(f"sqlite:///{tmp_path}/registry.db")
    store = FolderStore(tmp_path / "store")
    digests = [put(store, tmp_path / "a", f"version {number}") for number in (1, 2, 3)]
    for digest in digests:
        ref = stage(registry, "bot", digest)
        registry.versions.verify(ref, by=ME)
        registry.versions.make_ready(ref, by=ME)
    (tmp_path / "tmp").mkdir()
    yield Home(tmp_path, registry, store, digests)
    registry.close()


def test_a_sound_home_has_no_findings(home: Home) -> None:
    assert home.findings() == []
    assert home.repair() == []


def test_a_lost_blob_fails_its_version_and_the_alias_goes_back(home: Home) -> None:
    home.lose(3)
    assert home.findings() == [("missing_blob", "bot@3")]
    assert home.state(3) is VersionState.READY, "looking changes nothing"
    assert home.repair() == [("missing_blob", "bot@3"), ("alias_without_version", "bot@live")]
    assert (home.state(3), home.live()) == (VersionState.FAILED, "2")
    assert home.registry.catalogue().resolve("bot").ref == AdapterRef("bot", 2)


def test_an_alias_goes_back_as_far_as_it_must(home: Home) -> None:
    home.lose(3)
    home.corrupt(2)
    assert {code for code, _ in home.repair()} == {"missing_blob", "corrupt_blob", "alias_without_version"}
    assert home.live() == "1"


def test_of_a_split_the_version_that_is_left_gets_everything(home: Home) -> None:
    home.registry.aliases.set("bot", "live", Split.of({2: 9, 3: 1}), by=ME)
    home.lose(2)
    home.repair()
    assert home.live() == "3"


def test_an_alias_without_any_way_back_goes(home: Home) -> None:
    for version in (1, 2, 3):
        home.lose(version)
    home.repair()
    assert dict(home.registry.catalogue().adapters["bot"].aliases) == {}


def test_corrupt_bytes_are_put_aside_and_the_right_ones_may_be_registered_again(home: Home) -> None:
    home.corrupt(3)
    assert home.repair() == [("corrupt_blob", "bot@3"), ("alias_without_version", "bot@live")]
    assert len(list((home.folder / "store/corrupt").rglob("adapter_config.json"))) == 1
    with pytest.raises(BlobMissing):
        home.store.path(home.digests[2])
    assert put(home.store, home.folder / "a", "version 3") == home.digests[2]
    assert stage(home.registry, "bot", home.digests[2]) == AdapterRef("bot", 3)


def test_what_crashed_writers_left_is_removed_once_it_is_old(home: Home) -> None:
    left = (home.folder / "store/tmp/abc", home.folder / "tmp/upload-abc", home.folder / "tmp/source-abc")
    for folder in left:
        folder.mkdir()
        (folder / "adapter_model.safetensors").write_bytes(b"half")
    orphan = put(home.store, home.folder / "a", "nobody's")
    assert home.findings(repair=True, age_seconds=3600) == [], "it may still be growing"
    old = time.time() - 3700
    for folder in (*left, home.store.path(orphan)):
        os.utime(folder, (old, old))
    assert home.findings(repair=True, age_seconds=3600) == [
        ("half_written", str(left[0])),
        ("half_uploaded", str(left[2])),
        ("half_uploaded", str(left[1])),
        ("orphan_blob", orphan),
    ]
    assert home.findings() == []
    assert home.store.digests() == tuple(sorted(home.digests))


def test_a_registration_that_did_not_finish_fails_and_may_be_tried_again(home: Home) -> None:
    digest = put(home.store, home.folder / "a", "version 4")
    stage(home.registry, "bot", digest)
    assert home.findings(age_seconds=3600) == []
    assert home.repair() == [("unfinished_version", "bot@4")]
    assert home.state(4) is VersionState.FAILED
    assert stage(home.registry, "bot", digest) == AdapterRef("bot", 4)


def test_an_alias_to_a_version_that_is_not_there_is_found_and_mended(home: Home) -> None:
    database = sqlite3.connect(home.folder / "registry.db")
    with database:  # foreign keys are off by default
        database.execute("DELETE FROM adapter_versions WHERE number = 3")
        database.execute("UPDATE registry_state SET revision = revision + 1")
    database.close()
    assert ("alias_without_version", "bot@live") in home.findings()
    assert "database_damaged" in {code for code, _ in home.findings()}
    home.findings(repair=True)
    assert home.findings() == []
    assert home.live() == "2"


def test_a_damaged_database_is_not_opened(home: Home, tmp_path: Path) -> None:
    home.registry.close()
    path = tmp_path / "registry.db"
    sqlite3.connect(path).execute("PRAGMA wal_checkpoint(TRUNCATE)").connection.close()
    data = bytearray(path.read_bytes())
    for page in range(4096 * 4, len(data) - 4096, 4096):
        data[page : page + 200] = b"x" * 200
    path.write_bytes(data)
    with pytest.raises(RegistryError):
        Registry.open(f"sqlite:///{path}")
