"""Streams are recognised however the network cuts them into pieces."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from loradock_server.gateway.sse import StreamScan, leading_error


def event(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


ROLE = event({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
CONTENT = event({"choices": [{"delta": {"content": "é\n"}}]})
STREAM = b": comment\n\n" + ROLE + CONTENT + event({"choices": []}) + b"data: [DONE]\n\n"
FIRST_CONTENT_AT = STREAM.index(CONTENT) + len(CONTENT) - 1


@given(st.lists(st.integers(1, len(STREAM) - 1), unique=True).map(sorted))
def test_content_and_end_are_seen_at_the_right_byte_for_every_cut(cuts: list[int]) -> None:
    scan = StreamScan()
    for start, end in zip([0, *cuts], [*cuts, len(STREAM)], strict=True):
        scan.feed(STREAM[start:end])
        assert scan.has_content == (end >= FIRST_CONTENT_AT)
        assert scan.between_events == STREAM[:end].endswith(b"\n\n")
    assert scan.is_done


def test_tool_calls_completions_and_responses_count_as_content() -> None:
    for value in (
        {"choices": [{"delta": {"tool_calls": [{"index": 0}]}}]},
        {"choices": [{"delta": {"reasoning_content": "hm"}}]},
        {"choices": [{"text": "x"}]},
        {"type": "response.output_text.delta", "delta": "x"},
    ):
        scan = StreamScan()
        scan.feed(event(value))
        assert scan.has_content, value


def test_what_is_no_content_does_not_count() -> None:
    for raw in (ROLE, b"data: {\n\n", b"data: 3\n\n", event({"choices": [3]}), event({"type": "response.created"})):
        scan = StreamScan()
        scan.feed(raw)
        assert not scan.has_content, raw


def test_only_an_error_in_the_first_event_is_a_leading_error() -> None:
    assert leading_error(event({"error": {"message": "no"}}) + b"data: [DONE]\n\n") == {"message": "no"}
    assert leading_error(CONTENT + event({"error": {"message": "no"}})) is None
    assert leading_error(b"") is None
