"""`loradock keys`: create, list and revoke API keys on a running server. Keeps no secret; shows it once."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated
from urllib.parse import quote

import typer

from loradock_server.cli.answers import objects_in
from loradock_server.cli.client import AdminClient
from loradock_server.cli.connection import KEY_VARIABLE, find_connection
from loradock_server.cli.errors import JsonObject
from loradock_server.cli.lazy import examples, new_app
from loradock_server.cli.options import AsJson, ServerUrl
from loradock_server.cli.output import answering, table
from loradock_server.cli.wording import cell, moment

KEYS = "/admin/keys"

app = new_app(
    name="keys",
    help="Create, list and revoke API keys.",
    epilog=examples("""
        loradock keys create my-app
        loradock keys create deployer --scope admin
        loradock keys list
    """),
)


class Scope(StrEnum):
    """What a key opens: the /v1 routes, or the admin routes."""

    inference = "inference"
    admin = "admin"


@app.command(
    epilog=examples("""
        loradock keys create my-app
        loradock keys create deployer --scope admin --scope inference
        loradock keys create my-app --json
    """)
)
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is, for you to recognise.")],
    scope: Annotated[
        list[Scope] | None,
        typer.Option("--scope", help="What it opens; repeat for both. Without it: inference."),
    ] = None,
    url: ServerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Create a key and show its secret, this once.

    The server keeps only a hash: a lost secret is replaced by a new key.
    """
    with answering(as_json) as output:
        scopes = sorted({str(one) for one in scope or [Scope.inference]})
        with AdminClient(find_connection(url)) as client:
            answer = client.post(KEYS, {"name": name, "scopes": scopes})
        output.document(answer)
        output.say(f"created key {cell(answer.get('id'))} for {', '.join(scopes)}; shown this once:")
        output.hint(f"export {KEY_VARIABLE}={cell(answer.get('secret'))}")


@app.command("list", epilog=examples("loradock keys list\nloradock keys list --json"))
def list_keys(url: ServerUrl = None, as_json: AsJson = False) -> None:
    """List the keys, revoked ones too, without their secrets."""
    with answering(as_json) as output:
        with AdminClient(find_connection(url)) as client:
            answer = client.get_all(KEYS)
        output.document(answer)
        rows = objects_in(answer, "data")
        output.say(table(("ID", "NAME", "SCOPES", "BEGINS", "CREATED", "REVOKED"), (_row(row) for row in rows)))


@app.command(epilog=examples("loradock keys revoke key-1f2e3d4c5b6a"))
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id, from loradock keys list.")],
    url: ServerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Revoke a key: from now on it opens nothing."""
    with answering(as_json) as output:
        with AdminClient(find_connection(url)) as client:
            answer = client.delete(f"{KEYS}/{quote(key_id, safe='')}")
        output.document(answer or {"id": key_id, "revoked": True})
        output.say(f"revoked key {key_id}")
        output.hint("loradock keys list")


def _row(key: JsonObject) -> tuple[object, ...]:
    revoked = key.get("revoked_at")
    return (
        key.get("id"),
        key.get("name"),
        key.get("scopes"),
        key.get("prefix"),
        moment(key.get("created_at")),
        moment(revoked) if revoked else None,
    )
