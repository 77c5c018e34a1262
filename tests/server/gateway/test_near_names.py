"""Which name was meant: bounded work, and never a name that somebody may not know of."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from types import SimpleNamespace

import pytest

from loradock_adapters.key_settings import compiled
from loradock_server.gateway import near_names
from loradock_server.gateway.near_names import NearNames

NAMES = ["support-bot", "support-de", "mail-triage", "org/Base-Model"]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("suport-bot", "support-bot"),
        ("mail_triage", "mail-triage"),
        ("org/base-model", "org/Base-Model"),
        ("zzz", None),
        ("x" * 100_000, None),
        ("", None),
    ],
)
def test_the_nearest_name_is_found_or_none(asked: str, found: str | None) -> None:
    assert NearNames(NAMES).nearest(asked, None) == found


def test_names_that_are_not_visible_are_never_named() -> None:
    near = NearNames(NAMES)
    assert near.nearest("suport-bot", compiled(("mail-*",))) is None
    assert near.nearest("suport-bot", compiled(("support-d*",))) == "support-de"
    assert near.nearest("suport-bot", compiled(("nothing",))) is None


def test_among_very_many_names_few_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []

    def get_close_matches(word: str, names: Iterable[str], n: int) -> list[str]:
        among = list(names)
        compared.append(len(among))
        return difflib.get_close_matches(word, among, n=n)

    monkeypatch.setattr(near_names, "difflib", SimpleNamespace(get_close_matches=get_close_matches))
    near = NearNames(f"adapter-{number:05}" for number in range(10_000))
    assert near.nearest("adapter-0500x", None) is not None
    assert near.nearest("adapter-0999", re.compile("adapter-0")) is not None
    assert max(compared) <= 200


def test_many_sets_of_patterns_do_not_pile_up() -> None:
    near = NearNames(NAMES)
    for number in range(1000):
        near.nearest("x", re.compile(f"support-{number}"))
    assert len(near._visible) <= 64
