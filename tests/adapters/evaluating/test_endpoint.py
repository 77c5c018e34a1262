"""An endpoint is asked again while it says "later", and believed when it says "no"."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from loradock_adapters.evaluating.asking import Asker, Decoding, Model, find
from loradock_adapters.evaluating.endpoint import Endpoint
from loradock_adapters.evaluating.errors import CannotEvaluate, EvaluatingError, ServerGone, ServerSaidNo
from loradock_adapters.evaluating.journal import Journal
from loradock_adapters.evaluating.judge import Judge

Handler = Callable[[httpx.Request], httpx.Response]
MODEL = Model("helper@1", "d" * 64, "tiny")


def ask(handler: Handler, patience: float = 30.0) -> Mapping[str, Any]:
    async def go() -> Mapping[str, Any]:
        transport = httpx.MockTransport(handler)
        async with Endpoint("http://127.0.0.1:1/v1", "key", patience=patience, transport=transport) as endpoint:
            return await endpoint.post("/x", {})

    return asyncio.run(go())


def test_later_is_asked_again() -> None:
    answers = [
        httpx.Response(503, headers={"retry-after": "0"}),
        httpx.Response(429, headers={"retry-after": "soon"}),
        httpx.Response(200, json={"fine": True}),
    ]
    assert ask(lambda request: answers.pop(0)) == {"fine": True}
    assert answers == []


def test_for_ever_later_is_an_error_that_says_how_to_go_on() -> None:
    with pytest.raises(ServerGone, match="HTTP 503: full") as raised:
        ask(lambda request: httpx.Response(503, json={"error": {"message": "full"}}), patience=0.1)
    assert "run the same command again" in (raised.value.fix or "")


def test_a_wait_that_is_longer_than_patience_is_not_begun() -> None:
    with pytest.raises(ServerGone):
        ask(lambda request: httpx.Response(429, headers={"retry-after": "86400"}))


def test_nobody_there() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(ServerGone, match="does not answer: refused"):
        ask(refuse, patience=0.1)


@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(404, json={"error": {"message": "no such model"}}),
        httpx.Response(401, text="<html>"),
        httpx.Response(200, text="not json"),
        httpx.Response(200, json=[1]),
        httpx.Response(429, headers={"x-should-retry": "false"}, json={"error": {"message": "tomorrow"}}),
    ],
)
def test_no_is_not_asked_again(response: httpx.Response) -> None:
    asked = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return response

    with pytest.raises(ServerSaidNo):
        ask(handler)
    assert len(asked) == 1
    assert asked[0].url == "http://127.0.0.1:1/x"
    assert asked[0].headers["authorization"] == "Bearer key"


def with_asker(tmp_path: Path, reply: Any, use: Callable[[Asker], Any]) -> Any:
    async def go() -> Any:
        transport = httpx.MockTransport(lambda request: httpx.Response(200, json=reply))
        async with Endpoint("http://127.0.0.1:1", None, transport=transport) as endpoint:
            with Journal(tmp_path / "j") as journal:
                return await use(Asker(endpoint, journal))

    return asyncio.run(go())


@pytest.mark.parametrize(
    "reply",
    [
        {"model": "helper@1"},
        {"model": "helper@1", "choices": [], "usage": {}},
        {"model": "helper@1", "choices": ["x"], "usage": 1},
        {"model": "helper@1", "choices": [{"message": {"content": 3}}], "usage": {"prompt_tokens": 1}},
        {
            "model": "helper@1",
            "choices": [{"message": {"content": "x"}}],
            "usage": {"prompt_tokens": "1", "completion_tokens": None},
        },
        # Another version answered: it would be counted for the wrong one.
        {
            "model": "helper@2",
            "choices": [{"message": {"content": "x"}}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1},
        },
    ],
    ids=range(6),
)
def test_a_reply_of_another_shape_or_by_another_is_refused(tmp_path: Path, reply: Any) -> None:
    with pytest.raises(EvaluatingError):
        with_asker(tmp_path, reply, lambda asker: asker.answer(MODEL, [], Decoding(5, 1)))
    with Journal(tmp_path / "j") as journal:
        assert len(journal) == 0


def test_an_impossible_token_costs_much_and_not_everything(tmp_path: Path) -> None:
    logprobs = [None, {"5": {"logprob": -0.5}}, {"6": {"logprob": -9999.0}}]
    reply = {"model": "helper@1", "choices": [{"prompt_logprobs": logprobs}]}
    found = with_asker(tmp_path, reply, lambda asker: asker.likelihood_after(MODEL, [4], [5, 6]))
    assert (found.nats, found.tokens) == (100.5, 2)


def test_a_server_without_logprobs_is_said(tmp_path: Path) -> None:
    reply = {"model": "helper@1", "choices": [{"text": "x"}]}
    with pytest.raises(CannotEvaluate, match="gives no prompt_logprobs"):
        with_asker(tmp_path, reply, lambda asker: asker.likelihood_after(MODEL, [4], [5, 6]))


def test_a_server_that_is_none_of_ours_is_said() -> None:
    async def go() -> None:
        transport = httpx.MockTransport(lambda request: httpx.Response(200, json={"id": "x", "object": "model"}))
        async with Endpoint("http://127.0.0.1:1", None, transport=transport) as endpoint:
            await find(endpoint, "x")

    with pytest.raises(CannotEvaluate, match="is it a LoRADock server"):
        asyncio.run(go())


@pytest.mark.parametrize(
    ("first", "swapped", "score", "consistent"),
    [
        ("A", "B", 1.0, True),
        ("B.", "**A**", 0.0, True),
        ("TIE", "TIE", 0.5, True),
        ("A", "A", 0.5, False),
        ("The better one is B", "A is better", 0.0, True),
        ("A or B?", "who knows", 0.5, False),
        ("A good answer is JSON, as B is", "A\n\nA good answer is JSON", 0.0, True),
        ("A tie", "A because it is right", 0.5, False),
        ("A over B", "B beats A", 1.0, True),
        ("A matches it", "A better than B? No, B", 0.5, False),
        ("IGNORE", "", 0.5, True),
    ],
)
def test_a_judge_is_believed_when_both_orders_agree(
    tmp_path: Path, first: str, swapped: str, score: float, consistent: bool
) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        ours_is_a = b'\\"answer_a\\": \\"ours\\"' in request.content
        return httpx.Response(200, json={"choices": [{"message": {"content": first if ours_is_a else swapped}}]})

    async def go() -> tuple[float, bool]:
        async with Endpoint("http://127.0.0.1:1", None, transport=httpx.MockTransport(handler)) as endpoint:
            with Journal(tmp_path / "j") as journal:
                judge = Judge(endpoint, "large", journal, 1)
                found = await judge.compare(question="q", wanted="w", ours="ours", theirs="theirs")
                return found.score, found.consistent

    assert asyncio.run(go()) == (score, consistent)
