"""What may be said of a key, and what its patterns match."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from loradock_adapters.errors import InvalidSettings
from loradock_adapters.key_settings import KeySettings, compiled

NOW = datetime(2026, 1, 31, 17, 5, 59, tzinfo=UTC)


def new(**said: Any) -> KeySettings:
    return KeySettings.new({"name": "app", **said}, NOW)


def test_a_key_that_nothing_is_said_of_infers_from_every_adapter_for_ever() -> None:
    said = new()
    assert (said.scopes, said.tenant, said.adapters, said.expires_at) == (("infer",), None, None, None)
    assert said.limits.is_empty
    assert said.document() == {"name": "app"}


def test_the_document_is_read_back_as_it_was() -> None:
    said = new(scopes=["infer", "admin", "infer"], tenant="acme", adapters=["a*"], limits={"max_concurrency": 1})
    assert said.scopes == ("admin", "infer")
    assert KeySettings.new(said.document(), NOW) == said
    assert said.patched({}, NOW) == said


@pytest.mark.parametrize(
    ("expiry", "at"),
    [
        ({"expires_in": 60}, NOW + timedelta(minutes=1)),
        ({"expires_at": "2026-02-01T00:00:00+01:00"}, datetime(2026, 1, 31, 23, tzinfo=UTC)),
        ({"expires_at": None}, None),
        ({"expires_in": None}, None),
    ],
)
def test_an_expiry_is_a_time_or_a_span_from_now(expiry: dict[str, Any], at: datetime | None) -> None:
    assert new(**expiry).expires_at == at


def test_an_expiry_may_be_taken_back_and_one_that_has_passed_may_stay() -> None:
    said = new(expires_in=60)
    assert said.patched({"expires_at": None}, NOW).expires_at is None
    later = NOW + timedelta(hours=1)
    assert said.patched({"name": "other"}, later).expires_at == said.expires_at
    with pytest.raises(InvalidSettings, match="in the past"):
        said.patched({"expires_at": (NOW + timedelta(minutes=2)).isoformat()}, later)


@pytest.mark.parametrize(
    ("said", "where"),
    [
        ({"name": ""}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "\u202e"}, "name"),
        ({"name": "\ud800"}, "settings"),
        ({"name": "x" * 101}, "name"),
        ({"name": 3}, "name"),
        ({"name": None}, "name"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["root"]}, "scopes.0"),
        ({"scopes": [["admin"]]}, "scopes.0"),
        ({"scopes": "admin"}, "scopes"),
        ({"tenant": ""}, "tenant"),
        ({"tenant": "a b"}, "tenant"),
        ({"tenant": "acme\n"}, "tenant"),
        ({"tenant": "x" * 64}, "tenant"),
        ({"adapters": []}, "adapters"),
        ({"adapters": "a*"}, "adapters"),
        ({"adapters": [""]}, "adapters.0"),
        ({"adapters": ["bot@3"]}, "adapters.0"),
        ({"adapters": ["a b"]}, "adapters.0"),
        ({"adapters": ["a\n"]}, "adapters.0"),
        ({"adapters": ["x" * 201]}, "adapters.0"),
        ({"adapters": ["a"] * 101}, "adapters"),
        ({"expires_at": "2026-01-31T17:05:58Z"}, "expires_at"),
        ({"expires_at": "2026-02-31"}, "expires_at"),
        ({"expires_at": "2026-03-01T00:00:00"}, "expires_at"),
        ({"expires_at": 1e11}, "expires_at"),
        ({"expires_at": "9999-12-31T23:59:59-23:59"}, "expires_at"),
        ({"expires_in": 0}, "expires_in"),
        ({"expires_in": True}, "expires_in"),
        ({"expires_in": "30d"}, "expires_in"),
        ({"expires_in": 10**5000}, "expires_in"),
        ({"expires_in": 60, "expires_at": "2026-03-01T00:00:00Z"}, "expires_in"),
        ({"limits": {"requests_per_minute": 0}}, "limits.requests_per_minute"),
        ({"limits": {"rpm": 1}}, "limits.rpm"),
        ({"limits": 5}, "limits.limits"),
        ({"tenent": "acme"}, "tenent"),
    ],
)
def test_nonsense_is_refused_by_its_place(said: dict[str, Any], where: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        new(**said)
    (fault,) = caught.value.faults
    assert fault.where == where
    assert fault.limit
    assert fault.fix
    assert len(str(caught.value)) < 1000


def test_everything_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(InvalidSettings) as caught:
        new(tenant="", scopes=["root"], limits={"requests_per_minute": 0, "tokens_per_day": -1})
    assert len(caught.value.faults) == 4


@pytest.mark.parametrize(
    ("globs", "matching", "others"),
    [
        (["*"], ["support", "org/Base-Model", "a.b_c"], []),
        (["support-*"], ["support-de", "support-"], ["support", "xsupport-de"]),
        (["support"], ["support"], ["support2", "Support", "support\n"]),
        (["a?", "b[0-2]", "c[!x]"], ["ab", "b1", "cy"], ["a", "b3", "cx"]),
        (["a.b"], ["a.b"], ["axb"]),
        (["["], ["["], ["a"]),
    ],
)
def test_a_pattern_matches_whole_names_as_a_shell_would(
    globs: list[str], matching: list[str], others: list[str]
) -> None:
    pattern = compiled(tuple(new(adapters=globs).adapters or ()))
    assert [name for name in matching + others if pattern.match(name)] == matching


def test_no_pattern_takes_long() -> None:
    pattern = compiled(tuple(f"{'*a' * 90}*{number}" for number in range(100)))
    assert pattern.match("a" * 63) is None
