"""Gateways on one registry follow each other within a second, on both databases."""

from __future__ import annotations

import statistics
import time

import pytest

from tests.postgres import Postgres
from tests.server.gateway.conftest import Gateway, Start, eventually

TIMES = 5


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_another_gateways_change_is_followed_within_a_second(
    kind: str, start: Start, request: pytest.FixtureRequest
) -> None:
    flags = {}
    if kind == "postgresql":
        postgres: Postgres = request.getfixturevalue("postgres")
        flags["registry_url"] = postgres.new_database()
    with start(**flags) as one, start(**flags) as two:
        one.register("poet")
        one.register("poet", alpha=8, query="?promote=false")
        took = [_until_followed(one, two, version=2 - number % 2) for number in range(TIMES)]
        answers = [_answer_takes(two) for _ in range(TIMES)]
    # The medians, since this machine may be busy with other things for a moment; where it always is, whoever follows
    # takes longer too, as every answer does (some ten of them go into it).
    assert statistics.median(took) < 1.0 + 20 * statistics.median(answers), (took, answers)


def _until_followed(one: Gateway, two: Gateway, *, version: int) -> float:
    """Seconds from the answer that acknowledges a change to the first request that another gateway answers so."""
    assert one.http.put("/admin/adapters/poet/aliases/live", json={"version": version}).is_success
    began = time.monotonic()
    eventually(lambda: _answered_by(two) == f"poet@{version}")
    return time.monotonic() - began


def _answer_takes(gateway: Gateway) -> float:
    began = time.monotonic()
    _answered_by(gateway)
    return time.monotonic() - began


def _answered_by(gateway: Gateway) -> str | None:
    answer = gateway.http.post("/v1/completions", json={"model": "poet", "prompt": "x"})
    return dict(answer.headers).get("x-loradock-adapter")
