"""What gateway and engine say to each other, read as it was meant."""

from __future__ import annotations

import pytest

from loradock_server import wire


@pytest.mark.parametrize("text", ["", "key-1f2e3d4c5b6a", "ümlaut & space", "a%20b", "\r\nx-evil: 1", "😀", "\x00"])
def test_any_text_travels_in_a_header(text: str) -> None:
    value = wire.encoded(text)
    assert value.isascii()
    assert value.isprintable()
    assert wire.decoded(value) == text
