"""What `/admin/audit` answers."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from loradock_adapters import errors as core
from loradock_server.gateway import errors
from loradock_server.gateway.openapi.operation import Answer, Operation


class Actor(BaseModel):
    """Who did it."""

    name: str
    key: str | None = Field(description="id of the API key")
    origin: str | None = Field(description="address the request came from")


class Event(BaseModel):
    """One change of the registry."""

    object: Literal["audit.event"]
    id: int
    at: datetime
    actor: Actor
    action: str = Field(examples=["alias.set"])
    adapter: str | None
    version: int | None
    alias: str | None
    before: dict[str, Any] | None
    after: dict[str, Any] | None


class EventList(BaseModel):
    """Events, newest first."""

    object: Literal["list"]
    data: list[Event]
    has_more: bool
    last_id: int | None = Field(description="give it as `after` for the next page")


OPERATIONS = (
    Operation(
        "GET",
        "/admin/audit",
        "listEvents",
        "List who changed what, newest first",
        "audit",
        "admin",
        {200: Answer(EventList, "A page of events.")},
        (errors.BadRequest, core.InvalidName),
    ),
)
