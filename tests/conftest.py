"""What tests of several folders share."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.postgres import Postgres, running_postgres
from tests.redis_server import RedisServer, running_redis
from tests.seaweed import Seaweed, running_seaweed

# How long an example takes says how busy the machine is, and nothing of the code.
settings.register_profile("patient", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

# A shell that starts us in the background has us ignore Ctrl-C, and so would all that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One PostgreSQL for the whole run; each test makes its own database in it."""
    with running_postgres() as cluster:
        yield cluster


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """A Redis of the test's own, which may stop it."""
    with running_redis() as server:
        yield server


@pytest.fixture(scope="session")
def seaweed() -> Iterator[Seaweed]:
    """One S3-compatible server for the whole run; each test makes its own bucket in it."""
    with running_seaweed() as server:
        yield server
