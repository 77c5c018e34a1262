"""Lists page by page, as OpenAI has them: `limit` and `after` in, `has_more` and `last_id` out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

from fastapi import Query

MAX_LIMIT = 999

Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="How many at most.")]
Thing = TypeVar("Thing")

AFTER = "`last_id` of the page before: what follows it."


def page_view(
    found: Sequence[Thing], limit: int, view: Callable[[Thing], Any], id_of: Callable[[Thing], int | str]
) -> dict[str, Any]:
    """A page of `found`, of which one more than `limit` tells that there is another page."""
    page = found[:limit]
    return {
        "object": "list",
        "data": [view(one) for one in page],
        "has_more": len(found) > limit,
        "last_id": id_of(page[-1]) if page else None,
    }
