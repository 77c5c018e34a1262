"""OpenAI's SDK and the real engine: everything that a chat can ask for, under an adapter's name."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolUnionParam
from pydantic import BaseModel

from tests.e2e.sdk.asks import ID, MODEL, SWITCH, is_switch
from tests.e2e.server import Server

pytestmark = pytest.mark.e2e

ASK: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Turn off the lamp please"}]
TOOLS: list[ChatCompletionToolUnionParam] = [
    {"type": "function", "function": {"name": "switch", "parameters": SWITCH, "strict": True}},
    {
        "type": "function",
        "function": {
            "name": "dim",
            "parameters": {
                "type": "object",
                "properties": {"level": {"type": "integer", "enum": [1, 2, 3]}},
                "required": ["level"],
                "additionalProperties": False,
            },
            "strict": True,
        },
    },
]


def chat(server: Server, **more: Any) -> Any:
    options = {"model": MODEL, "messages": ASK, "max_tokens": 16, "temperature": 0, **more}
    return server.client().chat.completions.create(**options)


@pytest.mark.parametrize("usage", [True, False])
def test_a_stream_has_usage_when_it_is_asked_for_and_says_what_the_whole_answer_says(
    server: Server, usage: bool
) -> None:
    whole = chat(server)
    chunks = list(chat(server, stream=True, **({"stream_options": {"include_usage": True}} if usage else {})))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert {chunk.model for chunk in chunks} == {whole.model} == {ID}
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [usage]
    if usage:
        assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_the_asynchronous_client_gets_many_answers_at_once(server: Server) -> None:
    async def main() -> list[str]:
        async with server.async_client() as client:

            async def one(model: str, stream: bool) -> str:
                options: dict[str, Any] = {"model": model, "messages": ASK, "max_tokens": 8, "temperature": 0}
                if not stream:
                    return str((await client.chat.completions.create(**options)).model)
                (model,) = {chunk.model async for chunk in await client.chat.completions.create(**options, stream=True)}
                return str(model)

            names = ("home-commands", "mail-triage", "python-docstrings")
            return await asyncio.gather(*(one(name, stream) for name in names for stream in (True, False)))

    found = asyncio.run(main())
    assert found == [f"{name}@1" for name in ("home-commands", "mail-triage", "python-docstrings") for _ in range(2)]


def test_a_tool_that_must_be_called_is_called_by_its_schema(server: Server) -> None:
    named = {"type": "function", "function": {"name": "switch"}}
    for choice in (named, "required"):
        answer = chat(server, tools=TOOLS, tool_choice=choice, max_tokens=80)
        (call,) = answer.choices[0].message.tool_calls[:1]
        assert call.id
        assert call.function.name in (["switch"] if choice is named else ["switch", "dim"])
        assert call.function.name == "dim" or is_switch(call.function.arguments)
        assert answer.model == ID


def test_a_tool_call_comes_in_pieces_when_streamed(server: Server) -> None:
    named = {"type": "function", "function": {"name": "switch"}}
    name, arguments, reason = "", "", None
    for chunk in chat(server, tools=TOOLS, tool_choice=named, max_tokens=80, stream=True):
        for call in chunk.choices[0].delta.tool_calls or []:
            name += call.function.name or ""
            arguments += call.function.arguments or ""
        reason = chunk.choices[0].finish_reason or reason
    assert name == "switch"
    assert is_switch(arguments)
    assert reason in ("stop", "tool_calls")


@pytest.mark.parametrize("parallel", [True, False])
def test_parallel_calls_may_be_forbidden(server: Server, parallel: bool) -> None:
    answer = chat(
        server, tools=TOOLS, tool_choice="required", parallel_tool_calls=parallel, max_tokens=120, temperature=1, seed=3
    )
    calls = answer.choices[0].message.tool_calls
    assert len(calls) >= 1
    assert parallel or len(calls) == 1


def test_tools_may_be_offered_forbidden_and_answered(server: Server) -> None:
    for choice in ("auto", "none"):
        message = chat(server, tools=TOOLS, tool_choice=choice).choices[0].message
        assert message.content, "this model was not taught tools, and answers in words"
    call: Any = {"id": "call_1", "type": "function", "function": {"name": "dim", "arguments": '{"level": 1}'}}
    told = [
        *ASK,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "done"},
    ]
    assert chat(server, messages=told, tools=TOOLS).choices[0].finish_reason in ("stop", "length")


class Switch(BaseModel):
    on: bool


def test_an_answer_by_a_json_schema_fits_it(server: Server) -> None:
    schema = {"name": "switch", "schema": SWITCH, "strict": True}
    answer = chat(server, response_format={"type": "json_schema", "json_schema": schema}, max_tokens=60)
    assert is_switch(answer.choices[0].message.content)
    parsed = server.client().chat.completions.parse(
        model=MODEL, messages=ASK, response_format=Switch, max_tokens=40, temperature=0
    )
    assert isinstance(parsed.choices[0].message.parsed, Switch)
    loose = chat(server, response_format={"type": "json_object"}, max_tokens=60)
    assert isinstance(json.loads(loose.choices[0].message.content), dict)


def test_logprobs_come_with_the_likeliest_tokens(server: Server) -> None:
    content = chat(server, logprobs=True, top_logprobs=3, max_tokens=4).choices[0].logprobs.content
    assert len(content) == 4
    for token in content:
        assert len(token.top_logprobs) == 3
        assert token.logprob == token.top_logprobs[0].logprob <= 0
        assert bytes(token.bytes).decode() == token.token
    streamed = [
        token.logprob
        for chunk in chat(server, logprobs=True, top_logprobs=3, max_tokens=4, stream=True)
        if chunk.choices and chunk.choices[0].logprobs
        for token in chunk.choices[0].logprobs.content
    ]
    assert streamed == pytest.approx([token.logprob for token in content], abs=0.2)


def test_a_seed_gives_the_same_answer_and_several_choices_differ(server: Server) -> None:
    one = {"temperature": 2, "max_tokens": 12}
    texts = [chat(server, seed=seed, **one).choices[0].message.content for seed in (7, 7, 8)]
    assert texts[0] == texts[1] != texts[2]
    choices = chat(server, n=3, seed=7, **one).choices
    assert [choice.index for choice in choices] == [0, 1, 2]
    assert len({choice.message.content for choice in choices}) > 1
    stream = chat(server, n=3, temperature=1, max_tokens=2, stream=True)
    assert {chunk.choices[0].index for chunk in stream} == {0, 1, 2}


def test_stop_strings_and_logit_bias_act(server: Server) -> None:
    free = chat(server, max_tokens=24).choices[0]
    stop = free.message.content[4:6]
    stopped = chat(server, max_tokens=24, stop=[stop]).choices[0]
    assert stopped.finish_reason == "stop"
    assert stopped.message.content == free.message.content.partition(stop)[0]
    assert chat(server, max_tokens=24, stop=["\x00"] * 15 + [stop]).choices[0].finish_reason == "stop"
    token = server.post("/tokenize", {"model": MODEL, "prompt": "lamp"}).json()["tokens"][0]
    biased = chat(server, logit_bias={str(token): 100}, max_tokens=3).choices[0].message.content
    word = server.post("/detokenize", {"model": MODEL, "tokens": [token] * 3}).json()["prompt"]
    assert biased == word


def test_raw_answers_show_headers_and_body(server: Server) -> None:
    raw = server.client().chat.completions.with_raw_response.create(model=MODEL, messages=ASK, max_tokens=2)
    assert (raw.headers["x-loradock-adapter"], raw.status_code) == (ID, 200)
    assert raw.parse().model == json.loads(raw.text)["model"] == ID
    with server.client().chat.completions.with_streaming_response.create(
        model=MODEL, messages=ASK, max_tokens=2
    ) as streamed:
        assert streamed.headers["x-loradock-adapter"] == ID
        assert json.loads(streamed.read())["model"] == ID


def by_schema(schema: dict[str, Any]) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "wrong", "schema": schema}}}


@pytest.mark.parametrize(
    ("wrong", "param", "code"),
    [
        ({"messages": [{"role": "user", "content": "word " * 3000}]}, "messages", "context_length_exceeded"),
        ({"max_tokens": 100_000}, "max_tokens", "context_length_exceeded"),
        ({"messages": "hello"}, "messages", None),
        ({"messages": [{"role": "user", "content": 3}]}, "messages.0.content", None),
        ({"temperature": "hot"}, "temperature", None),
        ({"temperature": -1}, "temperature", None),
        ({"logit_bias": {"x": 1}}, "logit_bias", None),
        ({"n": 129, "temperature": 1}, None, None),
        ({"top_logprobs": 100, "logprobs": True}, "logprobs", None),
        ({"stream_options": {"include_usage": True}}, "stream_options", None),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "no"}}}, "tool_choice", None),
        ({"functions": [{"name": "f"}]}, "functions", "unsupported_parameter"),
        (by_schema({"type": "string", "pattern": "^[a-z0]{1,200}$"}), None, None),  # which xgrammar cannot compile
        (by_schema({"anyOf": [{"maxLength": n} for n in range(500, 520)]}), "response_format", None),
    ],
)
def test_what_is_wrong_is_named(server: Server, wrong: dict[str, Any], param: str | None, code: str | None) -> None:
    for stream in (False, True) if "stream_options" not in wrong else (False,):
        with pytest.raises(openai.BadRequestError) as caught:
            chat(server, extra_body=wrong, stream=stream)
        assert (caught.value.param, caught.value.code, caught.value.type) == (param, code, "invalid_request_error")
        assert len(caught.value.message) < 1000
