"""The bundled model made one for embeddings: the other half of vLLM's routes, by adapter, with OpenAI's SDK.

A server of its own, so only with LONG_TESTS=1.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator

import openai
import pytest

from loradock_adapters.base_model import BaseModel
from tests.e2e.sdk.asks import ID, MODEL
from tests.e2e.server import EXAMPLES, Server, run_server

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not os.environ.get("LONG_TESTS"), reason="starts a server of its own (LONG_TESTS=1)"),
]

TEXTS = ["turn on the lamp", "switch the light on", "the cat sleeps"]


@pytest.fixture(scope="module")
def embedder(base: BaseModel) -> Iterator[Server]:
    with run_server(
        base.folder,
        "--adapters-from",
        str(EXAMPLES),
        LORADOCK_DTYPE="float32",
        LORADOCK_ENGINE_ARGS="--runner=pooling --convert=embed",
    ) as running:
        yield running


def embedded(server: Server, model: str) -> list[list[float]]:
    with server.client() as client:
        answer = client.embeddings.create(model=model, input=TEXTS, encoding_format="float")
    assert [one.index for one in answer.data] == [0, 1, 2]
    assert answer.model == (ID if model == MODEL else model)
    return [one.embedding for one in answer.data]


def likeness(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


def test_an_adapter_embeds_otherwise_than_the_base(embedder: Server, base: BaseModel) -> None:
    mine, bases = embedded(embedder, MODEL), embedded(embedder, base.name)
    assert all(likeness(a, b) < 0.999 for a, b in zip(mine, bases, strict=True))
    again = embedded(embedder, base.name)
    assert all(likeness(a, b) > 0.9999 for a, b in zip(again, bases, strict=True))


def test_scores_are_the_likeness_of_the_adapters_embeddings(embedder: Server) -> None:
    mine = embedded(embedder, MODEL)
    for path in ("/score", "/v1/score"):
        answer = embedder.post(path, {"model": MODEL, "text_1": TEXTS[0], "text_2": TEXTS[1:]})
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-loradock-adapter"] == ID
        assert answer.json()["model"] == ID
        scores = [one["score"] for one in answer.json()["data"]]
        assert scores == pytest.approx([likeness(mine[0], other) for other in mine[1:]], abs=1e-3)
    ranked = embedder.post("/v1/rerank", {"model": MODEL, "query": TEXTS[0], "documents": TEXTS[1:]}).json()
    assert sorted(one["index"] for one in ranked["results"]) == [0, 1]
    assert embedder.post("/pooling", {"model": MODEL, "input": TEXTS[0]}).status_code == 200


def test_tokens_of_embeddings_are_counted(embedder: Server) -> None:
    before = embedder.metric("loradock_tokens_total", adapter=MODEL, type="input")
    embedded(embedder, MODEL)
    count = sum(embedder.post("/tokenize", {"model": MODEL, "prompt": text}).json()["count"] for text in TEXTS)
    assert embedder.metric("loradock_tokens_total", adapter=MODEL, type="input") - before == count


def test_what_such_a_model_cannot_do_is_said(embedder: Server) -> None:
    with embedder.client() as client, pytest.raises(openai.BadRequestError, match="embeddings") as caught:
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "Hi"}])
    assert caught.value.code == "operation_not_supported"
