"""What `/admin/gc` takes and answers."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from loradock_adapters import errors as core
from loradock_server.gateway.admin_gc import GcOrder
from loradock_server.gateway.openapi.operation import JSON, Answer, Operation


class Blob(BaseModel):
    """The bytes of one digest."""

    digest: str
    size_bytes: int


class Collected(BaseModel):
    """What was removed, or with `dry_run` would be."""

    object: Literal["gc"]
    dry_run: bool
    grace_seconds: float
    blobs: list[Blob]
    bytes: int


OPERATIONS = (
    Operation(
        "POST",
        "/admin/gc",
        "collectGarbage",
        "Remove bytes that no version refers to and no engine holds",
        "store",
        "admin",
        {200: Answer(Collected, "What went.")},
        (core.StoreError,),
        {JSON: GcOrder},
        body_required=False,
    ),
)
