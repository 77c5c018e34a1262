"""`loradock adapters`: list, show, pin, unpin, delete on a running server; the other commands have their own files."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Annotated

import typer

from loradock_server.cli.adapter_settings import shown_settings
from loradock_server.cli.answers import object_in, objects_in
from loradock_server.cli.client import ADAPTERS, AdminClient, adapter_path, version_path
from loradock_server.cli.connection import find_connection
from loradock_server.cli.errors import JsonObject, Refused, Unreadable
from loradock_server.cli.lazy import Lazy, LazyGroup, examples, new_app
from loradock_server.cli.options import AdapterName, AsJson, ServerUrl
from loradock_server.cli.output import Output, answering, fields, table
from loradock_server.cli.wording import ago, cell, moment, printable, short_digest, size

_IN_ENGINE = ("TIER", "MEMORY", "IN FLIGHT", "LAST USED")


class AdaptersGroup(LazyGroup):
    """`check` reads tensors, so it is imported only when asked for."""

    lazy_commands = {
        "check": Lazy(
            "loradock_server.cli.check:check",
            "Say whether an adapter can be served, without a server, and everything that is wrong with it.",
            examples=examples("""
                loradock adapters check ./my-adapter
                loradock adapters check ./my-adapter --base ./SmolLM2-135M-Instruct --max-rank 32
                loradock adapters check hf://org/my-adapter@main --json
                loradock adapters check ./my-adapter --fix ./my-adapter-fixed
            """),
        ),
        "register": Lazy(
            "loradock_server.cli.register:register",
            "Make an adapter the next version of NAME, and live.",
            examples=examples("""
                loradock adapters register support-bot ./my-adapter
                loradock adapters register support-bot ./my-adapter.tar.gz
                loradock adapters register support-bot hf://org/my-adapter@v2
                loradock adapters register support-bot https://host/my-adapter.zip --fetch-here
                loradock adapters register support-bot /srv/adapters/support-bot --on-server
                loradock adapters register support-bot ./my-adapter --no-promote
                loradock adapters register support-bot ./my-adapter --alias canary
                loradock adapters register support-bot ./my-adapter --sign ./trainer.key
                loradock adapters register support-bot ./my-adapter --url http://10.0.0.7:8000 --json
            """),
        ),
        "keygen": Lazy(
            "loradock_server.cli.signing:keygen",
            "Make a key pair for signing adapters.",
            examples=examples("""
                loradock adapters keygen ./trainer.key --name trainer
            """),
        ),
        "sign": Lazy(
            "loradock_server.cli.signing:sign",
            "Sign an adapter folder: signature.json, beside its files.",
            examples=examples("""
                loradock adapters sign ./my-adapter --key ./trainer.key
            """),
        ),
        "set": Lazy(
            "loradock_server.cli.adapter_settings:set_values",
            "Say something of an adapter: defaults and limits of its requests, its priority, description and owner.",
            examples=examples("""
                loradock adapters set support-bot temperature=0.2 top_p=0.9 max_tokens_cap=512
                loradock adapters set support-bot system_prompt=@prompt.txt stop='["END", "###"]'
                loradock adapters set support-bot priority=high pin=true max_concurrency=16
                loradock adapters set support-bot owner=platform description='Answers customers' --if-revision 12
            """),
        ),
        "unset": Lazy(
            "loradock_server.cli.adapter_settings:unset_values",
            "Take back what `set` said of an adapter.",
            examples=examples("""
                loradock adapters unset support-bot temperature stop
            """),
        ),
        "create": Lazy(
            "loradock_server.cli.create:create",
            "Take a name for an adapter before it has a version.",
            examples=examples("""
                loradock adapters create support-bot --owner me --description "answers tickets"
            """),
        ),
        "promote": Lazy(
            "loradock_server.cli.aliases:promote",
            "Let an alias point to a version, at once and entirely.",
            examples=examples("""
                loradock adapters promote support-bot 3
                loradock adapters promote support-bot 3 --alias canary
                loradock adapters promote support-bot 3 --force "fixes the outage; score to be measured"
            """),
        ),
        "evaluations": Lazy(
            "loradock_server.cli.evaluations:evaluations",
            "Show the evaluations of a version, newest first, or attach one.",
            examples=examples("""
                loradock adapters evaluations support-bot@3
                loradock adapters evaluations support-bot@3 --attach result.json
            """),
        ),
        "split": Lazy(
            "loradock_server.cli.aliases:split",
            "Divide an alias's requests between versions by weight.",
            examples=examples("""
                loradock adapters split support-bot 3=90 4=10
            """),
        ),
        "rollback": Lazy(
            "loradock_server.cli.aliases:rollback",
            "Let an alias point to where it pointed before.",
            examples=examples("""
                loradock adapters rollback support-bot
                loradock adapters rollback support-bot --alias canary
            """),
        ),
        "retire": Lazy(
            "loradock_server.cli.aliases:retire",
            "Take a version out of service, after what runs on it.",
            examples=examples("""
                loradock adapters retire support-bot@1
            """),
        ),
        "operations": Lazy(
            "loradock_server.cli.operations:operations",
            "List registrations that run, or ran, in the background.",
            examples=examples("""
                loradock adapters operations
            """),
        ),
        "operation": Lazy(
            "loradock_server.cli.operations:operation",
            "Show how far one of them is, or how it ended.",
            examples=examples("""
                loradock adapters operation op-0c6f2a91d3b84e57
                loradock adapters operation op-0c6f2a91d3b84e57 --wait
            """),
        ),
        "pull": Lazy(
            "loradock_server.cli.pull:pull",
            "Export a version into a new folder, with its manifest.",
            examples=examples("""
                loradock adapters pull support-bot ./support-bot
                loradock adapters pull support-bot@3 ./support-bot-3
                loradock adapters pull support-bot@canary ./canary --url http://10.0.0.7:8000 --json
            """),
        ),
    }


app = new_app(
    cls=AdaptersGroup,
    name="adapters",
    help="Check, sign, register, list, show, promote, pull, pin, retire and delete adapters.",
    epilog=examples("""
        loradock adapters check ./my-adapter
        loradock adapters register support-bot ./my-adapter
        loradock adapters show support-bot
    """),
)


@app.command("list", epilog=examples("loradock adapters list\nloradock adapters list --json"))
def list_adapters(url: ServerUrl = None, as_json: AsJson = False) -> None:
    """List the adapters: live version, where they are, what they take there, who uses them.

    Of several versions: the nearest tier (slot: it may run; memory; disk), bytes and requests together.
    """
    with answering(as_json) as output:
        with AdminClient(find_connection(url)) as client:
            answer = client.get_all(ADAPTERS)
        output.document(answer)
        rows = objects_in(answer, "data")
        if not rows:
            output.say("no adapters yet")
            output.hint("loradock adapters register NAME SOURCE")
            return
        columns = ("NAME", "LIVE", "VERSIONS", *_IN_ENGINE, "PINNED")
        now = time.time()
        output.say(table(columns, (_row(row, now) for row in rows)), *_memory_lines(object_in(answer, "memory")))
        output.say(*(line for row in rows for line in _pin_problem(row)))


@app.command(epilog=examples("loradock adapters show support-bot\nloradock adapters show support-bot --json"))
def show(name: AdapterName, url: ServerUrl = None, as_json: AsJson = False) -> None:
    """Show one adapter: every version, its aliases, rank and size, and where it is."""
    with answering(as_json) as output:
        with AdminClient(find_connection(url)) as client:
            answer = client.get(adapter_path(name))
        output.document(answer)
        aliases = object_in(answer, "aliases")
        facts = ("VERSION", "ALIASES", "DIGEST", "RANK", "SIZE", "TARGETS")
        columns = (*facts, *_IN_ENGINE, "STATE", "SIGNED BY", "CREATED", "BY")
        now = time.time()
        versions = (_version_row(version, aliases, now) for version in objects_in(answer, "versions"))
        about = {"name": answer.get("name"), "created": moment(answer.get("created_at"))}
        if answer.get("pinned"):
            about["pinned"] = moment(answer.get("pinned_at"))
        about |= dict(shown_settings(object_in(answer, "settings")))
        output.say(fields(about), "", table(columns, versions), *_pin_problem(answer))
        output.hint(*_next_step(answer))


def _next_step(adapter: JsonObject) -> Iterator[str]:
    """What an operator most likely wants: the newest version to be live, or a first one."""
    name, versions = cell(adapter.get("name")), objects_in(adapter, "versions")
    if not versions:
        yield f"loradock adapters register {name} SOURCE"
    elif versions[-1].get("state") == "ready" and not versions[-1].get("live"):
        yield f"loradock adapters promote {name} {cell(versions[-1].get('version'))}"


@app.command(epilog=examples("loradock adapters pin support-bot"))
def pin(name: AdapterName, url: ServerUrl = None, as_json: AsJson = False) -> None:
    """Keep an adapter's live version in memory: loaded at once and after every restart, never pushed out by others.

    When another version goes live, the pin moves with it.
    """
    with answering(as_json) as output:
        with AdminClient(find_connection(url)) as client:
            answer = client.put(f"{adapter_path(name)}/pin")
        output.document(answer)
        output.say(f"pinned {name}", *_pin_problem(answer))


@app.command(epilog=examples("loradock adapters unpin support-bot"))
def unpin(name: AdapterName, url: ServerUrl = None, as_json: AsJson = False) -> None:
    """Let an adapter leave memory again when others need the room."""
    with answering(as_json) as output:
        with AdminClient(find_connection(url)) as client:
            answer = client.delete(f"{adapter_path(name)}/pin")
        output.document(answer)
        output.say(f"unpinned {name}")


@app.command(epilog=examples("loradock adapters delete support-bot@1\nloradock adapters delete support-bot -y"))
def delete(
    name: Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="An adapter, or one version of it.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    url: ServerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Delete one version that no alias points to, or an adapter with all its versions; running requests finish first.

    It answers 404 from then on, and its version numbers are never given out again.
    """
    with answering(as_json) as output:
        target = version_path(name) if "@" in name else adapter_path(name)
        with AdminClient(find_connection(url)) as client:
            # Who was shown something deletes that, and not what somebody else made of it meanwhile.
            seen = None if yes else _confirm(name, client, output)
            answer = client.delete(target, if_match=seen)
        output.document(answer or {"name": name, "deleted": True})
        output.say(f"deleted {name}")
        output.hint("loradock gc   # frees the bytes, an hour from now")


