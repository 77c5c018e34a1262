"""What is said of an adapter is kept, audited, conditional, and goes when the adapter goes."""

from __future__ import annotations

import pytest

from loradock_adapters.adapter_settings import NOTHING_SAID
from loradock_adapters.errors import AdapterNotFound, ChangedMeanwhile, InvalidSettings
from loradock_adapters.registry import IfMatch, Registry
from tests.adapters.registry.making import ME, register


def test_a_change_is_seen_audited_and_moves_the_revision(registry: Registry) -> None:
    register(registry, "bot", 1)
    before = registry.catalogue()
    assert before.adapters["bot"].settings == NOTHING_SAID
    assert registry.change_settings("bot", {"temperature": 0.5, "pin": True, "system_prompt": "Größe\n"}, by=ME)

    bot = registry.catalogue(before).adapters["bot"]
    assert bot.settings.document() == {"temperature": 0.5, "system_prompt": "Größe\n"}
    assert bot.pinned_at is not None
    assert bot.revision > before.revision
    pinned, configured = registry.audit.page(adapter="bot", limit=2)
    assert (pinned.action, configured.action) == ("adapter.pinned", "adapter.configured")
    assert configured.before == {"temperature": None, "system_prompt": None}
    assert configured.after == {"temperature": 0.5, "system_prompt": "Größe\n"}
    assert configured.actor == ME


def test_a_change_that_changes_nothing_leaves_no_trace(registry: Registry) -> None:
    register(registry, "bot", 1)
    registry.change_settings("bot", {"owner": "me", "pin": False}, by=ME)
    revision = registry.revision()
    assert not registry.change_settings("bot", {"owner": "me", "seed": None, "pin": None}, by=ME)
    assert registry.revision() == revision


def test_half_a_patch_is_never_applied(registry: Registry) -> None:
    register(registry, "bot", 1)
    for patch in ({"owner": "me", "top_p": 9}, {"owner": "me", "pin": "yes"}, {"pin": True, "nonsense": 1}):
        with pytest.raises(InvalidSettings):
            registry.change_settings("bot", patch, by=ME)
    bot = registry.catalogue().adapters["bot"]
    assert (bot.settings, bot.pinned_at) == (NOTHING_SAID, None)


def test_who_saw_an_older_revision_changes_nothing_and_sees_what_is_there(registry: Registry) -> None:
    register(registry, "bot", 1)
    seen = registry.catalogue().adapters["bot"].revision
    registry.change_settings("bot", {"owner": "first"}, by=ME, if_match=IfMatch(frozenset({seen})))
    with pytest.raises(ChangedMeanwhile) as raised:
        registry.change_settings("bot", {"owner": "second"}, by=ME, if_match=IfMatch(frozenset({seen})))
    assert raised.value.current == {"revision": raised.value.revision, "settings": {"owner": "first"}}


def test_a_deleted_adapters_settings_are_not_inherited_by_the_next_of_its_name(registry: Registry) -> None:
    register(registry, "bot", 1)
    registry.change_settings("bot", {"system_prompt": "secret"}, by=ME)
    registry.delete_adapter("bot", by=ME)
    with pytest.raises(AdapterNotFound):
        registry.change_settings("bot", {"owner": "me"}, by=ME)
    register(registry, "bot", 2)
    assert registry.catalogue().adapters["bot"].settings == NOTHING_SAID
