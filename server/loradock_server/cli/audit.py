"""`loradock audit`: who changed what on a running server, newest first."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlencode

import typer

from loradock_server.cli.answers import object_in, objects_in
from loradock_server.cli.client import AdminClient
from loradock_server.cli.connection import find_connection
from loradock_server.cli.errors import JsonObject
from loradock_server.cli.options import AsJson, ServerUrl
from loradock_server.cli.output import answering, table
from loradock_server.cli.wording import moment

AUDIT = "/admin/audit"


def audit(
    adapter: Annotated[str | None, typer.Option("--adapter", metavar="NAME", help="Only of this adapter.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=999, help="How many events.")] = 50,
    after: Annotated[int | None, typer.Option("--after", metavar="ID", help="Only older ones than this event.")] = None,
    url: ServerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show who changed what, newest first.

    Registering, promoting, retiring, deleting, pins and keys: when, who, from where, before and after.
    """
    with answering(as_json) as output:
        asked = {"adapter": adapter, "limit": limit, "after": after}
        query = urlencode({name: value for name, value in asked.items() if value is not None})
        with AdminClient(find_connection(url)) as client:
            answer = client.get(f"{AUDIT}?{query}")
        output.document(answer)
        rows = [_row(event) for event in objects_in(answer, "data")]
        output.say(table(("ID", "WHEN", "WHO", "FROM", "WHAT", "OF", "BEFORE", "AFTER"), rows))
        if answer.get("has_more"):
            named = f" --adapter {adapter}" if adapter else ""
            output.hint(f"loradock audit{named} --after {answer.get('last_id')}")


def _row(event: JsonObject) -> tuple[object, ...]:
    actor = object_in(event, "actor")
    return (
        event.get("id"),
        moment(event.get("at")),
        actor.get("name"),
        actor.get("origin"),
        event.get("action"),
        _subject(event),
        _values(object_in(event, "before")),
        _values(object_in(event, "after")),
    )


def _subject(event: JsonObject) -> str | None:
    part = event.get("version") or event.get("alias")
    name = event.get("adapter")
    return f"{name}@{part}" if name and part else name


def _values(values: JsonObject) -> str:
    return " ".join(f"{name}={value}" for name, value in values.items())
