"""The fast reader of requests vouches only for what the exact one reads in the same way."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loradock_adapters.strict_json import parse_object
from loradock_server.gateway import fast_json
from loradock_server.gateway.errors import BadRequest
from loradock_server.gateway.request_body import parse_request

SEED = b'{"a" :{"b":[1,2.5e3,{"c":"d\\"e\\": x"}]},"f":null,"g":true,"h":"\\ud83d\\ude00","i":-0.0,"j":12}'
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for key, part in value.items() for text in (key, *_texts(part))]
    return [text for part in value for text in _texts(part)] if isinstance(value, list) else []


@given(st.dictionaries(st.text(max_size=5), _VALUES, max_size=5), st.booleans())
def test_it_reads_and_writes_every_object_exactly(value: dict[str, Any], spaced: bool) -> None:
    try:
        text = json.dumps(value, ensure_ascii=False, indent=1 if spaced else None).encode()
    except UnicodeEncodeError:
        return
    found = fast_json.decode_object(text)
    if found is None:  # text with a quote and a colon, or that begins with a colon, looks like one key more
        assert '"' in repr(value) or ":" in "".join(_texts(value))
        found = parse_object(text)
    assert repr(found) == repr(value)
    assert repr(json.loads(fast_json.encode(found))) == repr(value)


@given(
    st.lists(
        st.tuples(
            st.integers(0, len(SEED) - 1),
            st.sampled_from([bytes([byte]) for byte in b'{}[]",:\\ \n0eE+-.ntu\x00\xff\xed\xa0'] + [b'"b":', b""]),
        ),
        max_size=4,
    )
)
def test_whatever_is_done_to_the_bytes_it_never_says_something_else_than_the_exact_reader(
    changes: list[tuple[int, bytes]],
) -> None:
    body = SEED
    for at, put in changes:
        body = body[:at] + put + body[at + (len(put) <= 1) :]
    found = fast_json.decode_object(body)
    if found is not None:
        assert repr(found) == repr(parse_object(body))


@pytest.mark.parametrize(
    "body", [b'{"a":1,"a":1}', b'{"x":{"b":1 , "b"\n:2}}', b'{"a":NaN}', b"[1]", b'{"a":1}{', b'{"a":"\\ud800"}']
)
def test_what_two_readers_could_read_differently_it_leaves_to_the_exact_one(body: bytes) -> None:
    assert fast_json.decode_object(body) is None


def test_a_whole_number_of_any_length_stays_what_it_is() -> None:
    body = b'{"seed":123456789012345678901234567890}'
    assert fast_json.encode(parse_request(body)) == body


def test_a_number_that_no_float_holds_is_refused_instead_of_becoming_null() -> None:
    with pytest.raises(BadRequest, match="range|infin"):
        parse_request(b'{"temperature":1e400}')
