"""API keys."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

import pytest

from loradock_adapters.errors import ChangedMeanwhile, KeyNotFound, RegistryError
from loradock_adapters.registry import IfMatch, Registry
from tests.adapters.registry.making import ME


def test_a_secret_opens_what_its_key_was_made_for(registry: Registry) -> None:
    key, secret = registry.keys.create("ci", {"inference"}, by=ME)
    assert secret.startswith("ld-")
    assert len(secret) >= 3 + 43, "256 bits in base64"
    assert registry.keys.verify(secret) == key
    assert key.scopes == {"inference"}
    assert key.revoked_at is None
    assert secret.startswith(key.prefix)


@pytest.mark.parametrize("wrong", ["", "ld-", "ld-x\u00e9", "ld-" + "x" * 10_000, "\ud800", "ld- a", "' OR 1=1 --"])
def test_other_secrets_open_nothing(registry: Registry, wrong: str) -> None:
    _, secret = registry.keys.create("ci", {"inference"}, by=ME)
    assert registry.keys.verify(wrong) is None
    assert registry.keys.verify(secret[:-1]) is None
    assert registry.keys.verify(secret + "x") is None


def test_secrets_are_never_the_same_and_never_in_the_database(tmp_path: Path) -> None:
    registry = Registry.open(f"sqlite:///{tmp_path}/registry.db")
    secrets = {registry.keys.create("ci", {"admin"}, by=ME)[1] for _ in range(20)}
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
    found = registry.keys.verify(secret)
    assert found is not None
    assert found.scopes == {"admin", "inference"}
    assert registry.keys.ensure_admin(None) is None
    assert registry.keys.ensure_admin("another-secret-of-mine") is None
    assert registry.keys.verify("another-secret-of-mine") is None


def test_the_first_admin_key_may_be_chosen(registry: Registry) -> None:
    assert registry.keys.ensure_admin("chosen-by-the-operator") == "chosen-by-the-operator"
    assert registry.keys.verify("chosen-by-the-operator") is not None
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
    key, secret = registry.keys.create("ci", {"inference"}, by=ME)
    assert registry.keys.revoke(key.id, by=ME).revoked_at is not None
    assert registry.keys.verify(secret) is None
    assert [one.id for one in registry.keys.list()] == [key.id]
    assert registry.keys.revoke(key.id, by=ME) == registry.keys.list()[0], "revoking twice changes nothing"
    with pytest.raises(KeyNotFound):
        registry.keys.revoke("key-unknown", by=ME)


def test_the_last_admin_key_cannot_be_revoked(registry: Registry) -> None:
    registry.keys.ensure_admin()
    first = registry.keys.list()[0]
    registry.keys.create("ci", {"inference"}, by=ME)
    with pytest.raises(RegistryError, match="last admin key"):
        registry.keys.revoke(first.id, by=ME)
    registry.keys.create("second", {"admin"}, by=ME)
    registry.keys.revoke(first.id, by=ME)
    assert registry.keys.ensure_admin() is None, "a restart must not bring a revoked admin back"


@pytest.mark.parametrize(
    ("name", "scopes"),
    [("ci", []), ("ci", ["root"]), ("", ["admin"]), ("a\nb", ["admin"]), ("x" * 101, ["admin"])],
)
def test_odd_names_and_unknown_scopes_are_refused(registry: Registry, name: str, scopes: list[str]) -> None:
    with pytest.raises(RegistryError):
        registry.keys.create(name, scopes, by=ME)
    assert registry.keys.list() == ()


def test_keys_come_page_by_page_oldest_first(registry: Registry) -> None:
    made = [registry.keys.create(f"app {number}", {"inference"}, by=ME)[0] for number in range(5)]
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
    key, _ = registry.keys.create("app", {"inference"}, by=ME)
    seen = IfMatch(frozenset({registry.keys.get(key.id).revision}))
    assert registry.keys.revoke(key.id, by=ME, if_match=seen).revoked_at is not None
    with pytest.raises(ChangedMeanwhile) as caught:
        registry.keys.revoke(key.id, by=ME, if_match=seen)
    assert (caught.value.expected, caught.value.revision) == ([1], 2)
