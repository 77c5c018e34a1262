"""The flags that say something of a key, the same for a new one and for one that is changed."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from loradock_server.cli.spans import read_expiry


class Scope(StrEnum):
    """What a key opens: the /v1 routes, or the admin routes. `inference` is what `infer` was called first."""

    infer = "infer"
    admin = "admin"
    inference = "inference"


Scopes = Annotated[
    list[Scope] | None,
    typer.Option("--scope", help="What it opens, infer (/v1) or admin; repeat for both. A new key: infer."),
]
Tenant = Annotated[
    str | None,
    typer.Option("--tenant", metavar="NAME", help="Whose it is: keys of one tenant share one prefix cache."),
]
Adapters = Annotated[
    list[str] | None,
    typer.Option(
        "--adapters",
        metavar="PATTERN",
        help="Only names like this may be asked for, and seen: support-* or the base model's name; repeatable. "
        "Without it: every one.",
    ),
]
Expires = Annotated[
    str | None,
    typer.Option("--expires", metavar="TIME", help="It opens nothing from then on: 30d, 12h, 2027-01-31."),
]
RequestsPerMinute = Annotated[int | None, typer.Option("--requests-per-minute", metavar="N", help="Then 429.")]
TokensPerMinute = Annotated[
    int | None, typer.Option("--tokens-per-minute", metavar="N", help="Of prompts and answers, then 429.")
]
MaxConcurrency = Annotated[
    int | None, typer.Option("--max-concurrency", metavar="N", help="Requests at a time, then 429.")
]
TokensPerDay = Annotated[
    int | None, typer.Option("--tokens-per-day", metavar="N", help="Of prompts and answers in a day of UTC, then 429.")
]


def said(
    scopes: list[Scope] | None,
    tenant: str | None,
    adapters: list[str] | None,
    expires: str | None,
    **limits: int | None,
) -> dict[str, Any]:
    """What the flags say, as the server takes it; nothing of what they do not. Raises Unreadable."""
    words: dict[str, Any] = {}
    if scopes:
        words["scopes"] = sorted({"infer" if one is Scope.inference else str(one) for one in scopes})
    if tenant is not None:
        words["tenant"] = tenant
    if adapters:
        words["adapters"] = adapters
    if expires is not None:
        words |= read_expiry(expires)
    set_ones = {name: value for name, value in limits.items() if value is not None}
    return {**words, "limits": set_ones} if set_ones else words
