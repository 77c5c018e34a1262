"""LangChain's ChatOpenAI and the real engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel

from tests.e2e.sdk.asks import ID, MODEL
from tests.e2e.server import Server

pytestmark = pytest.mark.e2e

ASK = "Turn off the lamp please"


class Switch(BaseModel):
    """Turn a lamp on or off."""

    on: bool
    room: Literal["hall", "attic"]


@contextmanager
def model(server: Server, **more: Any) -> Iterator[Any]:
    # Here, because its import costs a second that only these tests should pay.
    from langchain_openai import ChatOpenAI
    from pydantic import SecretStr

    # Its own client lives on for ever, with its connections.
    with openai.DefaultHttpxClient() as http:
        yield ChatOpenAI(
            model=MODEL,
            base_url=f"{server.url}/v1",
            api_key=SecretStr(server.key),
            max_retries=0,
            temperature=0,
            http_client=http,
            **more,
        )


def test_it_is_answered_whole_and_in_pieces(server: Server) -> None:
    with model(server, max_completion_tokens=16) as chat:
        whole = chat.invoke(ASK)
        assert whole.response_metadata["model_name"] == ID
        assert "".join(chunk.content for chunk in chat.stream(ASK)) == whole.content
        assert whole.usage_metadata["output_tokens"] > 0


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_its_structured_output_is_what_it_asks_for(server: Server, method: str) -> None:
    with model(server, max_completion_tokens=80) as chat:
        answer = chat.with_structured_output(Switch, method=method, strict=True).invoke(ASK)
        assert isinstance(answer, Switch)
