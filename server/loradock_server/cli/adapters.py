"""`loradock adapters`: list, show, delete on a running server; check and register have their own files."""

from __future__ import annotations

from typing import Annotated

import typer

from loradock_server.cli.answers import object_in, objects_in
from loradock_server.cli.client import ADAPTERS, AdminClient, adapter_path
from loradock_server.cli.connection import Connection, find_connection
from loradock_server.cli.errors import JsonObject, Refused, Unreadable
from loradock_server.cli.lazy import Lazy, LazyGroup, examples, new_app
from loradock_server.cli.options import AdapterName, AsJson, ServerUrl
from loradock_server.cli.output import Output, answering, fields, table
from loradock_server.cli.wording import cell, moment, short_digest, size


class AdaptersGroup(LazyGroup):
    """`check` reads tensors, so it is imported only when asked for."""

    lazy_commands = {
        "check": Lazy(
            "loradock_server.cli.check:check",
            "Say whether an adapter can be served, without a server, and everything that is wrong with it.",
            examples=examples("""
                loradock adapters check ./my-adapter
                loradock adapters check ./my-adapter --base ./SmolLM2-135M-Instruct --max-rank 32
                loradock adapters check ./my-adapter --json
            """),
        ),
        "register": Lazy(
            "loradock_server.cli.register:register",
            "Upload an adapter as the next version of NAME and make it live.",
            examples=examples("""
                loradock adapters register support-bot ./my-adapter
                loradock adapters register support-bot /srv/adapters/support-bot --on-server
                loradock adapters register support-bot ./my-adapter --url http://10.0.0.7:8000 --json
            """),
        ),
    }


app = new_app(
    cls=AdaptersGroup,
    name="adapters",
    help="Check, register, list, show and delete adapters.",
    epilog=examples("""
        loradock adapters check ./my-adapter
        loradock adapters register support-bot ./my-adapter
        loradock adapters show support-bot
    """),
)


@app.command("list", epilog=examples("loradock adapters list\nloradock adapters list --json"))
def list_adapters(url: ServerUrl = None, as_json: AsJson = False) -> None:
    """List the adapters, their live version and where they are."""
    with answering(as_json) as output:
        with AdminClient(find_connection(url)) as client:
            answer = client.get(ADAPTERS)
        output.document(answer)
        rows = objects_in(answer, "data")
        if not rows:
            output.say("no adapters yet")
            output.hint("loradock adapters register NAME PATH")
            return
        output.say(table(("NAME", "LIVE", "VERSIONS", "RESIDENT", "CREATED"), (_row(row) for row in rows)))


@app.command(epilog=examples("loradock adapters show support-bot\nloradock adapters show support-bot --json"))
def show(name: AdapterName, url: ServerUrl = None, as_json: AsJson = False) -> None:
    """Show one adapter: every version, its bytes, rank and aliases."""
    with answering(as_json) as output:
        with AdminClient(find_connection(url)) as client:
            answer = client.get(adapter_path(name))
        output.document(answer)
        aliases = object_in(answer, "aliases")
        columns = ("VERSION", "ALIASES", "DIGEST", "RANK", "SIZE", "TARGETS", "RESIDENT", "CREATED", "BY")
        versions = (_version_row(version, aliases) for version in objects_in(answer, "versions"))
        output.say(
            fields({"name": answer.get("name"), "created": moment(answer.get("created_at"))}),
            "",
            table(columns, versions),
        )


@app.command(epilog=examples("loradock adapters delete support-bot\nloradock adapters delete support-bot -y"))
def delete(
    name: AdapterName,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    url: ServerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Delete an adapter with all its versions; running requests finish first.

    Its name answers 404 from then on, and its version numbers are never given out again.
    """
    with answering(as_json) as output:
        target = adapter_path(name)
        connection = find_connection(url)
        if not yes:
            _confirm(name, connection, output)
        with AdminClient(connection) as client:
            answer = client.delete(target)
        output.document(answer or {"name": name, "deleted": True})
        output.say(f"deleted {name}")


def _confirm(name: str, connection: Connection, output: Output) -> None:
    if output.as_json or not output.err.is_terminal:
        raise Unreadable(f"deleting {name} needs a yes and nobody can be asked here", fix="add --yes")
    if not typer.confirm(f"Delete {name} and all its versions on {connection.url}?", err=True):
        raise Refused(f"{name} was not deleted")


def _row(adapter: JsonObject) -> tuple[object, ...]:
    return (
        adapter.get("name"),
        object_in(adapter, "aliases").get("live"),
        len(objects_in(adapter, "versions")),
        _residency(adapter.get("residency")),
        moment(adapter.get("created_at")),
    )


def _version_row(version: JsonObject, aliases: JsonObject) -> tuple[object, ...]:
    number = version.get("version")
    return (
        number,
        [alias for alias, target in aliases.items() if target == number],
        short_digest(version.get("digest")),
        version.get("rank"),
        size(version.get("size_bytes")),
        version.get("target_modules"),
        _residency(version.get("residency")),
        moment(version.get("created_at")),
        version.get("created_by"),
    )


def _residency(value: object) -> object:
    if isinstance(value, dict):
        return [f"{key}: {cell(found)}" for key, found in value.items()]
    return value
