"""Limits on the real engine: what it counted is what is charged, also for streams that were left and for refusals."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from tests.e2e.server import Server
from tests.e2e.waiting import eventually

pytestmark = pytest.mark.e2e

ADAPTER = "home-commands"
BUDGET = 1_000_000


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    """With a key of its own, that has a budget."""
    key = server.loradock("keys", "create", "limited", "--tokens-per-day", str(BUDGET))["secret"]
    with server.client().with_options(api_key=key) as made:
        yield made


def used(client: openai.OpenAI) -> int:
    """A request for a model that there is not costs nothing, and its answer tells what is left."""
    with pytest.raises(openai.NotFoundError) as caught:
        client.completions.create(model="nobody", prompt="x")
    return BUDGET - int(caught.value.response.headers["x-ratelimit-remaining-tokens-day"])


def test_tokens_are_charged_as_the_engine_counted_them(server: Server, client: openai.OpenAI) -> None:
    done = client.completions.create(model=ADAPTER, prompt=["open the window", "close it"], n=2, max_tokens=12)
    assert done.usage is not None
    total = done.usage.total_tokens
    eventually(lambda: used(client) == total)

    with pytest.raises(openai.BadRequestError):
        client.completions.create(model=ADAPTER, prompt="x", max_tokens=10_000)
    eventually(lambda: used(client) == total)

    before = counted(server)
    stream = client.completions.create(
        model=ADAPTER, prompt="Once", max_tokens=1500, stream=True, extra_body={"ignore_eos": True}
    )
    for _ in range(10):
        next(stream)
    assert used(client) > total + 1400, "while it runs it is charged as it may become"
    stream.close()
    eventually(lambda: used(client) < total + 1400)
    eventually(lambda: used(client) - total == counted(server) - before)
    assert used(client) > total + 10


def counted(server: Server) -> int:
    kinds = ("input", "output")
    return int(sum(server.metric("loradock_tokens_total", adapter=ADAPTER, type=kind) for kind in kinds))
