"""What the end-to-end tests share: the fetched base model and one server that most of them use."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loradock_adapters.base_model import BaseModel
from loradock_adapters.processor import Processor
from tests.e2e.otlp import Receiver, run_receiver
from tests.e2e.server import CLIENTS, EXAMPLES, ROOT, Server, run_server
from tests.e2e.sharing import ByServer

# The first test of a server waits for its start, which compiles, beside another start, perhaps on an old processor.
STARTING_SECONDS = 1800


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByServer:
    """With -n, what shares a server runs in one process after another, and the rest beside it.

    An engine computes with one thread less than there are cores, and starting one is mostly one process that imports:
    two at a time cost little more than one.
    """
    return ByServer(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("e2e") is not None and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(STARTING_SECONDS))


@pytest.fixture(autouse=True)
def clients_closed() -> Iterator[None]:
    """Close the clients that a test made: their sockets would be found open in whichever test comes next."""
    before = len(CLIENTS)
    yield
    while len(CLIENTS) > before:
        CLIENTS.pop().close()


@pytest.fixture(autouse=True, scope="module")
def nothing_left_open() -> Iterator[None]:
    """Collect what a module left while it can still be named: an open socket is an error (pyproject.toml)."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def base() -> BaseModel:
    """The bundled base model, where `make serve` keeps it too, fetched by the command that users have.

    In a process of its own: the conversion imports half of transformers, and what that warns of is not this project's.
    """
    command = [str(Path(sys.executable).with_name("loradock")), "base", "fetch", "--json"]
    environment = {**os.environ, "LORADOCK_HOME": str(ROOT / "var")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return BaseModel.read(Path(json.loads(done.stdout)["folder"]))


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
        LORADOCK_COMPILE="true",
        LORADOCK_PROMOTION_GATE="metric=gate_score,no_worse_by=0.05",  # which no other test attaches
        OTEL_EXPORTER_OTLP_ENDPOINT=traces.endpoint,
        OTEL_BSP_SCHEDULE_DELAY="200",
    ) as running:
        yield running


@pytest.fixture(scope="session")
def in_bf16(request: pytest.FixtureRequest, base: BaseModel) -> Iterator[Server]:
    """A server in bf16: the one that is there, or one of its own where the processor is faster in float32."""
    if Processor.here().multiplies_bf16:
        yield request.getfixturevalue("server")
        return
    with run_server(base.folder, LORADOCK_DTYPE="bfloat16") as running:
        yield running


@pytest.fixture(scope="session")
def exact(base: BaseModel) -> Iterator[Server]:
    """In float32, where the same sum in another batch differs by rounding only.

    Small blocks and chunks, so that prompts of hundreds of tokens are divided and cached; room for more adapters than
    run at once, but not for all of them.
    """
    with run_server(
        base.folder,
        LORADOCK_COMPILE="true",
        LORADOCK_DTYPE="float32",
        LORADOCK_MAX_LORAS="8",
        LORADOCK_MAX_CPU_LORAS="12",
        LORADOCK_ENGINE_TOKEN="between-gateway-and-engine",
        LORADOCK_ENGINE_ARGS="--max-num-batched-tokens=192 --max-num-seqs=32 --block-size=32",
    ) as running:
        yield running
