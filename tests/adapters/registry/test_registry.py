"""Names, versions and aliases."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from loradock_adapters.errors import AdapterNotFound, InvalidName, RegistryError, VersionNotFound
from loradock_adapters.names import AdapterRef
from loradock_adapters.registry import Registration, Registry, VersionFacts


def facts(number: int) -> VersionFacts:
    return VersionFacts(
        digest=f"{number:064x}",
        size_bytes=5_000_000_000,
        rank=8,
        target_modules=("q_proj", "v_proj"),
        base_digest="b" * 64,
        source="upload",
        manifest={"recipe": {"steps": number}},
    )


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    registry = Registry.open(f"sqlite:///{tmp_path}/deep/down/registry.db")
    yield registry
    registry.close()


def test_an_empty_registry_has_revision_zero_and_resolves_nothing(registry: Registry) -> None:
    catalogue = registry.catalogue()
    assert (catalogue.revision, dict(catalogue.adapters)) == (0, {})
    with pytest.raises(AdapterNotFound):
        catalogue.resolve("bot")


def test_versions_count_up_and_live_follows(registry: Registry) -> None:
    assert registry.register("bot", facts(1), created_by="me") == Registration(
        AdapterRef("bot", 1), facts(1).digest, created=True, live=True
    )
    assert registry.register("bot", facts(2), created_by="me").ref == AdapterRef("bot", 2)
    catalogue = registry.catalogue()
    assert catalogue.resolve("bot").ref.id == "bot@2"
    assert catalogue.resolve("bot@1").digest == facts(1).digest
    assert catalogue.resolve("bot@live").ref.version == 2


def test_a_version_keeps_everything_it_was_registered_with(registry: Registry) -> None:
    registry.register("bot", facts(1), created_by="key-1")
    record = registry.catalogue().resolve("bot")
    expected = facts(1)
    assert (record.size_bytes, record.rank, record.target_modules) == (5_000_000_000, 8, ("q_proj", "v_proj"))
    assert (record.base_digest, record.source, record.created_by) == (expected.base_digest, "upload", "key-1")
    assert record.manifest == {"recipe": {"steps": 1}}
    assert abs(record.created_at - datetime.now(UTC)) < timedelta(minutes=1)


def test_the_same_bytes_keep_their_number_and_become_live_again(registry: Registry) -> None:
    registry.register("bot", facts(1), created_by="me")
    registry.register("bot", facts(2), created_by="me")
    again = registry.register("bot", facts(1), created_by="someone else")
    assert (again.ref.version, again.created) == (1, False)
    catalogue = registry.catalogue()
    assert catalogue.resolve("bot").ref.version == 1
    assert sorted(catalogue.adapters["bot"].versions) == [1, 2]
    assert catalogue.resolve("bot").created_by == "me"


def test_the_same_bytes_under_two_names_are_two_adapters(registry: Registry) -> None:
    registry.register("a", facts(1), created_by="me")
    assert registry.register("b", facts(1), created_by="me").created
    assert list(registry.catalogue().adapters) == ["a", "b"]


def test_a_pin_belongs_to_the_name_and_ends_with_it(registry: Registry) -> None:
    registry.register("bot", facts(1), created_by="me")
    assert registry.catalogue().adapters["bot"].pinned_at is None
    assert registry.pin("bot")
    since = registry.catalogue().adapters["bot"].pinned_at
    assert since is not None
    registry.register("bot", facts(2), created_by="me")
    assert registry.catalogue().adapters["bot"].pinned_at == since
    assert registry.unpin("bot")
    assert registry.catalogue().adapters["bot"].pinned_at is None
    registry.pin("bot")
    registry.delete_adapter("bot")
    registry.register("bot", facts(3), created_by="me")
    assert registry.catalogue().adapters["bot"].pinned_at is None


def test_pinning_what_is_pinned_changes_nothing_not_even_since_when(registry: Registry) -> None:
    registry.register("bot", facts(1), created_by="me")
    assert not registry.unpin("bot")
    assert registry.pin("bot")
    before = registry.catalogue()
    assert not registry.pin("bot")
    assert registry.catalogue() == before


def test_what_is_not_registered_cannot_be_pinned(registry: Registry) -> None:
    registry.register("bot", facts(1), created_by="me")
    registry.delete_adapter("bot")
    for name in ("nobody", "bot"):
        with pytest.raises(AdapterNotFound):
            registry.pin(name)
        with pytest.raises(AdapterNotFound):
            registry.unpin(name)


def test_the_revision_grows_with_every_change_and_only_then(registry: Registry) -> None:
    seen = [registry.revision()]

    def grew() -> bool:
        seen.append(registry.revision())
        return seen[-1] > seen[-2]

    registry.register("bot", facts(1), created_by="me")
    assert grew()
    registry.register("bot", facts(1), created_by="me")
    assert not grew()
    registry.set_alias("bot", "canary", 1)
    assert grew()
    registry.set_alias("bot", "canary", 1)
    assert not grew()
    key, _ = registry.keys.create("ci", ["inference"])
    assert grew()
    registry.keys.revoke(key.id)
    assert grew()
    registry.delete_adapter("bot")
    assert grew()
    assert registry.catalogue().revision == seen[-1]


def test_an_alias_moves_and_a_client_may_ask_for_it(registry: Registry) -> None:
    for number in (1, 2, 3):
        registry.register("bot", facts(number), created_by="me")
    registry.set_alias("bot", "canary", 2)
    assert registry.catalogue().resolve("bot@canary").ref.version == 2
    registry.set_alias("bot", "live", 1)
    assert registry.catalogue().resolve("bot").ref.version == 1
    assert dict(registry.catalogue().adapters["bot"].aliases) == {"live": 1, "canary": 2}


def test_aliases_point_to_what_exists_only(registry: Registry) -> None:
    registry.register("bot", facts(1), created_by="me")
    revision = registry.revision()
    with pytest.raises(VersionNotFound):
        registry.set_alias("bot", "canary", 2)
    with pytest.raises(AdapterNotFound):
        registry.set_alias("nobody", "canary", 1)
    with pytest.raises(InvalidName):
        registry.set_alias("bot", "7", 1)
    assert registry.revision() == revision, "a refused change changes nothing"


def test_deleting_forgets_the_name_and_says_what_went(registry: Registry) -> None:
    registry.register("bot", facts(1), created_by="me")
    registry.register("bot", facts(2), created_by="me")
    registry.register("other-bot", facts(1), created_by="me")
    assert registry.delete_adapter("bot") == (AdapterRef("bot", 1), AdapterRef("bot", 2))
    assert list(registry.catalogue().adapters) == ["other-bot"]
    with pytest.raises(AdapterNotFound):
        registry.catalogue().resolve("bot@1")
    with pytest.raises(AdapterNotFound):
        registry.delete_adapter("bot")
    with pytest.raises(AdapterNotFound):
        registry.set_alias("bot", "live", 1)


def test_version_numbers_of_a_deleted_name_are_never_used_again(registry: Registry) -> None:
    registry.register("bot", facts(1), created_by="me")
    registry.register("bot", facts(2), created_by="me")
    registry.delete_adapter("bot")
    fresh = registry.register("bot", facts(1), created_by="me")
    assert (fresh.ref.version, fresh.created) == (3, True)
    assert list(registry.catalogue().adapters["bot"].versions) == [3]
    with pytest.raises(VersionNotFound):
        registry.set_alias("bot", "old", 1)


def test_a_bad_name_is_refused_before_anything_is_written(registry: Registry) -> None:
    with pytest.raises(InvalidName):
        registry.register("Bot", facts(1), created_by="me")
    assert registry.revision() == 0


@pytest.mark.parametrize("model", ["Bot", "bot@", "bot/1", "", "smollm2:135m", "x" * 10_000])
def test_a_model_that_could_not_exist_is_not_found_rather_than_an_error(registry: Registry, model: str) -> None:
    with pytest.raises(AdapterNotFound):
        registry.catalogue().resolve(model)


def test_an_unknown_version_is_answered_with_the_known_ones(registry: Registry) -> None:
    registry.register("bot", facts(1), created_by="me")
    with pytest.raises(VersionNotFound, match=r"no version 4; the latest are 1$"):
        registry.catalogue().resolve("bot@4")
    with pytest.raises(VersionNotFound, match=r"no alias 'canary'; it has live"):
        registry.catalogue().resolve("bot@canary")


def test_a_catalogue_stays_as_it_was_taken(registry: Registry) -> None:
    registry.register("bot", facts(1), created_by="me")
    before = registry.catalogue()
    registry.register("bot", facts(2), created_by="me")
    registry.delete_adapter("bot")
    assert before.resolve("bot").ref.version == 1
    with pytest.raises(TypeError):
        before.adapters["x"] = before.adapters["bot"]  # type: ignore[index]


def test_everything_is_there_again_after_a_restart(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/registry.db"
    first = Registry.open(url)
    first.register("bot", facts(1), created_by="me")
    before = first.catalogue()
    first.close()
    second = Registry.open(url)
    assert second.catalogue() == before
    second.close()


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///:memory:", "no url", "sqlite:////proc/none/registry.db", "odd://x/y"]
)
def test_a_database_that_cannot_be_opened_is_a_registry_error(url: str) -> None:
    with pytest.raises(RegistryError):
        Registry.open(url)


def test_a_password_in_the_url_never_reaches_the_message() -> None:
    with pytest.raises(RegistryError) as caught:
        Registry.open("odd://user:hunter2@host/db")
    assert "hunter2" not in str(caught.value)


def test_a_file_that_is_no_database_is_a_registry_error(tmp_path: Path) -> None:
    (tmp_path / "registry.db").write_bytes(b"not a database, but long enough to look at" * 100)
    with pytest.raises(RegistryError, match=r"registry\.db"):
        Registry.open(f"sqlite:///{tmp_path}/registry.db")
