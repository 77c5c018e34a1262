"""API keys."""

from __future__ import annotations

import logging
import sqlite3
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path

import pytest

from loradock_adapters.errors import ChangedMeanwhile, InvalidSettings, KeyConflict, KeyNotFound, RegistryError
from loradock_adapters.rate_limits import RateLimits
from loradock_adapters.registry import IfMatch, KeyRecord, KeyRing, Registry, keys
from tests.adapters.registry.making import ME


def opened(registry: Registry, secret: str, at: datetime | None = None) -> KeyRecord | None:
    """The key that this secret opens, to whoever reads the registry now."""
    held = registry.keys.ring().find(secret, at or datetime.now(UTC))
    return None if held is None else held.key


def test_a_secret_opens_what_its_key_was_made_for(registry: Registry) -> None:
    key, secret = registry.keys.create({"name": "ci"}, by=ME)
    assert secret.startswith("ld-")
    assert len(secret) >= 3 + 43, "256 bits in base64"
    assert opened(registry, secret) == key
    assert key.scopes == {"infer"}
    assert key.revoked_at is None
    assert secret.startswith(key.prefix)


@pytest.mark.parametrize("wrong", ["", "ld-", "ld-x\u00e9", "ld-" + "x" * 10_000, "\ud800", "ld- a", "' OR 1=1 --"])
def test_other_secrets_open_nothing(registry: Registry, wrong: str) -> None:
    _, secret = registry.keys.create({"name": "ci"}, by=ME)
    assert opened(registry, wrong) is None
    assert opened(registry, secret[:-1]) is None
    assert opened(registry, secret + "x") is None


def test_secrets_are_never_the_same_and_never_in_the_database(tmp_path: Path) -> None:
    registry = Registry.open(f"sqlite:///{tmp_path}/registry.db")
    secrets = {registry.keys.create({"name": "ci", "scopes": ["admin"]}, by=ME)[1] for _ in range(20)}
    assert len(secrets) == 20
    registry.close()
    with sqlite3.connect(tmp_path / "registry.db") as database:
        stored = "\n".join(database.iterdump())
    database.close()
    for secret in secrets:
        assert secret not in stored
        assert secret[12:] not in stored


def test_the_first_start_makes_one_admin_key_and_no_later_start_does(registry: Registry) -> None:
    secret = registry.keys.ensure_admin(None)
    assert secret is not None
    found = opened(registry, secret)
    assert found is not None
    assert found.scopes == {"admin", "infer"}
    assert registry.keys.ensure_admin(None) is None
    assert registry.keys.ensure_admin("another-secret-of-mine") is None
    assert opened(registry, "another-secret-of-mine") is None


def test_the_first_admin_key_may_be_chosen(registry: Registry) -> None:
    assert registry.keys.ensure_admin("chosen-by-the-operator") == "chosen-by-the-operator"
    assert opened(registry, "chosen-by-the-operator") is not None
    assert len(registry.keys.list()[0].prefix) < 9, "a prefix must not give a chosen secret away"


