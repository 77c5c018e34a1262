"""What gateways say of digests is kept until it is asked for, within bounds."""

from __future__ import annotations

import pytest

from loradock_server.engine import signatures as module
from loradock_server.engine.signatures import MAX_PER_DIGEST, Signatures


def test_the_latest_words_on_a_digest_are_kept_and_silence_is_none() -> None:
    book = Signatures()
    book.note("d", "")
    assert book.of("d") == ()
    for number in range(MAX_PER_DIGEST + 3):
        book.note("d", f"s{number}")
    book.note("d", "s4")
    assert len(book.of("d")) == MAX_PER_DIGEST
    assert book.of("d")[-2:] == (f"s{MAX_PER_DIGEST + 2}", "s4")
    assert book.of("d").count("s4") == 1


def test_the_digest_that_was_spoken_of_longest_ago_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_DIGESTS", 2)
    book = Signatures()
    for digest in ("a", "b", "a", "c"):
        book.note(digest, "s")
    assert [book.of(digest) for digest in "abc"] == [("s",), (), ("s",)]
