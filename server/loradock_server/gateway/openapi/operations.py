"""What `/admin/operations` answers, and the 202 of whoever begins one."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from loradock_adapters import errors as core
from loradock_adapters.registry import OperationState
from loradock_server.gateway import errors
from loradock_server.gateway.openapi.operation import APPLIED, LOCATION, RETRY_AFTER, Answer, Operation


class LongOperation(BaseModel):
    """Work that goes on after its request was answered."""

    object: Literal["operation"]
    id: str
    kind: str = Field(examples=["adapter.register"])
    adapter: str
    state: OperationState
    stage: str | None = Field(description="what is being done")
    done: int = Field(description="bytes, or probes, of this stage")
    total: int | None = Field(description="null: unknown")
    created_at: datetime
    created_by: str
    updated_at: datetime
    finished_at: datetime | None
    status: int | None = Field(description="once it is over: HTTP's, as somebody who waited would have got")
    result: dict[str, Any] | None = Field(description="the answer, when it succeeded")
    error: dict[str, Any] | None = Field(description="the `error`, when it failed")


class LongOperationList(BaseModel):
    """Operations, the newest first."""

    object: Literal["list"]
    data: list[LongOperation]
    has_more: bool
    last_id: str | None = Field(description="give it as `after` for the next page")


ACCEPTED = Answer(
    LongOperation,
    "With `Prefer: respond-async`: it goes on; ask `Location` how far it is.",
    headers=(LOCATION, RETRY_AFTER, APPLIED),
)
"""The 202 of a route that can be asked so."""

_PATH = "/admin/operations"
_TAG = "operations"

OPERATIONS = (
    Operation(
        "GET",
        _PATH,
        "listOperations",
        "List long registrations, the newest first",
        _TAG,
        "admin",
        {200: Answer(LongOperationList, "A page. Those that are over are kept for a week.")},
        (errors.BadRequest, core.OperationNotFound),
    ),
    Operation(
        "GET",
        _PATH + "/{id}",
        "getOperation",
        "Show how far a long registration is, or how it ended",
        _TAG,
        "admin",
        {200: Answer(LongOperation, "The operation.", sometimes=(RETRY_AFTER,))},
        (errors.BadRequest, core.OperationNotFound),
    ),
)
