"""What the end-to-end tests share: the fetched base model and one server that most of them use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from loradock_adapters.base_fetch import fetch
from loradock_adapters.base_model import BaseModel
from tests.e2e.otlp import Receiver, run_receiver
from tests.e2e.server import EXAMPLES, ROOT, Server, run_server


@pytest.fixture(scope="session")
def base() -> BaseModel:
    """The bundled base model, where `make serve` keeps it too."""
    return BaseModel.read(fetch(ROOT / "var/base", progress=lambda text: None))


@pytest.fixture(scope="session")
def traces() -> Iterator[Receiver]:
    with run_receiver() as receiver:
        yield receiver


@pytest.fixture(scope="session")
def server(base: BaseModel, traces: Receiver) -> Iterator[Server]:
    """As a newcomer starts it: the base model, the example adapters, tracing on."""
    with run_server(
        base.folder,
        "--adapters-from",
        str(EXAMPLES),
        OTEL_EXPORTER_OTLP_ENDPOINT=traces.endpoint,
        OTEL_BSP_SCHEDULE_DELAY="200",
    ) as running:
        yield running


@pytest.fixture(scope="session")
def exact(base: BaseModel) -> Iterator[Server]:
    """In float32, where the same sum in another batch differs by rounding only.

    Small blocks and chunks, so that prompts of hundreds of tokens are divided and cached; room for more adapters than
    run at once, but not for all of them.
    """
    with run_server(
        base.folder,
        LORADOCK_DTYPE="float32",
        LORADOCK_MAX_LORAS="8",
        LORADOCK_MAX_CPU_LORAS="12",
        LORADOCK_ENGINE_TOKEN="between-gateway-and-engine",
        LORADOCK_ENGINE_ARGS="--max-num-batched-tokens=192 --max-num-seqs=32 --block-size=32",
    ) as running:
        yield running
