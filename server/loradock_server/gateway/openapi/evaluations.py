"""What `…/versions/{version}/evaluations` takes and answers."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from loradock_adapters import errors as core
from loradock_adapters.evaluation import MAX_METRICS
from loradock_server.gateway import errors
from loradock_server.gateway.openapi.adapters import FOUND
from loradock_server.gateway.openapi.operation import JSON, Answer, Operation


class EvaluationSummary(BaseModel):
    """How a version did."""

    object: Literal["adapter.evaluation"]
    id: int
    name: str
    version: int
    task: str
    metrics: dict[str, float]
    data_sha256: str | None
    created_at: datetime
    created_by: str


class FullEvaluation(EvaluationSummary):
    """The same with all that was attached."""

    document: dict[str, Any]


class EvaluationList(BaseModel):
    """Evaluations, the newest first."""

    object: Literal["list"]
    data: list[EvaluationSummary]
    has_more: bool
    last_id: int | None = Field(description="give it as `after` for the next page")


_SHA256 = {"type": ["string", "null"], "pattern": "^[0-9a-f]{64}$"}
_NAME = "^[A-Za-z0-9][A-Za-z0-9_./@ -]{0,99}$"
_NUMBERS = {
    "type": "object",
    "minProperties": 1,
    "maxProperties": MAX_METRICS,
    "propertyNames": {"pattern": _NAME},
    "additionalProperties": {"type": "number"},
}
_DOCUMENT: dict[str, Any] = {
    "type": "object",
    "description": "What evaluate.py writes (numbers under `adapter`), or any document with `task` and `metrics`.",
    "required": ["task", "metrics"],
    "properties": {
        "task": {"type": "string", "pattern": _NAME},
        "metrics": _NUMBERS,
        "data_sha256": _SHA256,
        "adapter_digest": _SHA256,
        "base_digest": _SHA256,
    },
    "additionalProperties": True,
    "examples": [{"task": "mail-triage", "metrics": {"accuracy": 0.83}}],
}

_PATH = "/admin/adapters/{name}/versions/{version}/evaluations"
_TAG = "evaluations"

OPERATIONS = (
    Operation(
        "POST",
        _PATH,
        "attachEvaluation",
        "Attach how a version did on held-out data",
        _TAG,
        "admin",
        {201: Answer(EvaluationSummary, "The promotion gate looks at it from now on.")},
        (*FOUND, core.VersionNotFound, core.InvalidEvaluation, errors.Conflict, core.StoreError),
        {JSON: _DOCUMENT},
    ),
    Operation(
        "GET",
        _PATH,
        "listEvaluations",
        "List a version's evaluations, the newest first",
        _TAG,
        "admin",
        {200: Answer(EvaluationList, "A page of them.")},
        (*FOUND, core.VersionNotFound),
    ),
    Operation(
        "GET",
        _PATH + "/{number}",
        "getEvaluation",
        "Show an evaluation with its document",
        _TAG,
        "admin",
        {200: Answer(FullEvaluation, "The evaluation.")},
        (*FOUND, core.VersionNotFound, core.EvaluationNotFound),
    ),
)
