"""A grammar that the core cannot compile is its request's fault; everything else passes as vLLM made it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm")

from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import SamplingParams, StructuredOutputsParams

from loradock_server.engine import vllm_compat

PLAIN = SamplingParams(max_tokens=4)
BOUND = SamplingParams(max_tokens=4, structured_outputs=StructuredOutputsParams(json={"type": "object"}))


class Client:
    """What vLLM's client is for this: `generate` gives parts, the last of which says how it ended."""

    def __init__(self, *ends: str | None) -> None:
        self.ends = ends
        self.closed = False

    async def generate(self, prompt: Any, sampling_params: Any, request_id: str, **more: Any) -> AsyncIterator[Any]:
        try:
            for end in self.ends:
                yield SimpleNamespace(outputs=[SimpleNamespace(finish_reason=end)])
        finally:
            self.closed = True


async def ends(client: Any, params: SamplingParams) -> list[str | None]:
    return [part.outputs[0].finish_reason async for part in client.generate("x", params, "r", lora_request=None)]


def explained(*said: str | None) -> Any:
    client = Client(*said)
    vllm_compat.explain_failed_grammars(client)
    return client


def test_a_grammar_that_fails_is_a_validation_error_which_says_what_to_do() -> None:
    client = explained("error")
    with pytest.raises(VLLMValidationError, match="cannot be compiled .* use maxLength"):
        asyncio.run(ends(client, BOUND))
    assert client.closed


@pytest.mark.parametrize("params", [PLAIN, BOUND])
def test_answers_pass(params: SamplingParams) -> None:
    assert asyncio.run(ends(explained(None, None, "stop"), params)) == [None, None, "stop"]


def test_an_error_of_a_request_without_a_grammar_is_vllms_own() -> None:
    assert asyncio.run(ends(explained("error"), PLAIN)) == ["error"]


def test_who_leaves_closes_what_was_begun() -> None:
    async def main() -> bool:
        client = explained(None, None, "stop")
        parts = client.generate("x", BOUND, "r")
        await anext(parts)
        await parts.aclose()
        return bool(client.closed)

    assert asyncio.run(main())
