"""The OpenAI SDK against the real engine: adapters by name, streaming and not, errors in OpenAI's words."""

from __future__ import annotations

import openai
import pytest

from loradock_adapters.base_model import BaseModel
from tests.e2e.server import EXAMPLES, Server

pytestmark = pytest.mark.e2e

NAMES = sorted(path.name for path in EXAMPLES.iterdir() if (path / "adapter").is_dir())
HELLO: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "Turn off the lamp please"}]


def test_there_are_three_example_adapters() -> None:
    assert len(NAMES) == 3


def test_models_lists_the_base_and_every_adapter_with_the_base_as_its_parent(server: Server, base: BaseModel) -> None:
    models = {model.id: model for model in server.client().models.list()}
    assert set(models) == {base.name, *NAMES}
    assert all((models[name].model_extra or {})["parent"] == base.name for name in NAMES)
    assert server.client().models.retrieve(NAMES[0]).id == NAMES[0]


@pytest.mark.parametrize("model", ["base", *NAMES])
def test_an_answer_and_its_stream_say_the_same_and_name_the_version_that_gave_it(
    server: Server, base: BaseModel, model: str
) -> None:
    name = base.name if model == "base" else model
    answered_by = base.name if model == "base" else f"{model}@1"
    client = server.client()
    whole = client.chat.completions.create(model=name, messages=HELLO, max_tokens=24, temperature=0)
    assert whole.model == answered_by
    assert whole.usage is not None
    assert whole.usage.completion_tokens >= 1
    text, ids = "", set()
    for chunk in client.chat.completions.create(
        model=name, messages=HELLO, max_tokens=24, temperature=0, stream=True, stream_options={"include_usage": True}
    ):
        ids.add(chunk.model)
        if chunk.choices:
            text += chunk.choices[0].delta.content or ""
        last = chunk
    assert text == whole.choices[0].message.content
    assert ids == {answered_by}
    assert last.usage is not None
    assert last.usage.prompt_tokens == whole.usage.prompt_tokens
    assert last.usage.completion_tokens == whole.usage.completion_tokens


def test_every_adapter_answers_unlike_the_base(server: Server, base: BaseModel) -> None:
    client = server.client()
    answers = {
        name: client.chat.completions.create(model=name, messages=HELLO, max_tokens=24, temperature=0)
        .choices[0]
        .message.content
        for name in (base.name, *NAMES)
    }
    assert len(set(answers.values())) == len(answers), answers


def test_a_version_and_an_alias_can_be_asked_for_and_headers_say_who_answered(server: Server) -> None:
    client = server.client()
    for model in (f"{NAMES[0]}@1", f"{NAMES[0]}@live"):
        raw = client.chat.completions.with_raw_response.create(model=model, messages=HELLO, max_tokens=4)
        assert raw.headers["x-loradock-adapter"] == f"{NAMES[0]}@1"
        assert len(raw.headers["x-loradock-adapter-digest"]) == 64
        assert raw.headers["x-request-id"]


def test_completions_and_responses_take_adapters_too(server: Server) -> None:
    client = server.client()
    completion = client.completions.create(model=NAMES[0], prompt="turn on the light", max_tokens=8)
    assert completion.model == f"{NAMES[0]}@1"
    response = client.responses.create(model=NAMES[0], input="turn on the light", max_output_tokens=16)
    assert response.model == f"{NAMES[0]}@1"


@pytest.mark.parametrize("model", ["nobody", f"{NAMES[0]}@99", f"{NAMES[0]}@canary", "../../etc/passwd", "A B"])
def test_an_unknown_model_is_a_404_and_never_the_base(server: Server, model: str) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        server.client().chat.completions.create(model=model, messages=HELLO)
    assert caught.value.code == "model_not_found"


def test_without_a_key_nothing_is_answered(server: Server) -> None:
    with (
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.chat.completions.create(model=NAMES[0], messages=HELLO)


def test_a_bad_parameter_is_a_400_that_names_it(server: Server) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        server.client().chat.completions.create(model=NAMES[0], messages=HELLO, temperature=-3)
    assert "temperature" in str(caught.value)
