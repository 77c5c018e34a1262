"""An engine that breaks off, stalls, speaks nonsense, is killed or stopped: what clients get, and what is left behind.

All of its ways are tried at once, streamed and not, on one gateway: each ends within its timeout in an error that is
OpenAI's, beside each a good request is answered, and afterwards the gateway holds nothing.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass

import httpx
import pytest

from tests.faults.conftest import TIMEOUTS
from tests.faults.engine import BEHAVIOURS
from tests.faults.world import Gateway, eventually

# The time that a busy machine may add before a test calls a request hung.
SPARE_SECONDS = 20

UNAVAILABLE = "503 engine_unavailable"
GARBLED = "502 engine_garbled"
LATE = "504 engine_timeout"
BROKE_OFF = "event engine_unavailable"
STALLED = "event engine_timeout"

# (whole, streamed): what the client gets.
EXPECTED: dict[str, tuple[str, str]] = {
    "good": ("answer", "answer"),
    "takes_its_time": ("answer", "answer"),
    "closes_at_once": (UNAVAILABLE, UNAVAILABLE),
    "resets_at_once": (UNAVAILABLE, UNAVAILABLE),
    "resets_in_the_middle": (UNAVAILABLE, BROKE_OFF),
    "ends_in_the_middle": (UNAVAILABLE, BROKE_OFF),
    "ends_within_a_chunk": (UNAVAILABLE, BROKE_OFF),
    "sends_a_bad_chunk_size": (UNAVAILABLE, BROKE_OFF),
    "says_nothing": (LATE, LATE),
    "stops_in_the_middle": (LATE, STALLED),
    "dribbles": (LATE, STALLED),
    "begins_an_event_without_end": (LATE, LATE),
    "continues_for_ever": (LATE, LATE),
    "speaks_no_http": (GARBLED, GARBLED),
    "speaks_only_binary": (GARBLED, GARBLED),
    "sends_garbage_as_events": (BROKE_OFF, BROKE_OFF),
    "promises_more_than_it_sends": (UNAVAILABLE, BROKE_OFF),
    "promises_less_than_it_sends": (GARBLED, BROKE_OFF),
    "has_two_lengths": (GARBLED, GARBLED),
    "has_length_and_chunks": (GARBLED, GARBLED),
    "has_headers_without_end": (GARBLED, GARBLED),
    "has_one_header_that_never_ends": (GARBLED, GARBLED),
    "has_too_many_headers": (GARBLED, GARBLED),
    "has_a_strange_content_type": (GARBLED, GARBLED),
    "answers_html": (GARBLED, GARBLED),
    "answers_half_json": (GARBLED, GARBLED),
    "answers_nothing": (GARBLED, GARBLED),
    "redirects": (GARBLED, GARBLED),
    "switches_protocols": (GARBLED, GARBLED),
    "has_a_status_of_its_own": (GARBLED, GARBLED),
    "refuses_in_html": ("500 None", "500 None"),
    "refuses_in_deep_json": ("400 None", "400 None"),
    "refuses_in_strange_json": ("422 None", "422 None"),
    "refuses_with_strange_headers": ("503 None", "503 None"),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    what: str
    seconds: float
    good_after: bool
    text: str


async def ask(http: httpx.AsyncClient, behaviour: str, *, stream: bool) -> tuple[str, str]:
    """What a client is told, in short and whole."""
    answer = await http.post("/v1/completions", json={"model": "tiny", "prompt": behaviour, "stream": stream})
    assert answer.headers["x-request-id"]
    if answer.status_code != 200:
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert isinstance(error["message"], str)
        assert error["message"]
        if answer.status_code in (429, 503):
            assert answer.headers["retry-after"].isdecimal()
        return f"{answer.status_code} {error['code']}", answer.text
    if not answer.headers["content-type"].startswith("text/event-stream"):
        try:
            answer.json()
        except ValueError:
            return "broken answer", answer.text
        return "answer", answer.text
    *events, done, rest = answer.text.split("\n\n")
    assert (done.strip(), rest) == ("data: [DONE]", ""), answer.text[-500:]
    last = events[-1].strip()
    if last.startswith('data: {"error":'):
        return f"event {json.loads(last.removeprefix('data: '))['error']['code']}", answer.text
    return "answer", answer.text


@pytest.fixture(scope="module")
def earlier(gateway: Gateway) -> int:
    """How many records the gateway's log has of other files' tests."""
    return len(gateway.records())


@pytest.fixture(scope="module")
def outcomes(gateway: Gateway, earlier: int) -> dict[tuple[str, bool], Outcome]:
    before = gateway.held()

    async def one(http: httpx.AsyncClient, behaviour: str, stream: bool) -> Outcome:
        began = time.monotonic()
        what, text = await ask(http, behaviour, stream=stream)
        seconds = time.monotonic() - began
        good, _ = await ask(http, "good", stream=stream)
        return Outcome(what, seconds, good == "answer", text)

    async def every() -> dict[tuple[str, bool], Outcome]:
        ways = [(behaviour, stream) for behaviour in EXPECTED for stream in (False, True)]
        async with gateway.async_http() as http:
            done = await asyncio.gather(*(one(http, *way) for way in ways))
        return dict(zip(ways, done, strict=True))

    found = asyncio.run(every())
    gateway.require_quiet(before)
    return found


def test_every_way_to_misbehave_is_tried() -> None:
    # Those left out are for slow clients, and for a gateway that is told to stop.
    assert EXPECTED.keys() == BEHAVIOURS.keys() - {"main", "floods", "waits_for_the_word"}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("behaviour", EXPECTED)
def test_an_engine_that(behaviour: str, stream: bool, outcomes: dict[tuple[str, bool], Outcome]) -> None:
    outcome = outcomes[behaviour, stream]
    assert outcome.what == EXPECTED[behaviour][stream], outcome.text[:2000]
    assert outcome.seconds < TIMEOUTS["request_timeout"] + SPARE_SECONDS
    assert outcome.good_after


def test_afterwards_the_gateway_is_ready_and_no_fault_was_its_own(
    gateway: Gateway, earlier: int, outcomes: dict[tuple[str, bool], Outcome]
) -> None:
    eventually(gateway.ready)
    ours = [
        record for record in gateway.records()[earlier:] if record["level"] == "error" and "request_id" not in record
    ]
    assert ours == []
