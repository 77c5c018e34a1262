"""ETags over the registry's revisions: the header of an answer, and what If-Match demands.

A tag is the revision at which the thing last changed. It knows no name and no version.
"""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Depends, Header

from loradock_adapters.registry import IfMatch

_TAG = re.compile(r'(?:W/)?"([^"]*)"')
_OURS = re.compile(r"[0-9]{1,18}")


def etag_header(revision: int | None) -> tuple[tuple[str, str], ...]:
    """The header for something at this revision; none for nothing."""
    return () if revision is None else (("etag", f'"{revision}"'),)


def read_if_match(header: str | None) -> IfMatch | None:
    """What an If-Match header demands, None without one. A tag that is none of ours matches nothing."""
    if header is None:
        return None
    if header.strip() == "*":
        return IfMatch(anything=True)
    return IfMatch(frozenset(int(tag) for tag in _TAG.findall(header) if _OURS.fullmatch(tag)))


def _condition(if_match: Annotated[str | None, Header()] = None) -> IfMatch | None:
    return read_if_match(if_match)


Condition = Annotated[IfMatch | None, Depends(_condition)]
"""A route's parameter: what the request's If-Match demands."""
