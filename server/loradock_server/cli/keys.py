"""`loradock keys`: API keys on a running server. Keeps no secret; shows it once."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import quote

import typer

from loradock_adapters.registry.key_secrets import PREFIX
from loradock_server.cli import key_options as options
from loradock_server.cli.answers import object_in, objects_in
from loradock_server.cli.client import AdminClient
from loradock_server.cli.connection import KEY_VARIABLE, find_connection
from loradock_server.cli.errors import JsonObject, Unreadable
from loradock_server.cli.lazy import examples, new_app
from loradock_server.cli.options import AsJson, ServerUrl
from loradock_server.cli.output import answering, fields, table
from loradock_server.cli.spans import read_span
from loradock_server.cli.wording import cell, moment

KEYS = "/admin/keys"
_LIMITS = ("requests_per_minute", "tokens_per_minute", "max_concurrency", "tokens_per_day")

app = new_app(
    name="keys",
    help="Create, change, rotate and revoke API keys.",
    epilog=examples("""
        loradock keys create my-app --adapters 'support-*' --expires 30d
        loradock keys create deployer --scope admin
        loradock keys set key-1f2e3d4c5b6a --requests-per-minute 60
        loradock keys rotate key-1f2e3d4c5b6a
        loradock keys list
    """),
)

KeyId = Annotated[str, typer.Argument(metavar="ID", help="The key's id, from loradock keys list.")]
IfRevision = Annotated[
    str | None,
    typer.Option(
        "--if-revision",
        metavar="N",
        help="Only if the key is still at this revision (of show --json): not to undo what somebody else did.",
    ),
]


class Part(StrEnum):
    """What can be taken back from a key."""

    tenant = "tenant"
    adapters = "adapters"
    expires = "expires"
    limits = "limits"
    requests_per_minute = "requests-per-minute"
    tokens_per_minute = "tokens-per-minute"
    max_concurrency = "max-concurrency"
    tokens_per_day = "tokens-per-day"


@app.command(
    epilog=examples("""
        loradock keys create my-app
        loradock keys create my-app --tenant acme --adapters 'support-*' --adapters smollm2-135m-instruct
        loradock keys create trial --expires 30d --requests-per-minute 60 --tokens-per-day 100000
        loradock keys create deployer --scope admin --scope infer
        loradock keys create my-app --json
    """)
)
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is, for you to recognise.")],
    scope: options.Scopes = None,
    tenant: options.Tenant = None,
    adapters: options.Adapters = None,
    expires: options.Expires = None,
    requests_per_minute: options.RequestsPerMinute = None,
    tokens_per_minute: options.TokensPerMinute = None,
    max_concurrency: options.MaxConcurrency = None,
    tokens_per_day: options.TokensPerDay = None,
    url: ServerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Create a key and show its secret, this once.

    The server keeps only a hash: a lost secret is replaced by rotating the key.
    """
    with answering(as_json) as output:
        words = options.said(
            scope or [options.Scope.infer],
            tenant,
            adapters,
            expires,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            max_concurrency=max_concurrency,
            tokens_per_day=tokens_per_day,
        )
        with AdminClient(find_connection(url)) as client:
            answer = client.post(KEYS, {"name": name, **words})
        output.document(answer)
        output.say(f"created key {cell(answer.get('id'))} for {cell(answer.get('scopes'))}; shown this once:")
        output.hint(f"export {KEY_VARIABLE}={cell(answer.get('secret'))}")


@app.command(
    "list",
    epilog=examples("""
        loradock keys list
        loradock keys list --begins ld-Zk3vQ8aT
        loradock keys list --json
    """),
)
def list_keys(
    begins: Annotated[
        str | None,
        typer.Option(
            "--begins",
            metavar="TEXT",
            help="Only keys whose secret begins so: whose is one that turned up somewhere? The rest is not sent.",
        ),
    ] = None,
    url: ServerUrl = None,
    as_json: AsJson = False,
) -> None:
    """List the keys, revoked ones too, without their secrets."""
    with answering(as_json) as output:
        with AdminClient(find_connection(url)) as client:
            # Of a whole secret no more than the server shows itself: addresses are logged on their way.
            answer = client.get_all(f"{KEYS}?begins={quote(begins[:PREFIX], safe='')}" if begins else KEYS)
        output.document(answer)
        rows = objects_in(answer, "data")
        columns = ("ID", "NAME", "TENANT", "SCOPES", "ADAPTERS", "BEGINS", "LAST USED", "EXPIRES", "REVOKED")
        output.say(table(columns, (_row(row) for row in rows)))


@app.command(epilog=examples("loradock keys show key-1f2e3d4c5b6a"))
def show(key_id: KeyId, url: ServerUrl = None, as_json: AsJson = False) -> None:
    """Show everything of a key but its secret."""
    with answering(as_json) as output:
        with AdminClient(find_connection(url)) as client:
            answer = client.get(_path(key_id))
        output.document(answer)
        output.say(fields(_fields(answer)))


