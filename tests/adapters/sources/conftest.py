"""Sources are fetched from real servers on this machine; retries do not make anybody wait."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from loradock_adapters.sources import retries
from tests.fakes.web import Web, running_web


@pytest.fixture
def web() -> Iterator[Web]:
    with running_web() as server:
        yield server


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(retries, "LONGEST_PAUSE_SECONDS", 0.01)
