"""Bodies nobody thought of, on every inference route, before a scripted engine that takes anything.

LONG_TESTS=1 tries thousands, others each time. tests/e2e/test_fuzz.py does the same before the real engine.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, given, settings

from loradock_server.gateway.routes import OPERATIONS
from tests.faults.bodies import ROUTES, requests
from tests.faults.judging import require_fair
from tests.server.gateway.conftest import Gateway

LONG = os.environ.get("LONG_TESTS") == "1"


def test_every_inference_route_is_fuzzed() -> None:
    assert {operation.engine_path for operation in OPERATIONS} == set(ROUTES)


def test_no_body_makes_a_500_and_every_error_is_worded_as_its_api_has_it(gateway: Gateway) -> None:
    gateway.register("poet")

    @settings(
        max_examples=5000 if LONG else 150,
        derandomize=not LONG,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink) if LONG else (Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(requests("poet"))
    def fuzz(request: tuple[str, bytes]) -> None:
        path, body = request
        require_fair(path, gateway.http.post(path, content=body, headers={"content-type": "application/json"}))

    fuzz()
    assert gateway.http.post("/v1/completions", json={"model": "poet", "prompt": "x"}).status_code == 200
    assert gateway.metric("loradock_requests_in_flight") == 0