def _confirm(name: str, client: AdminClient, output: Output) -> str:
    """Ask; returns the revision of what was shown. Raises Unreadable, Refused."""
    if output.as_json or not output.err.is_terminal:
        raise Unreadable(f"deleting {name} needs a yes and nobody can be asked here", fix="add --yes")
    adapter = client.get(adapter_path(name.partition("@")[0]))
    count = len(objects_in(adapter, "versions"))
    what = name if "@" in name else f"{name} with {count} version{'s' * (count != 1)}"
    running = adapter.get("in_flight") or 0
    used = f" ({cell(running)} requests run on it)" if running else ""
    if not typer.confirm(f"Delete {what}{used} on {client.connection.url}?", err=True):
        raise Refused(f"{name} was not deleted")
    return str(adapter.get("revision"))


def _row(adapter: JsonObject, now: float) -> tuple[object, ...]:
    pinned = ("yes", "not kept")[bool(adapter.get("pin_problem"))] if adapter.get("pinned") else None
    return (
        adapter.get("name"),
        _live(object_in(adapter, "aliases").get("live")),
        len(objects_in(adapter, "versions")),
        *_in_engine(adapter, now),
        pinned,
    )


def _version_row(version: JsonObject, aliases: JsonObject, now: float) -> tuple[object, ...]:
    number = version.get("version")
    return (
        number,
        [shown for alias, target in aliases.items() if (shown := _pointing(alias, target, number))],
        short_digest(version.get("digest")),
        version.get("rank"),
        size(version.get("size_bytes")),
        version.get("target_modules"),
        *_in_engine(version, now),
        version.get("state"),
        _signer(version),
        moment(version.get("created_at")),
        version.get("created_by"),
    )


