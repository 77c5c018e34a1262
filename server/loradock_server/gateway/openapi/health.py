"""What the open routes answer: health, metrics, and this document."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from loradock_server.gateway.openapi.operation import RETRY_AFTER, Answer, Operation


class Alive(BaseModel):
    """The process lives."""

    status: Literal["ok"]


class Ready(BaseModel):
    """Requests are answered."""

    status: Literal["ready"]


class NotReady(BaseModel):
    """Requests are not answered, and why."""

    status: Literal["not ready"]
    reason: str


_TAG = "health"

OPERATIONS = (
    Operation(
        "GET",
        "/healthz",
        "isAlive",
        "Say whether the process lives",
        _TAG,
        None,
        {200: Answer(Alive, "It does.")},
        observed=False,
    ),
    Operation(
        "GET",
        "/readyz",
        "isReady",
        "Say whether requests are answered",
        _TAG,
        None,
        {
            200: Answer(Ready, "The engine answers and nothing is shutting down."),
            503: Answer(NotReady, "They are not.", headers=(RETRY_AFTER,)),
        },
        observed=False,
    ),
    Operation(
        "GET",
        "/metrics",
        "getMetrics",
        "Metrics in Prometheus's text format",
        _TAG,
        None,
        {200: Answer(None, "Ours, then the engine's while it answers.", content={"text/plain": {"type": "string"}})},
        observed=False,
    ),
    Operation(
        "GET",
        "/openapi.json",
        "getOpenapi",
        "This document",
        _TAG,
        None,
        {200: Answer(None, "OpenAPI 3.1.", content={"application/json": {"type": "object"}})},
    ),
)
