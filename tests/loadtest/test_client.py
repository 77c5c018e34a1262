"""The client, against a server with known times and scripted faults: the tester is tested."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

import aiohttp
import pytest

from loadtest.client import Client, Generation, Outcome, ServerUnusable, Target
from tests.loadtest.fake_server import BASE, KEY, FakeServer, Script, serve

TOLERANCE = 0.15  # beside what the server knows to have been late: a busy machine may wake the client late, never early


def ask(script: Script, *, due_before: float = 0.0, timeout: float = 30.0) -> tuple[Outcome, FakeServer]:
    async def run() -> tuple[Outcome, FakeServer]:
        async with serve({"bot": script}) as server, session(timeout) as http:
            due = time.perf_counter() - due_before if due_before else None
            outcome = await Client(http, Target(server.url, KEY)).chat("bot", "hello there", Generation(64), due)
            return outcome, server

    return asyncio.run(run())


def session(timeout: float = 30.0) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout))


def models(target_key: str | None, scripts: Mapping[str, Script]) -> dict[str, str | None]:
    async def run() -> dict[str, str | None]:
        async with serve(scripts) as server, session() as http:
            return await Client(http, Target(server.url, target_key)).models()

    return asyncio.run(run())


def test_the_first_token_is_timed_from_sending_to_the_first_content() -> None:
    outcome, server = ask(Script(ttft=0.1, tpot=0.2, tokens=2))
    (seen,) = server.requests
    true = seen.written[0] - seen.arrived
    assert outcome.ttft_seconds is not None
    assert outcome.error is None
    assert 0.1 <= true <= outcome.ttft_seconds < true + TOLERANCE + server.late


def test_time_per_output_token_is_the_spread_of_tokens_over_one_less() -> None:
    outcome, server = ask(Script(ttft=0.05, tpot=0.25, tokens=3))
    (seen,) = server.requests
    true = (seen.written[-1] - seen.written[0]) / 2
    assert outcome.tpot_seconds == pytest.approx(true, abs=TOLERANCE / 2 + server.late)
    assert true >= 0.25
    assert outcome.output_tokens == 3


def test_the_whole_request_takes_as_long_as_all_of_it() -> None:
    outcome, server = ask(Script(ttft=0.05, tpot=0.02, tokens=4))
    assert 0.05 + 3 * 0.02 <= outcome.e2e_seconds < 0.05 + 3 * 0.02 + TOLERANCE + server.late


def test_a_request_that_left_late_is_timed_from_when_it_was_due() -> None:
    outcome, _ = ask(Script(), due_before=0.5)
    assert outcome.ttft_seconds is not None
    assert outcome.late_seconds >= 0.5
    assert outcome.ttft_seconds > 0.5
    assert outcome.e2e_seconds > 0.5


def test_tokens_are_the_servers_own_counts() -> None:
    outcome, _ = ask(Script(tokens=5, cached_tokens=16))
    assert (outcome.prompt_tokens, outcome.output_tokens, outcome.cached_tokens) == (34, 5, 16)


def test_one_token_has_no_time_per_further_token() -> None:
    outcome, _ = ask(Script(tokens=1))
    assert outcome.ttft_seconds is not None
    assert outcome.tpot_seconds is None


def test_an_empty_answer_is_no_error_and_has_no_first_token() -> None:
    outcome, _ = ask(Script(tokens=0))
    assert (outcome.error, outcome.ttft_seconds, outcome.output_tokens) == (None, None, 0)


def test_it_asks_for_a_stream_with_usage_under_its_key() -> None:
    _, server = ask(Script())
    (seen,) = server.requests
    assert seen.body["stream"] is True
    assert seen.body["stream_options"] == {"include_usage": True}
    assert "ignore_eos" not in seen.body
    assert seen.authorization == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("http_503", "http 503: engine_unavailable"),
        ("in_stream", "stream: engine_unavailable"),
        ("no_done", "stream: ended without [DONE]"),
        ("no_usage", "stream: no usage chunk"),
        ("wrong_adapter", "wrong adapter: somebody-else@1 answered for bot"),
    ],
)
def test_every_kind_of_failure_has_its_name(fault: str, error: str) -> None:
    outcome, _ = ask(Script(fault=fault))
    assert outcome.error == error


def test_an_answer_that_never_comes_is_a_timeout() -> None:
    outcome, _ = ask(Script(fault="hang"), timeout=0.2)
    assert outcome.error == "timeout"


def test_a_server_that_is_not_there_fails_each_request() -> None:
    async def run() -> Outcome:
        async with serve({}) as server:
            gone = server.url
        async with session() as http:
            return await Client(http, Target(gone)).chat("bot", "hello", Generation(8))

    assert asyncio.run(run()).error == "connection: ClientConnectorError"


def test_models_come_with_their_parents() -> None:
    assert models(KEY, {"bot": Script()}) == {BASE: None, "bot": BASE}


def test_a_refused_key_says_where_to_give_one() -> None:
    with pytest.raises(ServerUnusable, match=r"401: invalid_api_key; give the key in LORADOCK_API_KEY"):
        models("wrong", {})
