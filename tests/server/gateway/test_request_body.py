"""Bodies of inference requests: read in one way or refused, never a 500."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loradock_server.gateway.errors import BadRequest
from loradock_server.gateway.request_body import MAX_DEPTH, parse_request

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), VALUES), st.booleans())
def test_what_json_can_say_is_read_as_json_reads_it(value: dict[str, Any], ascii_only: bool) -> None:
    assert parse_request(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"", "not JSON"),
        (b'{"a": 1', "not JSON"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": [-Infinity]}', "Infinity"),
        (b'{"a": 1, "a": 2}', "'a' appears twice"),
        (b'{"b": {"a": 1, "a": 1}}', "'a' appears twice"),
        (b'{"messages": ["\\ud83d"]}', "surrogate pair in 'messages'"),
        (b'{"a": {"\\uDC00": 1}}', "surrogate pair in 'a'"),
        (b'{"\\ude00\\ud83d": 1}', "surrogate pair"),
        (b'{"a": "\xed\xa0\x80"}', "not UTF-8"),
        (b'\xef\xbb\xbf{"a": 1}', "not JSON"),
        (b'"text"', "not an object"),
        (b"{" + b'"a":[' * 60 + b"{" * 60, "not JSON"),
    ],
)
def test_what_two_readers_could_understand_differently_is_refused(body: bytes, word: str) -> None:
    with pytest.raises(BadRequest, match=word):
        parse_request(body)


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_depth_is_bounded_whatever_the_stack_holds(opening: bytes) -> None:
    closing = {b"[": b"]", b'{"a":': b"}"}[opening]

    def nested(levels: int) -> bytes:
        return b'{"deep":' + opening * (levels - 1) + b"1" + closing * (levels - 1) + b"}"

    assert "deep" in parse_request(nested(MAX_DEPTH))
    for levels in (MAX_DEPTH + 1, 300, 900, 50_000):
        with pytest.raises(BadRequest, match="nested too deeply"):
            parse_request(nested(levels))


def test_a_body_with_many_brackets_is_not_a_deep_one() -> None:
    wide = {"prompt": [[1, 2], *([[]] * 500)], "text": "[" * 500 + "\\ud83d is not a surrogate here"}
    assert parse_request(json.dumps(wide).encode()) == wide
