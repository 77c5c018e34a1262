"""What `/admin/adapters/{name}/versions/{version}/evaluations` takes and answers."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from loradock_adapters import errors as core
from loradock_adapters.evaluation import MAX_METRICS
from loradock_server.gateway import errors
from loradock_server.gateway.openapi.adapters import FOUND
from loradock_server.gateway.openapi.operation import JSON, Answer, Operation


class Evaluation(BaseModel):
    """How a version did, as somebody measured it."""

    object: Literal["adapter.evaluation"]
    id: int
    name: str
    version: int
    task: str
    metrics: dict[str, float]
    data_sha256: str | None = Field(description="of the data it was measured on, if it says so")
    created_at: datetime
    created_by: str


class WholeEvaluation(Evaluation):
    """An evaluation with all that was sent."""

    document: dict[str, Any]


class EvaluationList(BaseModel):
    """Evaluations of a version, newest first."""

    object: Literal["list"]
    data: list[Evaluation]
    has_more: bool
    last_id: int | None = Field(description="give it as `after` for the next page")


_DIGEST = {"type": ["string", "null"], "pattern": "^[0-9a-f]{64}$"}
_METRICS = {
    "type": "object",
    "minProperties": 1,
    "maxProperties": MAX_METRICS,
    "propertyNames": {"pattern": r"^[A-Za-z0-9][A-Za-z0-9_./@ -]{0,99}$"},
    "additionalProperties": {"type": "number", "minimum": -1e300, "maximum": 1e300},
}
TAKES: dict[str, Any] = {
    "type": "object",
    "description": "`metrics`, or numbers as `adapter`; whatever else is there is kept.",
    "required": ["task"],
    "properties": {
        "task": {"type": "string", "pattern": r"^[A-Za-z0-9][A-Za-z0-9_./@ -]{0,99}$"},
        "metrics": _METRICS,
        "data_sha256": {**_DIGEST, "description": "of the data; only equal ones are compared"},
        "adapter_digest": {**_DIGEST, "description": "the bytes that were measured: refused if they are not these"},
        "base_digest": {**_DIGEST, "description": "the base model: refused if it is another one"},
    },
    "anyOf": [{"required": ["metrics"]}, {"required": ["adapter"], "properties": {"adapter": _METRICS}}],
    "examples": [{"task": "support-tickets", "metrics": {"score": 0.91}}],
}

_PATH = "/admin/adapters/{name}/versions/{version}/evaluations"
_TAG = "adapters"
_VERSION = (*FOUND, core.VersionNotFound)

OPERATIONS = (
    Operation(
        "POST",
        _PATH,
        "attachEvaluation",
        "Attach an evaluation to the version that it measured",
        _TAG,
        "admin",
        {201: Answer(Evaluation, "The promotion gate asks it from now on.")},
        (*_VERSION, core.InvalidEvaluation, errors.Conflict, core.StoreError),
        {JSON: TAKES},
    ),
    Operation(
        "GET",
        _PATH,
        "listEvaluations",
        "List a version's evaluations, newest first",
        _TAG,
        "admin",
        {200: Answer(EvaluationList, "A page of evaluations.")},
        _VERSION,
    ),
    Operation(
        "GET",
        _PATH + "/{number}",
        "getEvaluation",
        "Show an evaluation with all that was sent",
        _TAG,
        "admin",
        {200: Answer(WholeEvaluation, "The evaluation.")},
        (*_VERSION, core.EvaluationNotFound),
    ),
)
