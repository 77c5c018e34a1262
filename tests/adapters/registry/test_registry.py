"""Names, versions and aliases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from loradock_adapters.errors import AdapterNotFound, InvalidName, RegistryError, VersionNotFound
from loradock_adapters.names import AdapterRef
from loradock_adapters.registry import Actor, Registry, Split, Staged, reading
from tests.adapters.registry.making import ME, facts, register


def test_an_empty_registry_has_revision_zero_and_resolves_nothing(registry: Registry) -> None:
    catalogue = registry.catalogue()
    assert (catalogue.revision, dict(catalogue.adapters)) == (0, {})
    with pytest.raises(AdapterNotFound):
        catalogue.resolve("bot")


def test_versions_count_up_and_live_follows(registry: Registry) -> None:
    assert register(registry, "bot", 1) == Staged(AdapterRef("bot", 1), created=True)
    assert register(registry, "bot", 2).ref == AdapterRef("bot", 2)
    catalogue = registry.catalogue()
    assert catalogue.resolve("bot").ref.id == "bot@2"
    assert catalogue.resolve("bot@1").digest == facts(1).digest
    assert catalogue.resolve("bot@live").ref.version == 2


def test_a_version_keeps_everything_it_was_registered_with(registry: Registry) -> None:
    register(registry, "bot", 1, by=Actor("key-1"))
    record = registry.catalogue().resolve("bot")
    expected = facts(1)
    assert (record.size_bytes, record.rank, record.target_modules) == (5_000_000_000, 8, ("q_proj", "v_proj"))
    assert (record.base_digest, record.source, record.created_by) == (expected.base_digest, "upload", "key-1")
    assert record.manifest == {"recipe": {"steps": 1}}
    assert abs(record.created_at - datetime.now(UTC)) < timedelta(minutes=1)


def test_the_same_bytes_keep_their_number_and_become_live_again(registry: Registry) -> None:
    register(registry, "bot", 1)
    register(registry, "bot", 2)
    again = register(registry, "bot", 1, by=Actor("someone else"))
    assert (again.ref.version, again.created) == (1, False)
    catalogue = registry.catalogue()
    assert catalogue.resolve("bot").ref.version == 1
    assert sorted(catalogue.adapters["bot"].versions) == [1, 2]
    assert catalogue.resolve("bot").created_by == "me"


def test_the_same_bytes_under_two_names_are_two_adapters(registry: Registry) -> None:
    register(registry, "a", 1)
    assert register(registry, "b", 1).created
    assert list(registry.catalogue().adapters) == ["a", "b"]


def test_a_pin_belongs_to_the_name_and_ends_with_it(registry: Registry) -> None:
    register(registry, "bot", 1)
    assert registry.catalogue().adapters["bot"].pinned_at is None
    assert registry.pin("bot", by=ME)
    since = registry.catalogue().adapters["bot"].pinned_at
    assert since is not None
    register(registry, "bot", 2)
    assert registry.catalogue().adapters["bot"].pinned_at == since
    assert registry.unpin("bot", by=ME)
    assert registry.catalogue().adapters["bot"].pinned_at is None
    registry.pin("bot", by=ME)
    registry.delete_adapter("bot", by=ME)
    register(registry, "bot", 3)
    assert registry.catalogue().adapters["bot"].pinned_at is None


def test_pinning_what_is_pinned_changes_nothing_not_even_since_when(registry: Registry) -> None:
    register(registry, "bot", 1)
    assert not registry.unpin("bot", by=ME)
    assert registry.pin("bot", by=ME)
    before = registry.catalogue()
    assert not registry.pin("bot", by=ME)
    assert registry.catalogue() == before


def test_what_is_not_registered_cannot_be_pinned(registry: Registry) -> None:
    register(registry, "bot", 1)
    registry.delete_adapter("bot", by=ME)
    for name in ("nobody", "bot"):
        with pytest.raises(AdapterNotFound):
            registry.pin(name, by=ME)
        with pytest.raises(AdapterNotFound):
            registry.unpin(name, by=ME)


def test_the_revision_grows_with_every_change_and_only_then(registry: Registry) -> None:
    seen = [registry.revision()]

    def grew() -> bool:
        seen.append(registry.revision())
        return seen[-1] > seen[-2]

    register(registry, "bot", 1)
    assert grew()
    register(registry, "bot", 1)
    assert not grew()
    registry.aliases.set("bot", "canary", Split.to(1), by=ME)
    assert grew()
    registry.aliases.set("bot", "canary", Split.to(1), by=ME)
    assert not grew()
    key, _ = registry.keys.create({"name": "ci"}, by=ME)
    assert grew()
    registry.keys.revoke(key.id, by=ME)
    assert grew()
    registry.delete_adapter("bot", by=ME)
    assert grew()
    assert registry.catalogue().revision == seen[-1]


def test_an_alias_moves_and_a_client_may_ask_for_it(registry: Registry) -> None:
    for number in (1, 2, 3):
        register(registry, "bot", number)
    registry.aliases.set("bot", "canary", Split.to(2), by=ME)
    assert registry.catalogue().resolve("bot@canary").ref.version == 2
    registry.aliases.set("bot", "live", Split.to(1), by=ME)
    assert registry.catalogue().resolve("bot").ref.version == 1
    aliases = registry.catalogue().adapters["bot"].aliases
    assert {name: alias.split.only for name, alias in aliases.items()} == {"live": 1, "canary": 2}


def test_aliases_point_to_what_exists_only(registry: Registry) -> None:
    register(registry, "bot", 1)
    revision = registry.revision()
    with pytest.raises(VersionNotFound):
        registry.aliases.set("bot", "canary", Split.to(2), by=ME)
    with pytest.raises(AdapterNotFound):
        registry.aliases.set("nobody", "canary", Split.to(1), by=ME)
    with pytest.raises(InvalidName):
        registry.aliases.set("bot", "7", Split.to(1), by=ME)
    assert registry.revision() == revision, "a refused change changes nothing"


def test_deleting_forgets_the_name_and_says_what_went(registry: Registry) -> None:
    register(registry, "bot", 1)
    register(registry, "bot", 2)
    register(registry, "other-bot", 1)
    assert registry.delete_adapter("bot", by=ME) == (AdapterRef("bot", 1), AdapterRef("bot", 2))
    assert list(registry.catalogue().adapters) == ["other-bot"]
    with pytest.raises(AdapterNotFound):
        registry.catalogue().resolve("bot@1")
    with pytest.raises(AdapterNotFound):
        registry.delete_adapter("bot", by=ME)
    with pytest.raises(AdapterNotFound):
        registry.aliases.set("bot", "live", Split.to(1), by=ME)


def test_version_numbers_of_a_deleted_name_are_never_used_again(registry: Registry) -> None:
    register(registry, "bot", 1)
    register(registry, "bot", 2)
    registry.delete_adapter("bot", by=ME)
    fresh = register(registry, "bot", 1)
    assert (fresh.ref.version, fresh.created) == (3, True)
    assert list(registry.catalogue().adapters["bot"].versions) == [3]
    with pytest.raises(VersionNotFound):
        registry.aliases.set("bot", "old", Split.to(1), by=ME)


def test_a_bad_name_is_refused_before_anything_is_written(registry: Registry) -> None:
    with pytest.raises(InvalidName):
        register(registry, "Bot", 1)
    assert registry.revision() == 0


@pytest.mark.parametrize("model", ["Bot", "bot@", "bot/1", "", "smollm2:135m", "x" * 10_000])
def test_a_model_that_could_not_exist_is_not_found_rather_than_an_error(registry: Registry, model: str) -> None:
    with pytest.raises(AdapterNotFound):
        registry.catalogue().resolve(model)


def test_an_unknown_version_is_answered_with_the_known_ones(registry: Registry) -> None:
    register(registry, "bot", 1)
    with pytest.raises(VersionNotFound, match=r"no version 4; the latest are 1$"):
        registry.catalogue().resolve("bot@4")
    with pytest.raises(VersionNotFound, match=r"no alias 'canary'; it has live"):
        registry.catalogue().resolve("bot@canary")


def test_a_catalogue_stays_as_it_was_taken(registry: Registry) -> None:
    register(registry, "bot", 1)
    before = registry.catalogue()
    register(registry, "bot", 2)
    registry.delete_adapter("bot", by=ME)
    assert before.resolve("bot").ref.version == 1
    with pytest.raises(TypeError):
        before.adapters["x"] = before.adapters["bot"]  # type: ignore[index]


def test_everything_is_there_again_after_a_restart(url: str) -> None:
    first = Registry.open(url)
    register(first, "bot", 1)
    before = first.catalogue()
    first.close()
    second = Registry.open(url)
    assert second.catalogue() == before
    second.close()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user@127.0.0.1:1/nobody-listens",
        "mysql://user@host/no-driver-for-it",
        "sqlite://",
        "sqlite:///:memory:",
        "no url",
        "sqlite:////proc/none/registry.db",
        "odd://x/y",
    ],
)
def test_a_database_that_cannot_be_opened_is_a_registry_error(url: str) -> None:
    with pytest.raises(RegistryError):
        Registry.open(url)


@pytest.mark.parametrize("url", ["odd://user:hunter2@host/db", "postgresql://user:hunter2@127.0.0.1:1/db"])
def test_a_password_in_the_url_never_reaches_the_message(url: str) -> None:
    with pytest.raises(RegistryError) as caught:
        Registry.open(url)
    assert "hunter2" not in str(caught.value)


def test_a_file_that_is_no_database_is_a_registry_error(tmp_path: Path) -> None:
    (tmp_path / "registry.db").write_bytes(b"not a database, but long enough to look at" * 100)
    with pytest.raises(RegistryError, match=r"registry\.db"):
        Registry.open(f"sqlite:///{tmp_path}/registry.db")


def test_many_changes_at_once_are_read_like_few(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_FEW", 2)
    for number in range(3):
        register(registry, f"bot-{number}", number)
    before = registry.catalogue()
    for number in range(4):
        register(registry, f"bot-{number}", number + 1000)
    registry.aliases.set("bot-0", "live", Split.of({1: 1, 2: 3}), by=ME)
    many = registry.catalogue(before)
    assert many == registry.catalogue()
    registry.delete_adapter("bot-1", by=ME)
    registry.pin("bot-2", by=ME)
    few = registry.catalogue(many)
    assert few == registry.catalogue()
    assert few.adapters["bot-3"] is many.adapters["bot-3"], "what has not changed is not read again"