@app.command(
    "set",
    epilog=examples("""
        loradock keys set key-1f2e3d4c5b6a --adapters 'support-*' --adapters 'mail-*'
        loradock keys set key-1f2e3d4c5b6a --expires 90d --requests-per-minute 600
        loradock keys set key-1f2e3d4c5b6a --unset adapters --unset expires
    """),
)
def set_key(
    key_id: KeyId,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="Whose key it is.")] = None,
    scope: options.Scopes = None,
    tenant: options.Tenant = None,
    adapters: options.Adapters = None,
    expires: options.Expires = None,
    requests_per_minute: options.RequestsPerMinute = None,
    tokens_per_minute: options.TokensPerMinute = None,
    max_concurrency: options.MaxConcurrency = None,
    tokens_per_day: options.TokensPerDay = None,
    unset: Annotated[
        list[Part] | None,
        typer.Option("--unset", help="Take this back: no tenant, every adapter, never, no limit; repeatable."),
    ] = None,
    if_revision: IfRevision = None,
    url: ServerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Change a key; its secret stays. Requests that come from now on are judged so.

    What is named replaces what was there, all patterns of --adapters and all of --scope together; the rest stays.
    """
    with answering(as_json) as output:
        words = options.said(
            scope,
            tenant,
            adapters,
            expires,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            max_concurrency=max_concurrency,
            tokens_per_day=tokens_per_day,
        )
        patch = _without({**({} if name is None else {"name": name}), **words}, unset or [])
        if not patch:
            raise Unreadable("nothing to change was named", fix="see loradock keys set --help")
        with AdminClient(find_connection(url)) as client:
            answer = client.patch(_path(key_id), patch, if_match=if_revision)
        output.document(answer)
        output.say(f"changed key {cell(answer.get('id'))}")
        output.say(fields(_fields(answer)))


@app.command(
    epilog=examples("""
        loradock keys rotate key-1f2e3d4c5b6a
        loradock keys rotate key-1f2e3d4c5b6a --grace 7d
        loradock keys rotate key-1f2e3d4c5b6a --grace 0
    """)
)
def rotate(
    key_id: KeyId,
    grace: Annotated[
        str,
        typer.Option(
            "--grace",
            metavar="SPAN",
            help="How long the secret until now stays good, at most 30d. 0: it, and any before it, end now.",
        ),
    ] = "24h",
    if_revision: IfRevision = None,
    url: ServerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Give a key a new secret and show it, this once. Everything else of the key stays."""
    with answering(as_json) as output:
        body = {"grace_seconds": read_span(grace)}
        with AdminClient(find_connection(url)) as client:
            answer = client.post(f"{_path(key_id)}/rotate", body, if_match=if_revision)
        output.document(answer)
        until = answer.get("old_secret_until")
        old = f"the old secret is good until {moment(until)}" if until else "the old secret opens nothing any more"
        output.say(f"rotated key {cell(answer.get('id'))}; {old}; the new one, shown this once:")
        output.hint(f"export {KEY_VARIABLE}={cell(answer.get('secret'))}")


@app.command(epilog=examples("loradock keys revoke key-1f2e3d4c5b6a"))
def revoke(key_id: KeyId, if_revision: IfRevision = None, url: ServerUrl = None, as_json: AsJson = False) -> None:
    """Revoke a key: from now on it opens nothing."""
    with answering(as_json) as output:
        with AdminClient(find_connection(url)) as client:
            answer = client.delete(_path(key_id), if_match=if_revision)
        output.document(answer or {"id": key_id, "revoked": True})
        output.say(f"revoked key {key_id}")
        output.hint("loradock keys list")


def _path(key_id: str) -> str:
    return f"{KEYS}/{quote(key_id, safe='')}"


def _without(words: dict[str, Any], parts: list[Part]) -> dict[str, Any]:
    """The patch with null for everything that is taken back. Raises Unreadable for what is set too."""
    for part in parts:
        key = part.value.replace("-", "_")
        into = words
        if key in _LIMITS:
            into = words.setdefault("limits", {})
        key = "expires_at" if part is Part.expires else key
        if into is None or key in into or (part is Part.expires and "expires_in" in into):
            raise Unreadable(f"--unset {part.value} goes against another flag", fix="leave one of them out")
        into[key] = None
    return words


def _row(key: JsonObject) -> tuple[object, ...]:
    return (
        key.get("id"),
        key.get("name"),
        key.get("tenant"),
        key.get("scopes"),
        _adapters(key),
        key.get("prefix"),
        _moment(key.get("last_used_at")),
        _moment(key.get("expires_at")),
        _moment(key.get("revoked_at")),
    )


def _fields(key: JsonObject) -> dict[str, object]:
    limits = object_in(key, "limits")
    return {
        "id": key.get("id"),
        "name": key.get("name"),
        "tenant": key.get("tenant"),
        "scopes": key.get("scopes"),
        "adapters": _adapters(key),
        **{name: limits[name] for name in _LIMITS if limits.get(name) is not None},
        "begins": key.get("prefix"),
        "created": _moment(key.get("created_at")),
        "last used": _moment(key.get("last_used_at")),
        "expires": _moment(key.get("expires_at")),
        "revoked": _moment(key.get("revoked_at")),
        "old secret until": _moment(key.get("old_secret_until")),
        "revision": key.get("revision"),
    }


def _adapters(key: JsonObject) -> object:
    return "every one" if key.get("adapters") is None else key.get("adapters")


def _moment(value: object) -> str | None:
    return moment(value) if value else None
