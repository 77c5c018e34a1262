"""Bodies nobody thought of before the real engine: no failure is the server's, and the engine lives on.

Only with LONG_TESTS=1, two thousand of them, others each time. FUZZ_CASES says how many, FUZZ_SECONDS for how long at
most.
"""

from __future__ import annotations

import os
import time
from collections import Counter

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.e2e.server import Server
from tests.faults.bodies import requests
from tests.faults.judging import require_fair

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(not os.environ.get("LONG_TESTS"), reason="LONG_TESTS=1 runs it")]
CASES = int(os.environ.get("FUZZ_CASES", "2000"))
SECONDS = float(os.environ.get("FUZZ_SECONDS", "7000"))


@pytest.mark.timeout(7200)
def test_no_body_is_answered_500_by_the_real_engine_or_ends_it(server: Server) -> None:
    restarts = server.metric("loradock_engine_restarts_total")
    seen: Counter[int] = Counter()
    slowest: list[tuple[float, str]] = []
    begun = time.monotonic()
    unfair: list[str] = []
    headers = {"authorization": f"Bearer {server.key}", "content-type": "application/json"}
    with httpx.Client(base_url=server.url, headers=headers, trust_env=False, timeout=300) as http:

        @settings(
            max_examples=CASES,
            database=None,
            deadline=None,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        )
        @given(requests("home-commands"))
        def fuzz(request: tuple[str, bytes]) -> None:
            if time.monotonic() - begun > SECONDS:
                return
            path, body = request
            asked = time.monotonic()
            answer = http.post(path, content=body)
            slowest.append((time.monotonic() - asked, f"{path} {answer.status_code} {body[:300]!r}"))
            slowest.sort(reverse=True)
            del slowest[5:]
            seen[answer.status_code] += 1
            try:
                require_fair(path, answer)
            except AssertionError as error:  # all of them at the end: each costs a start of the engine to see
                unfair.append(f"{error}\n    for {body[:600]!r}")

        fuzz()
        print(dict(seen), *(f"{seconds:.1f} s: {what}" for seconds, what in slowest), sep="\n")  # noqa: T201
        good = {"model": "home-commands", "prompt": "Hi", "max_tokens": 2}
        assert http.post("/v1/completions", json=good).status_code == 200
    assert not unfair, "\n".join(unfair)
    assert seen[200] > seen.total() // 20, seen
    assert server.metric("loradock_engine_restarts_total") == restarts
    assert server.metric("loradock_requests_in_flight") == 0
