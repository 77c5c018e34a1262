"""What vLLM 0.32 said to bad requests, and what clients are told. The words on the left were its own, on 2026-11-26."""

from __future__ import annotations

from typing import Any

import pytest

from loradock_server.gateway.engine_words import in_openais_words


def told(message: str, param: str | None = None, status: int = 400) -> tuple[str, str | None, str | None]:
    error: dict[str, Any] = {"message": message, "type": "BadRequestError", "param": param, "code": status}
    words = in_openais_words(status, error)
    return words.message, words.param, words.code


def test_a_prompt_that_is_too_long_has_openais_code() -> None:
    said = (
        "This model's maximum context length is 2048 tokens. However, your prompt contains at least 2049 input tokens, "
        "which exceeds this limit even without any output tokens. Please reduce the length of the input prompt."
    )
    message, param, code = told(f"{said} (parameter=input_tokens, value=2049)", "input_tokens")
    assert (message, param, code) == (said, "input_tokens", "context_length_exceeded")
    said = "max_tokens=5000 cannot be greater than max_model_len=2048. Please request fewer output tokens."
    assert told(f"{said} (parameter=max_tokens, value=5000)", "max_tokens") == (
        said,
        "max_tokens",
        "context_length_exceeded",
    )


@pytest.mark.parametrize(
    ("said", "param", "told_as"),
    [
        (
            "1 validation error:\n  {'type': 'float_parsing', 'loc': 'body.temperature', 'msg': 'Input should be a "
            "valid number, unable to parse string as a number', 'input': 'hot'}",
            "body.temperature",
            "temperature: Input should be a valid number, unable to parse string as a number (got 'hot')",
        ),
        (
            "1 validation error:\n  {'type': 'missing', 'loc': 'body.messages', 'msg': 'Field required', 'input': "
            "'<dict of 2 items>'}",
            "body.messages",
            "messages: Field required",
        ),
        (
            "2 validation errors:\n  {'type': 'list_type', 'loc': 'body.prompt.0', 'msg': 'Input should be a valid "
            "list', 'input': '-1'}\n  {'type': 'string_type', 'loc': 'body.prompt', 'msg': 'Input should be a valid "
            "string', 'input': '<list of 1 items>'}",
            "body.prompt.0",
            "prompt.0: Input should be a valid list (got '-1'); "
            "prompt: Input should be a valid string (got '<list of 1 items>')",
        ),
        (
            "3 validation errors:\n  {'type': 'string_type', 'loc': "
            "'body.messages.0.ChatCompletionDeveloperMessageParam.content', 'msg': 'Input should be a valid string', "
            "'input': 'None'}\n  {'type': 'literal_error', 'loc': "
            "'body.messages.0.ChatCompletionDeveloperMessageParam.role', 'msg': \"Input should be 'developer'\", "
            "'input': 'user'}\n  {'type': 'string_type', 'loc': "
            "'body.messages.0.ChatCompletionSystemMessageParam.content', 'msg': 'Input should be a valid string', "
            "'input': 'None'}",
            "body.messages.0.ChatCompletionDeveloperMessageParam.content",
            "messages.0.content: Input should be a valid string (got 'None')",
        ),
    ],
)
def test_validation_errors_become_sentences_and_name_the_field(said: str, param: str, told_as: str) -> None:
    assert told(said, param) == (told_as, told_as.partition(":")[0], None)


def test_what_cannot_be_read_is_told_as_it_is() -> None:
    for said in (
        "1 validation error:\n  {'type': 'x', 'loc': 'body.a', 'msg': 'cut sho...[truncated]",
        "1 validation error:\n  __import__('os').abort()",
        "3 validation errors:\n" + "  {" * 400,
        "Grammar error: Invalid type: nonsense",
    ):
        assert told(said) == (said, None, None)
    assert in_openais_words(502, {}).message == "the engine answered 502"
    assert told("gone", status=404)[2] == "model_not_found"


def test_the_field_in_an_aside_becomes_param() -> None:
    assert told("temperature must be non-negative, got -3.0. (parameter=temperature, value=-3.0)") == (
        "temperature must be non-negative, got -3.0.",
        "temperature",
        None,
    )


def test_a_missing_tool_parser_is_told_with_the_setting_that_brings_one() -> None:
    message, param, _ = told('"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set')
    assert "LORADOCK_ENGINE_ARGS" in message
    assert param == "tools"
