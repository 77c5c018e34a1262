"""One base model, one misbehaving engine and one impatient gateway for all that do not change their settings."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from loradock_adapters.base_model import BaseModel
from tests.adapters.making import write_base
from tests.faults.world import Engine, Gateway, running_engine, running_gateway

# Short, so that waiting for them is; long enough for what must not run into them on a busy machine.
TIMEOUTS = {
    "connect_timeout": 10,  # which nothing here waits for
    "first_byte_timeout": 5,
    "chunk_timeout": 5,
    "request_timeout": 10,
    "client_timeout": 4,
}


@pytest.fixture(scope="package")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return BaseModel.read(write_base(tmp_path_factory.mktemp("base")))


@pytest.fixture(scope="package")
def engine(base: BaseModel) -> Iterator[Engine]:
    with running_engine(base) as running:
        yield running


@pytest.fixture
def own_engine(base: BaseModel) -> Iterator[Engine]:
    """For a test that has it report usage, which every gateway in front of it would hear."""
    with running_engine(base) as running:
        yield running


@pytest.fixture(scope="package")
def gateway(base: BaseModel, engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running_gateway(tmp_path_factory.mktemp("home"), base, engine, **TIMEOUTS) as running:
        yield running
