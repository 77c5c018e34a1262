"""`loradock usage`: what a running server has counted, summed up as asked; and `usage prune`, which forgets."""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from urllib.parse import urlencode

import typer

from loradock_server.cli.answers import object_in, objects_in
from loradock_server.cli.client import AdminClient
from loradock_server.cli.connection import find_connection
from loradock_server.cli.errors import JsonObject, Unreadable
from loradock_server.cli.lazy import examples, new_app
from loradock_server.cli.options import AsJson, ServerUrl
from loradock_server.cli.output import answering, table
from loradock_server.cli.wording import cell, moment

USAGE = "/admin/usage"

_SPAN = re.compile(r"([1-9][0-9]{0,4})([hdw])")
_HOURS = {"h": 1, "d": 24, "w": 24 * 7}
_HEADINGS = {
    "day": "DAY",
    "hour": "HOUR",
    "tenant": "TENANT",
    "key": "KEY",
    "key_name": "NAME",
    "adapter": "ADAPTER",
    "version": "VERSION",
}
_COUNTS = ("requests", "errors", "aborted", "input_tokens", "cached_tokens", "output_tokens")

app = new_app(
    name="usage",
    no_args_is_help=False,
    invoke_without_command=True,
    epilog=examples("""
        loradock usage
        loradock usage --since 30d --by tenant,adapter
        loradock usage --since 2026-03-01 --until 2026-04-01 --by key,day --csv > march.csv
        loradock usage --key key-1f2e3d4c5b6a --by version --json
    """),
)


@app.callback()
def usage(
    context: typer.Context,
    since: Annotated[
        str, typer.Option("--since", metavar="SPAN|TIME", help="From when on: 12h, 7d, 4w ago, or a time in ISO 8601.")
    ] = "7d",
    until: Annotated[
        str | None, typer.Option("--until", metavar="SPAN|TIME", help="Before when. Without it: now.")
    ] = None,
    by: Annotated[
        str,
        typer.Option("--by", metavar="LIST", help="What to divide by: day, hour, tenant, key, adapter, version."),
    ] = "adapter",
    key: Annotated[str | None, typer.Option("--key", metavar="ID", help="Only of this key.")] = None,
    adapter: Annotated[
        str | None, typer.Option("--adapter", metavar="NAME", help="Only of this adapter; base is the base model.")
    ] = None,
    tenant: Annotated[str | None, typer.Option("--tenant", metavar="NAME", help="Only of this tenant.")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Answer with a CSV table, for spreadsheets.")] = False,
    url: ServerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show how many requests and tokens were used, by whom, and what they cost.

    Tokens are as the engine counted them, also of streams that clients left, in the hour (UTC) in which a request
    ended. Hours at the ends of the period count whole. Costs are at the server's present prices (LORADOCK_PRICES).
    """
    if context.invoked_subcommand is not None:
        return
    with answering(as_json) as output:
        if as_csv and as_json:
            raise Unreadable("--csv and --json are two kinds of answer", fix="choose one of them")
        now = datetime.now(UTC)
        asked = {
            "from": _when(since, now, "--since"),
            "to": None if until is None else _when(until, now, "--until"),
            "group_by": by.replace(" ", ""),
            "key": key,
            "adapter": adapter,
            "tenant": tenant,
        }
        query = urlencode({name: value for name, value in asked.items() if value is not None})
        with AdminClient(find_connection(url)) as client:
            if as_csv:
                _copy(client, f"{USAGE}?{query}&format=csv")
                return
            answer = client.get_all(f"{USAGE}?{query}")
        output.document(answer)
        output.say(_table(answer))
        total = object_in(answer, "total")
        if total.get("unpriced_tokens"):
            output.say(f"{_count(total['unpriced_tokens'])} tokens of adapters without a price are not in the cost")
        if not objects_in(answer, "data"):
            output.hint("loradock usage --since 90d")


@app.command(epilog=examples("loradock usage prune --before 2026-01-01"))
def prune(
    before: Annotated[
        str, typer.Option("--before", metavar="SPAN|TIME", help="Hours before it: 90d, 52w ago, or a time in ISO 8601.")
    ],
    url: ServerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Forget the sums of hours before a time, for good; the audit says by whom.

    Nothing is forgotten by itself.
    """
    with answering(as_json) as output:
        when = _when(before, datetime.now(UTC), "--before")
        with AdminClient(find_connection(url)) as client:
            answer = client.delete(f"{USAGE}?{urlencode({'before': when})}")
        output.document(answer)
        output.say(f"forgot {cell(answer.get('rows'))} rows from before {moment(answer.get('before'))}")


def _when(text: str, now: datetime, option: str) -> str:
    """A span before now or a time, as the server reads it."""
    if span := _SPAN.fullmatch(text):
        return (now - timedelta(hours=int(span[1]) * _HOURS[span[2]])).isoformat(timespec="seconds")
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise Unreadable(
            f"{option} {text!r} is neither a span nor a time", fix="write 12h, 7d, 4w, 2026-03-01 or 2026-03-01T12:00Z"
        ) from None
    return (found.replace(tzinfo=UTC) if found.tzinfo is None else found).isoformat(timespec="seconds")


def _copy(client: AdminClient, path: str) -> None:
    with client.download(path) as (_, parts):
        for part in parts:
            sys.stdout.buffer.write(part)
    sys.stdout.buffer.flush()


def _table(answer: JsonObject) -> Any:
    rows, total = objects_in(answer, "data"), object_in(answer, "total")
    named = [name for name in _HEADINGS if any(name in row for row in rows)]
    currency = answer.get("currency")
    heads = [_HEADINGS[name] for name in named]
    heads += ["REQUESTS", "ERRORS", "ABORTED", "INPUT", "CACHED", "OUTPUT"]
    heads += [f"COST {cell(currency)}"] if currency else []
    lines = [[_shown(name, row.get(name)) for name in named] + _numbers(row, priced=bool(currency)) for row in rows]
    if len(rows) != 1:
        lines.append(
            [*("total" if place == 0 else "" for place in range(len(named))), *_numbers(total, priced=bool(currency))]
        )
    drawn = table(heads, lines)
    for column in drawn.columns[len(named) :]:
        column.justify = "right"
    return drawn


def _shown(name: str, value: object) -> object:
    return moment(value) if name == "hour" else value


def _numbers(row: JsonObject, *, priced: bool) -> list[object]:
    counts: list[object] = [_count(row.get(name)) for name in _COUNTS]
    return [*counts, row.get("cost")] if priced else counts


def _count(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else cell(value)
