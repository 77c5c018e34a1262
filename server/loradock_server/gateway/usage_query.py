"""What `/admin/usage` may be asked, read into a query of the ledger, and where one page ends and the next begins."""

from __future__ import annotations

import base64
import json
import re
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Query
from pydantic import AfterValidator, BeforeValidator, WithJsonSchema

from loradock_adapters.names import NAME_PATTERN
from loradock_adapters.registry.usage_report import Dimension, UsageQuery, Values
from loradock_server.gateway.errors import BadRequest

_TIME = r"\d{4}-\d{2}-\d{2}(?:T\d{2}:\d{2}(?::\d{2}(?:\.\d{1,6})?)?(?:Z|[+-]\d{2}:\d{2})?)?"
_DIMENSION = "|".join(Dimension)
_LIST = rf"(?:(?:{_DIMENSION})(?:,(?:{_DIMENSION}))*)?"
_MAX_NUMBER = 2**31 - 1
_NUMBERS = frozenset({Dimension.DAY, Dimension.HOUR, Dimension.VERSION})


def read_moment(text: Any) -> datetime:
    """A day, or a moment in ISO 8601; UTC where it names no zone. Raises BadRequest."""
    try:
        if not isinstance(text, str) or not re.fullmatch(_TIME, text, re.ASCII):
            raise ValueError("it has another form")
        found = datetime.fromisoformat(text)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found
    except ValueError as error:
        raise BadRequest(
            f"{str(text)[:40]!r} is no time ({error}); write 2026-03-01 or 2026-03-01T12:00:00Z (send a + as %2B)"
        ) from error


def read_dimensions(text: str) -> tuple[Dimension, ...]:
    """`adapter,day`. Raises BadRequest."""
    words = text.split(",") if text else []
    known = {str(one): one for one in Dimension}
    if unknown := [word for word in words if word not in known]:
        raise BadRequest(
            f"usage is not divided by {unknown[0][:40]!r}; group by {', '.join(Dimension)}", param="group_by"
        )
    return tuple(known[word] for word in words)


def _checked(text: str) -> str:
    read_dimensions(text)
    return text


Moment = Annotated[datetime, BeforeValidator(read_moment), WithJsonSchema({"type": "string", "pattern": f"^{_TIME}$"})]
_Dimensions = Annotated[str, AfterValidator(_checked), WithJsonSchema({"type": "string", "pattern": f"^{_LIST}$"})]
_WORD = r"^[^\x00-\x1f\x7f]*$"


def usage_query(
    since: Annotated[
        Moment | None,
        Query(alias="from", description="From this hour on: a day, or a moment in ISO 8601, UTC without a zone."),
    ] = None,
    until: Annotated[
        Moment | None, Query(alias="to", description="Before this moment; an hour that has begun then counts whole.")
    ] = None,
    group_by: Annotated[
        _Dimensions,
        Query(
            description=f"What to divide the sums by, with commas between: {', '.join(Dimension)}. Nothing: one sum."
        ),
    ] = "adapter",
    key: Annotated[
        str | None, Query(max_length=255, pattern=_WORD, description="Only of the key with this id.")
    ] = None,
    adapter: Annotated[
        str | None, Query(pattern=f"^{NAME_PATTERN}$", description="Only of this adapter; `base` is the base model.")
    ] = None,
    tenant: Annotated[
        str | None, Query(max_length=255, pattern=_WORD, description="Only of this tenant; empty: of none.")
    ] = None,
) -> UsageQuery:
    """A FastAPI dependency. Raises BadRequest."""
    if since is not None and until is not None and since >= until:
        raise BadRequest(
            f"nothing lies between {since.isoformat()} and {until.isoformat()}; let `to` be later than `from`",
            param="to",
        )
    return UsageQuery(since, until, key, adapter, tenant, read_dimensions(group_by))


def cursor_of(values: Values) -> str:
    """A row's id, which `read_cursor` reads."""
    return base64.urlsafe_b64encode(json.dumps(values, separators=(",", ":")).encode()).decode().rstrip("=") or "-"


def read_cursor(text: str, query: UsageQuery) -> Values:
    """The values of the row with this id, in a query that is divided the same way. Raises BadRequest."""
    try:
        values = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), "-_", validate=True))
        if not isinstance(values, list) or len(values) != len(query.by):
            raise ValueError(f"it is not divided by {', '.join(query.by) or 'nothing'}")
        for dimension, value in zip(query.by, values, strict=True):
            number = type(value) is int and 0 <= value <= _MAX_NUMBER
            if not (number if dimension in _NUMBERS else isinstance(value, str) and value.isprintable()):
                raise ValueError(f"{str(value)[:40]!r} is no {dimension}")
    except (ValueError, RecursionError) as error:
        raise BadRequest(
            f"`after` is not the `last_id` of a page before it ({error}); ask for the first page", param="after"
        ) from error
    return tuple(values)
