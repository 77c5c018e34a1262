"""What happens to versions and aliases, and that each step leaves its event."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from loradock_adapters.errors import (
    AdapterConflict,
    AliasNotFound,
    ChangedMeanwhile,
    VersionInUse,
    VersionNotFound,
    VersionRetired,
)
from loradock_adapters.names import AdapterRef
from loradock_adapters.registry import Actor, IfMatch, Registry, Split, VersionState
from tests.adapters.registry.making import ME, facts, register

BOT1, BOT2 = AdapterRef("bot", 1), AdapterRef("bot", 2)


def state(registry: Registry, ref: AdapterRef) -> VersionState:
    return registry.catalogue().adapters[ref.name].versions[ref.version].state


def pointed(registry: Registry, alias: str = "live") -> str:
    return str(registry.catalogue().adapters["bot"].aliases[alias].split)


def events(registry: Registry, adapter: str | None = "bot") -> list[tuple[str, str | None, int | None]]:
    page = registry.audit.page(adapter=adapter, limit=1000)
    return [(event.action, event.alias, event.version) for event in reversed(page)]


def test_a_version_answers_only_once_it_is_ready(registry: Registry) -> None:
    staged = registry.versions.stage("bot", facts(1), by=ME)
    assert (staged.ref, staged.created) == (BOT1, True)
    for reached in (VersionState.STAGED, VersionState.VERIFIED):
        assert state(registry, BOT1) is reached
        with pytest.raises(VersionNotFound, match="not ready"):
            registry.catalogue().resolve("bot@1")
        with pytest.raises(AdapterConflict):
            registry.aliases.set("bot", "live", Split.to(1), by=ME)
        registry.versions.verify(BOT1, by=ME)
    registry.versions.make_ready(BOT1, by=ME)
    assert registry.catalogue().resolve("bot").ref == BOT1
    assert events(registry) == [
        ("version.staged", None, 1),
        ("version.verified", None, 1),
        ("version.ready", None, 1),
        ("alias.set", "live", None),
    ]


def test_a_step_cannot_be_left_out(registry: Registry) -> None:
    registry.versions.stage("bot", facts(1), by=ME)
    with pytest.raises(AdapterConflict, match="bot@1 is staged; it cannot become ready"):
        registry.versions.make_ready(BOT1, by=ME)
    with pytest.raises(AdapterConflict, match="cannot become retired"):
        registry.versions.retire(BOT1, by=ME)
    assert state(registry, BOT1) is VersionState.STAGED
    assert len(events(registry)) == 1, "what did not happen has no event"


def test_a_failed_version_says_why_and_the_same_bytes_get_another_chance(registry: Registry) -> None:
    registry.versions.stage("bot", facts(1), by=ME)
    registry.versions.fail(BOT1, "the disk gave other bytes back", by=ME)
    with pytest.raises(VersionNotFound, match="failed, not ready .the disk gave other bytes back"):
        registry.catalogue().resolve("bot@1")
    again = register(registry, "bot", 1)
    assert (again.ref, again.created) == (BOT1, True)
    assert registry.catalogue().resolve("bot").state_reason is None


def test_a_version_that_is_not_promoted_is_asked_for_by_number(registry: Registry) -> None:
    register(registry, "bot", 1, alias=None)
    assert registry.catalogue().resolve("bot@1").ref == BOT1
    with pytest.raises(AliasNotFound):
        registry.catalogue().resolve("bot")
    register(registry, "bot", 1, alias="canary")
    assert registry.catalogue().resolve("bot@canary").ref == BOT1


def test_a_retired_version_refuses_and_its_bytes_do_not_come_back_unasked(registry: Registry) -> None:
    register(registry, "bot", 1)
    register(registry, "bot", 2)
    assert registry.versions.retire(BOT1, by=ME)
    assert not registry.versions.retire(BOT1, by=ME)
    with pytest.raises(VersionRetired, match="bot@1 was retired"):
        registry.catalogue().resolve("bot@1")
    with pytest.raises(AdapterConflict, match="retired"):
        registry.aliases.set("bot", "live", Split.to(1), by=ME)
    with pytest.raises(AdapterConflict, match="delete that version"):
        registry.versions.stage("bot", facts(1), by=ME)
    registry.versions.delete(BOT1, by=ME)
    assert register(registry, "bot", 1, alias=None).ref == AdapterRef("bot", 3)


def test_what_an_alias_needs_is_neither_retired_nor_deleted(registry: Registry) -> None:
    register(registry, "bot", 1)
    register(registry, "bot", 2)
    registry.aliases.set("bot", "canary", Split.of({1: 90, 2: 10}), by=ME)
    revision = registry.revision()
    for end in (registry.versions.retire, registry.versions.delete):
        with pytest.raises(VersionInUse, match="canary"):
            end(BOT1, by=ME)
        with pytest.raises(VersionInUse, match="canary, live"):
            end(BOT2, by=ME)
    assert registry.revision() == revision
    registry.aliases.remove("bot", "canary", by=ME)
    registry.versions.delete(BOT1, by=ME)
    assert list(registry.catalogue().adapters["bot"].versions) == [2]
    for gone in (registry.versions.retire, registry.versions.delete):
        with pytest.raises(VersionNotFound):
            gone(BOT1, by=ME)


def test_a_split_divides_the_keys_and_keeps_each(registry: Registry) -> None:
    register(registry, "bot", 1)
    register(registry, "bot", 2)
    registry.aliases.set("bot", "live", Split.of({1: 90, 2: 10}), by=ME)
    catalogue = registry.catalogue()
    got = [catalogue.resolve("bot", f"user {number}").ref.version for number in range(1000)]
    assert 850 < got.count(1) < 950
    assert got == [catalogue.resolve("bot", f"user {number}").ref.version for number in range(1000)]
    assert [live.ref for live in catalogue.adapters["bot"].live] == [BOT1, BOT2]


def test_rolling_back_goes_the_way_back_step_by_step(registry: Registry) -> None:
    for number in (1, 2, 3):
        register(registry, "bot", number)
    registry.aliases.set("bot", "live", Split.of({2: 1, 3: 1}), by=ME)
    assert str(registry.catalogue().adapters["bot"].aliases["live"].previous) == "3"
    went = [str(registry.aliases.rollback("bot", by=ME)) for _ in range(3)]
    assert went == ["3", "2", "1"]
    with pytest.raises(AdapterConflict, match="nothing else before"):
        registry.aliases.rollback("bot", by=ME)
    registry.aliases.set("bot", "live", Split.to(3), by=ME)
    assert str(registry.aliases.rollback("bot", by=ME)) == "1", "the way back is the way it came"
    with pytest.raises(AliasNotFound):
        registry.aliases.rollback("bot", "canary", by=ME)


def test_no_rollback_to_what_cannot_answer_any_more(registry: Registry) -> None:
    register(registry, "bot", 1)
    register(registry, "bot", 2)
    registry.versions.retire(BOT1, by=ME)
    with pytest.raises(AdapterConflict, match="bot@1 is retired.*loradock adapters promote bot VERSION"):
        registry.aliases.rollback("bot", by=ME)
    assert way_back(registry) is None
    registry.versions.delete(BOT1, by=ME)
    with pytest.raises(AdapterConflict, match="bot@1 is deleted"):
        registry.aliases.rollback("bot", by=ME)
    assert pointed(registry) == "2"
    assert way_back(registry) is None


def way_back(registry: Registry) -> str | None:
    previous = registry.catalogue().adapters["bot"].aliases["live"].previous
    return None if previous is None else str(previous)


def test_a_rollback_passes_over_what_was_retired_or_deleted_meanwhile(registry: Registry) -> None:
    for number in (1, 2, 3, 4, 5):
        register(registry, "bot", number)
    early = registry.catalogue()
    registry.versions.retire(AdapterRef("bot", 4), by=ME)
    registry.versions.retire(AdapterRef("bot", 3), by=ME)
    registry.versions.delete(AdapterRef("bot", 3), by=ME)
    assert way_back(registry) == "2"
    assert str(registry.catalogue(early).adapters["bot"].aliases["live"].previous) == "2"  # to who follows, too
    assert str(registry.aliases.rollback("bot", by=ME)) == "2"
    assert (pointed(registry), way_back(registry)) == ("2", "1")
    assert str(registry.aliases.rollback("bot", by=ME)) == "1"
    with pytest.raises(AdapterConflict, match="nothing else before"):
        registry.aliases.rollback("bot", by=ME)


def test_a_rollback_passes_over_a_split_that_has_lost_a_version_and_over_what_is_there_now(
    registry: Registry,
) -> None:
    for number in (1, 2, 3):
        register(registry, "bot", number)
    registry.aliases.set("bot", "live", Split.of({1: 90, 2: 10}), by=ME)
    registry.aliases.set("bot", "live", Split.to(3), by=ME)  # as it pointed before the split
    registry.versions.retire(BOT2, by=ME)
    assert way_back(registry) == "1"
    assert str(registry.aliases.rollback("bot", by=ME)) == "1"


def test_the_aliases_of_a_deleted_name_have_no_way_back_into_its_earlier_life(registry: Registry) -> None:
    register(registry, "bot", 1)
    register(registry, "bot", 2)
    registry.delete_adapter("bot", by=ME)
    register(registry, "bot", 3)
    assert pointed(registry) == "3"
    with pytest.raises(AdapterConflict, match="nothing else before"):
        registry.aliases.rollback("bot", by=ME)


def test_of_two_who_saw_the_same_only_the_first_changes_it(registry: Registry) -> None:
    for number in (1, 2, 3):
        register(registry, "bot", number)
    seen = IfMatch(frozenset({registry.catalogue().adapters["bot"].aliases["live"].revision}))
    registry.aliases.set("bot", "live", Split.to(1), by=ME, if_match=seen)
    with pytest.raises(ChangedMeanwhile) as caught:
        registry.aliases.set("bot", "live", Split.to(2), by=Actor("the second"), if_match=seen)
    assert caught.value.current is not None
    assert (caught.value.current["version"], caught.value.current["changed_by"]) == (1, "me")
    assert pointed(registry) == "1"
    for change in (registry.aliases.rollback, registry.aliases.remove):
        with pytest.raises(ChangedMeanwhile):
            change("bot", "live", by=ME, if_match=seen)
    with pytest.raises(ChangedMeanwhile, match="gone"):
        registry.aliases.set("bot", "none", Split.to(1), by=ME, if_match=IfMatch(anything=True))
    now = IfMatch(frozenset({caught.value.revision or 0}))
    assert registry.aliases.set("bot", "live", Split.to(2), by=ME, if_match=now)


def test_a_change_elsewhere_in_the_adapter_does_not_disturb_an_alias(registry: Registry) -> None:
    register(registry, "bot", 1)
    register(registry, "bot", 2)
    before = registry.catalogue().adapters["bot"]
    registry.aliases.set("bot", "canary", Split.to(1), by=ME)
    after = registry.catalogue().adapters["bot"]
    assert after.aliases["live"] == before.aliases["live"]
    assert after.revision > before.revision
    with pytest.raises(ChangedMeanwhile):
        registry.delete_adapter("bot", by=ME, if_match=IfMatch(frozenset({before.revision})))


def test_an_event_says_who_when_from_where_and_what_was_before(registry: Registry) -> None:
    register(registry, "bot", 1)
    register(registry, "bot", 2)
    registry.aliases.set("bot", "live", Split.of({1: 90, 2: 10}), by=Actor("ops", "key-7", "10.0.0.7"))
    (event,) = registry.audit.page(adapter="bot", limit=1)
    assert event.actor == Actor("ops", "key-7", "10.0.0.7")
    assert abs(event.at - datetime.now(UTC)) < timedelta(minutes=1)
    assert (event.action, event.alias) == ("alias.set", "live")
    assert (event.before, event.after) == ({"2": 1}, {"1": 90, "2": 10})


def test_everything_that_can_happen_is_in_the_audit_and_it_outlives_the_adapter(registry: Registry) -> None:
    register(registry, "bot", 1)
    register(registry, "bot", 2)
    registry.aliases.rollback("bot", by=ME)
    registry.versions.retire(BOT2, by=ME)
    registry.pin("bot", by=ME)
    registry.unpin("bot", by=ME)
    registry.delete_adapter("bot", by=ME)
    key, _ = registry.keys.create({"name": "ci"}, by=ME)
    registry.keys.revoke(key.id, by=ME)
    assert events(registry)[8:] == [
        ("alias.rolled_back", "live", None),
        ("version.retired", None, 2),
        ("adapter.pinned", None, None),
        ("adapter.unpinned", None, None),
        ("alias.deleted", "live", None),
        ("version.deleted", None, 1),
        ("version.deleted", None, 2),
        ("adapter.deleted", None, None),
    ]
    assert events(registry, None)[-2:] == [("key.created", None, None), ("key.revoked", None, None)]


def test_the_audit_is_read_page_by_page(registry: Registry) -> None:
    register(registry, "bot", 1)
    register(registry, "other-bot", 1)
    whole = registry.audit.page(limit=100)
    first = registry.audit.page(limit=3)
    rest = registry.audit.page(limit=100, before_id=first[-1].id)
    assert first + rest == whole
    assert [event.id for event in whole] == sorted((event.id for event in whole), reverse=True)
    assert {event.adapter for event in registry.audit.page(adapter="bot")} == {"bot"}


def test_reading_only_what_changed_gives_the_same_as_reading_everything(registry: Registry) -> None:
    seen = registry.catalogue()
    for change in (
        lambda: register(registry, "bot", 1),
        lambda: register(registry, "other-bot", 1),
        lambda: register(registry, "bot", 2, alias="canary"),
        lambda: registry.aliases.set("bot", "live", Split.of({1: 1, 2: 3}), by=ME),
        lambda: registry.pin("other-bot", by=ME),
        lambda: registry.aliases.rollback("bot", by=ME),
        lambda: registry.keys.create({"name": "ci"}, by=ME),
        lambda: registry.aliases.remove("bot", "canary", by=ME),
        lambda: registry.versions.retire(BOT2, by=ME),
        lambda: registry.versions.delete(BOT2, by=ME),
        lambda: registry.delete_adapter("other-bot", by=ME),
        lambda: register(registry, "other-bot", 5),
    ):
        change()
        seen, whole = registry.catalogue(seen), registry.catalogue()
        assert seen == whole
        assert list(seen.adapters) == list(whole.adapters)