def _pointing(alias: str, target: object, version: object) -> str | None:
    """`live`, or `canary 10` for its weight in a split, if the alias points to the version."""
    if isinstance(target, Mapping):
        weight = target.get(str(version))
        return None if weight is None else f"{alias} {weight}"
    return alias if target == version else None


def _signer(version: JsonObject) -> object:
    signature = object_in(version, "signature")
    if not signature:
        return None
    return signature.get("signer") or f"unknown key {cell(signature.get('public_key'))[:12]}…"


def _live(target: object) -> object:
    return [f"{version}={weight}" for version, weight in target.items()] if isinstance(target, Mapping) else target


def _in_engine(thing: JsonObject, now: float) -> tuple[object, ...]:
    """The cells under `_IN_ENGINE`, of an adapter or of one version."""
    used, running = thing.get("last_used"), thing.get("in_flight") or None
    return (
        thing.get("tier"),
        size(thing.get("bytes") or None),
        running,
        "now" if running else ago(used, now) if used else None,
    )


def _memory_lines(memory: JsonObject) -> Iterator[str]:
    if memory:
        yield ""
        yield (
            f"in memory: {cell(memory.get('adapters'))} of {cell(memory.get('limit_adapters'))} adapters, "
            f"{size(memory.get('bytes'))} of {size(memory.get('limit_bytes'))}"
        )


def _pin_problem(adapter: JsonObject) -> Iterator[str]:
    if adapter.get("pin_problem"):
        yield f"{printable(adapter.get('name'))} is pinned but not kept in memory: {printable(adapter['pin_problem'])}"
