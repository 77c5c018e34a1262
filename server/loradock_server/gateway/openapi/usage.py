"""What `/admin/usage` answers."""

from __future__ import annotations

from datetime import date, datetime
from typing import Literal

from pydantic import BaseModel, Field

from loradock_server.gateway import errors
from loradock_server.gateway.admin_usage import CSV
from loradock_server.gateway.openapi.operation import Answer, Operation


class UsageCounts(BaseModel):
    """What the engine counted."""

    requests: int
    errors: int = Field(description="of them refused by the engine, with a status of 400 and up")
    aborted: int = Field(description="of them ended before their time, mostly because the client left")
    input_tokens: int
    output_tokens: int
    cached_tokens: int = Field(description="those of input_tokens that the prefix cache had")
    cost: str | None = Field(description="at today's prices, all digits; null without LORADOCK_PRICES")
    unpriced_tokens: int | None = Field(description="of adapters that the price list has no price for")


class UsageRow(UsageCounts):
    """One group; it has those names that the sums are divided by."""

    object: Literal["usage"]
    id: str
    day: date | None = Field(default=None, description="UTC")
    hour: datetime | None = Field(default=None, description="when it began, UTC")
    tenant: str | None = None
    key: str | None = Field(default=None, description="the key's id")
    key_name: str | None = Field(default=None, description="null for a key that is in no registry")
    adapter: str | None = Field(default=None, description="`base` is the base model")
    version: int | None = Field(default=None, description="null for the base model")


class UsageList(BaseModel):
    """A page of rows, sorted by what they are divided by, and the sum of all pages."""

    object: Literal["list"]
    data: list[UsageRow]
    has_more: bool
    last_id: str | None = Field(description="give it as `after` for the next page")
    from_: datetime | None = Field(alias="from", description="the first hour that counts")
    to: datetime | None = Field(description="the first hour that does not count any more")
    group_by: list[str]
    currency: str | None
    total: UsageCounts


class UsagePruned(BaseModel):
    """What was forgotten."""

    object: Literal["usage.pruned"]
    before: datetime
    rows: int


_PATH = "/admin/usage"
_TAG = "usage"

OPERATIONS = (
    Operation(
        "GET",
        _PATH,
        "listUsage",
        "Sum up requests and tokens",
        _TAG,
        "admin",
        {200: Answer(UsageList, "A page of sums; as text/csv all of them.", content={CSV: {"type": "string"}})},
        (errors.BadRequest,),
        description="Tokens are as the engine counted them, of aborted requests too, in the hour in which a request "
        "ended. Today's prices are applied to the whole period.",
    ),
    Operation(
        "DELETE",
        _PATH,
        "pruneUsage",
        "Forget old hours",
        _TAG,
        "admin",
        {200: Answer(UsagePruned, "They are gone; the audit says by whom.")},
        (errors.BadRequest,),
    ),
)
