"""OpenAI's SDK and the real engine: completions, models, tokens, and what this model cannot do."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from loradock_adapters.base_model import BaseModel
from tests.e2e.sdk.asks import ID, MODEL
from tests.e2e.server import Server

pytestmark = pytest.mark.e2e


def complete(server: Server, **more: Any) -> Any:
    return server.client().completions.create(**{"model": MODEL, "max_tokens": 4, "temperature": 0, **more})


def test_an_echo_repeats_the_prompt_with_its_logprobs(server: Server) -> None:
    answer = complete(server, prompt="turn on the", echo=True, logprobs=2)
    (choice,) = answer.choices
    assert choice.text.startswith("turn on the")
    assert "".join(choice.logprobs.tokens) == choice.text
    assert choice.logprobs.token_logprobs[0] is None, "nothing comes before the first"
    assert all(value <= 0 for value in choice.logprobs.token_logprobs[1:])
    assert answer.model == ID
    only = complete(server, prompt="turn on the", echo=True, max_tokens=0, logprobs=0)
    assert only.choices[0].text == "turn on the"


def test_prompts_come_as_texts_and_as_tokens_and_in_lists(server: Server) -> None:
    texts = ["turn on", "it is"]
    tokens = [server.post("/tokenize", {"model": MODEL, "prompt": text}).json()["tokens"] for text in texts]
    for prompt in (texts, tokens):
        answer = complete(server, prompt=prompt, echo=True)
        assert [choice.index for choice in answer.choices] == [0, 1]
        assert all(choice.text.startswith(text) for choice, text in zip(answer.choices, texts, strict=True))
    assert complete(server, prompt=tokens[0], echo=True).choices[0].text.startswith(texts[0])
    streamed = ["", ""]
    for chunk in complete(server, prompt=texts, echo=True, stream=True, stream_options={"include_usage": True}):
        for choice in chunk.choices:
            streamed[choice.index] += choice.text
    assert all(found.startswith(text) and found != text for found, text in zip(streamed, texts, strict=True))
    assert chunk.usage.completion_tokens == 8


def test_suffix_is_refused_and_a_wrong_token_too(server: Server) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        complete(server, prompt="def f():", suffix="return 1")
    assert caught.value.param == "suffix"
    with pytest.raises(openai.BadRequestError, match="out of vocabulary"):
        complete(server, prompt=[999_999_999])
    with pytest.raises(openai.BadRequestError) as caught:
        complete(server, prompt="word " * 3000)
    assert (caught.value.param, caught.value.code) == ("prompt", "context_length_exceeded")


def test_models_are_listed_and_retrieved_by_every_name(server: Server, base: BaseModel) -> None:
    client = server.client()
    assert {base.name, MODEL} <= {model.id for model in client.models.list()}
    for name, root in ((MODEL, ID), (ID, ID), (f"{MODEL}@live", ID), (base.name, base.name)):
        found = client.models.retrieve(name)
        assert (found.id, (found.model_extra or {})["root"]) == (name, root)
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("nobody")
    assert caught.value.code == "model_not_found"


def test_tokens_are_counted_as_a_chat_counts_them_without_loading_the_adapter(server: Server) -> None:
    messages: Any = [{"role": "user", "content": "Turn off the lamp please"}]
    answer = server.client().chat.completions.create(model=MODEL, messages=messages, max_tokens=1)
    assert answer.usage is not None
    loads = server.metric("loradock_adapter_loads_total")
    for path in ("/tokenize", "/v1/tokenize"):
        tokens = server.post(path, {"model": ID, "messages": messages})
        assert tokens.json()["count"] == answer.usage.prompt_tokens
        assert tokens.headers["x-loradock-adapter"] == ID
    text = server.post("/v1/detokenize", {"model": MODEL, "tokens": tokens.json()["tokens"]}).json()["prompt"]
    assert "Turn off the lamp please" in text
    assert server.metric("loradock_adapter_loads_total") == loads


@pytest.mark.parametrize("path", ["/v1/embeddings", "/score", "/v1/rerank", "/classify", "/v1/pooling"])
def test_what_a_model_for_text_cannot_do_is_said(server: Server, path: str) -> None:
    answer = server.post(path, {"model": MODEL, "input": "x"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "operation_not_supported")
    assert "generates text" in answer.json()["error"]["message"]