def test_a_short_chosen_key_is_taken_with_a_warning(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert registry.keys.ensure_admin("short") == "short"
    assert "5 characters" in caplog.text
    assert "short;" not in caplog.text


@pytest.mark.parametrize("secret", ["", "two words", "\u00fcber", "line\n", "x" * 513])
def test_a_chosen_key_must_fit_a_header(registry: Registry, secret: str) -> None:
    with pytest.raises(RegistryError):
        registry.keys.ensure_admin(secret)
    assert registry.keys.list() == ()


def test_a_revoked_key_opens_nothing_but_is_still_listed(registry: Registry) -> None:
    key, secret = registry.keys.create({"name": "ci"}, by=ME)
    assert registry.keys.revoke(key.id, by=ME).revoked_at is not None
    assert opened(registry, secret) is None
    assert [one.id for one in registry.keys.list()] == [key.id]
    assert registry.keys.revoke(key.id, by=ME) == registry.keys.list()[0], "revoking twice changes nothing"
    with pytest.raises(KeyNotFound):
        registry.keys.revoke("key-unknown", by=ME)


def test_the_last_admin_key_cannot_be_revoked(registry: Registry) -> None:
    registry.keys.ensure_admin()
    first = registry.keys.list()[0]
    registry.keys.create({"name": "ci"}, by=ME)
    with pytest.raises(RegistryError, match="last admin key"):
        registry.keys.revoke(first.id, by=ME)
    registry.keys.create({"name": "second", "scopes": ["admin"]}, by=ME)
    registry.keys.revoke(first.id, by=ME)
    assert registry.keys.ensure_admin() is None, "a restart must not bring a revoked admin back"


def test_keys_come_page_by_page_oldest_first(registry: Registry) -> None:
    made = [registry.keys.create({"name": f"app {number}"}, by=ME)[0] for number in range(5)]
    registry.keys.revoke(made[2].id, by=ME)
    whole = registry.keys.list()
    assert registry.keys.page(limit=2) == whole[:2]
    assert registry.keys.page(after=whole[1].id, limit=2) == whole[2:4]
    assert registry.keys.page(after=whole[4].id) == ()
    for unknown in ("key-000000000000", "nobody", "key-\0", ""):
        with pytest.raises(KeyNotFound):
            registry.keys.page(after=unknown)
        with pytest.raises(KeyNotFound):
            registry.keys.get(unknown)


def test_a_key_is_revoked_only_as_it_was_seen(registry: Registry) -> None:
    key, _ = registry.keys.create({"name": "app"}, by=ME)
    seen = IfMatch(frozenset({registry.keys.get(key.id).revision}))
    assert registry.keys.revoke(key.id, by=ME, if_match=seen).revoked_at is not None
    with pytest.raises(ChangedMeanwhile) as caught:
        registry.keys.revoke(key.id, by=ME, if_match=seen)
    assert (caught.value.expected, caught.value.revision) == (sorted(seen.revisions), registry.revision())


def test_what_is_said_of_a_key_is_kept(registry: Registry) -> None:
    said = {
        "name": "app",
        "scopes": ["inference", "admin"],
        "tenant": "acme",
        "adapters": ["support-*", "tiny"],
        "limits": {"requests_per_minute": 5, "tokens_per_day": None},
        "expires_in": 3600,
    }
    key, _ = registry.keys.create(said, by=ME)
    kept = registry.keys.get(key.id)
    assert kept == key
    assert kept.settings.scopes == ("admin", "infer"), "the first release's word is understood"
    assert (kept.settings.tenant, kept.settings.adapters) == ("acme", ("support-*", "tiny"))
    assert kept.settings.limits == RateLimits(requests_per_minute=5)
    assert kept.settings.expires_at is not None
    assert timedelta(minutes=59) < kept.settings.expires_at - datetime.now(UTC) <= timedelta(hours=1)
    (event,) = registry.audit.page()
    assert (event.action, event.after) == ("key.created", {"id": key.id, **kept.settings.document()})


def test_a_patch_changes_what_it_names_and_takes_back_what_is_null(registry: Registry) -> None:
    said = {"name": "app", "tenant": "acme", "limits": {"requests_per_minute": 5, "max_concurrency": 2}}
    key, secret = registry.keys.create(said, by=ME)
    patch = {"tenant": None, "adapters": ["a*"], "limits": {"max_concurrency": None, "tokens_per_day": 9}}
    changed, really = registry.keys.change(key.id, patch, by=ME)
    assert really
    assert changed == registry.keys.get(key.id) == opened(registry, secret)
    assert (changed.settings.tenant, changed.settings.adapters) == (None, ("a*",))
    assert changed.settings.limits == RateLimits(requests_per_minute=5, tokens_per_day=9)
    assert changed.revision == registry.revision() > key.revision
    event = registry.audit.page()[0]
    assert event.action == "key.changed"
    assert event.before == {"id": key.id, "adapters": None, "tenant": "acme", "limits": said["limits"]}
    assert registry.keys.change(key.id, {"adapters": ["a*"]}, by=ME) == (changed, False)
    assert registry.revision() == changed.revision, "what changes nothing is no change"
    assert registry.keys.change(key.id, {"limits": None}, by=ME)[0].settings.limits.is_empty


def test_a_key_is_changed_and_rotated_only_as_it_was_seen(registry: Registry) -> None:
    key, secret = registry.keys.create({"name": "app"}, by=ME)
    seen = IfMatch(frozenset({key.revision}))
    registry.keys.change(key.id, {"name": "other"}, by=ME, if_match=seen)
    with pytest.raises(ChangedMeanwhile):
        registry.keys.change(key.id, {"name": "third"}, by=ME, if_match=seen)
    with pytest.raises(ChangedMeanwhile):
        registry.keys.rotate(key.id, by=ME, if_match=seen)
    assert opened(registry, secret) == registry.keys.get(key.id)
    assert registry.keys.get(key.id).name == "other"


def test_after_a_rotation_both_secrets_are_good_until_the_grace_ends(registry: Registry) -> None:
    key, first = registry.keys.create({"name": "app", "tenant": "acme"}, by=ME)
    rotated, second = registry.keys.rotate(key.id, by=ME, grace=timedelta(hours=1))
    assert rotated.settings == key.settings
    assert second.startswith(rotated.prefix)
    assert rotated.old_secret_until is not None
    assert registry.keys.list() == (rotated,)
    for secret in (first, second):
        found = opened(registry, secret)
        assert found is not None
        assert found.id == key.id
    later = rotated.old_secret_until + timedelta(seconds=1)
    assert opened(registry, first, later) is None
    assert opened(registry, second, later) is not None
    event = registry.audit.page()[0]
    assert (event.action, (event.after or {})["grace_seconds"]) == ("key.rotated", 3600)
    assert second not in str(event)


def test_a_rotation_without_grace_ends_every_secret_before_it(registry: Registry) -> None:
    key, first = registry.keys.create({"name": "app"}, by=ME)
    _, second = registry.keys.rotate(key.id, by=ME, grace=timedelta(hours=9))
    assert opened(registry, first) is not None
    rotated, third = registry.keys.rotate(key.id, by=ME, grace=timedelta())
    assert rotated.old_secret_until is None
    assert opened(registry, third) is not None
    assert opened(registry, first) is None
    assert opened(registry, second) is None


def test_a_revoked_key_loses_its_earlier_secrets_too_and_is_never_changed_again(registry: Registry) -> None:
    key, first = registry.keys.create({"name": "app"}, by=ME)
    _, second = registry.keys.rotate(key.id, by=ME)
    registry.keys.revoke(key.id, by=ME)
    assert opened(registry, first) is None
    assert opened(registry, second) is None
    with pytest.raises(KeyConflict, match="revoked"):
        registry.keys.rotate(key.id, by=ME)
    with pytest.raises(KeyConflict, match="revoked"):
        registry.keys.change(key.id, {"name": "again"}, by=ME)


def test_a_ring_that_is_brought_up_to_date_is_the_one_that_is_read_anew(registry: Registry) -> None:
    made = [registry.keys.create({"name": f"app {number}"}, by=ME) for number in range(4)]
    ring = registry.keys.ring()
    assert registry.keys.ring(ring) is ring
    registry.keys.rotate(made[0][0].id, by=ME)
    registry.keys.revoke(made[1][0].id, by=ME)
    registry.keys.change(made[2][0].id, {"tenant": "acme"}, by=ME)
    registry.keys.create({"name": "new"}, by=ME)
    again = registry.keys.ring(ring)
    assert again == registry.keys.ring()
    assert len(again.secrets) == 5
    assert len(ring.secrets) == 4, "who holds the earlier one sees no change"
    assert registry.keys.ring(KeyRing()) == again


def test_the_last_use_only_goes_forward_and_is_no_change_of_the_registry(registry: Registry) -> None:
    key, _ = registry.keys.create({"name": "app"}, by=ME)
    other, _ = registry.keys.create({"name": "other"}, by=ME)
    revision, now = registry.revision(), datetime.now(UTC).replace(microsecond=0)
    registry.keys.note_uses({key.id: now, "key-000000000000": now})
    registry.keys.note_uses({key.id: now - timedelta(hours=1)})
    registry.keys.note_uses({})
    assert registry.keys.get(key.id).last_used_at == now
    assert registry.keys.get(other.id).last_used_at is None
    assert registry.revision() == revision


def test_somebody_can_always_administer(registry: Registry) -> None:
    registry.keys.ensure_admin()
    (first,) = registry.keys.list()
    passing, _ = registry.keys.create({"name": "passing", "scopes": ["admin"], "expires_in": 60}, by=ME)
    for patch in ({"scopes": ["infer"]}, {"expires_in": 60}):
        with pytest.raises(KeyConflict, match="last admin key"):
            registry.keys.change(first.id, patch, by=ME)
    with pytest.raises(KeyConflict, match="last admin key"):
        registry.keys.revoke(first.id, by=ME)
    registry.keys.revoke(passing.id, by=ME)
    registry.keys.create({"name": "second", "scopes": ["admin"]}, by=ME)
    registry.keys.change(first.id, {"expires_in": 60}, by=ME)


def test_an_expired_key_may_be_renamed_and_given_time_but_no_new_secret(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, secret = registry.keys.create({"name": "app", "expires_in": 5}, by=ME)

    class Later(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + timedelta(minutes=1)

    monkeypatch.setattr(keys, "datetime", Later)
    with pytest.raises(KeyConflict, match="expired"):
        registry.keys.rotate(key.id, by=ME)
    assert registry.keys.change(key.id, {"name": "app, late"}, by=ME)[0].name == "app, late"
    assert opened(registry, secret) is not None, "who holds it is told that it expired"
    assert registry.keys.change(key.id, {"expires_in": 600}, by=ME)[1]
    registry.keys.rotate(key.id, by=ME)


@pytest.mark.parametrize("grace", [timedelta(seconds=-1), timedelta(days=31)])
def test_a_grace_has_limits(registry: Registry, grace: timedelta) -> None:
    key, _ = registry.keys.create({"name": "app"}, by=ME)
    with pytest.raises(InvalidSettings, match="2592000"):
        registry.keys.rotate(key.id, by=ME, grace=grace)
