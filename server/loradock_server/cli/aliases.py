"""`loradock adapters promote, split, rollback, retire`: which version of a name answers, on a running server."""

from __future__ import annotations

from typing import Annotated

import typer

from loradock_server.cli.answers import object_in
from loradock_server.cli.client import AdminClient, alias_path, version_path
from loradock_server.cli.connection import find_connection
from loradock_server.cli.errors import JsonObject, Unreadable
from loradock_server.cli.options import AdapterName, AsJson, ServerUrl
from loradock_server.cli.output import Output, answering
from loradock_server.cli.wording import cell

AliasName = Annotated[str, typer.Option("--alias", metavar="ALIAS", help="The alias; `live` is what the name means.")]
Force = Annotated[
    str | None,
    typer.Option("--force", metavar="REASON", help="Past the promotion gate; the reason goes into the audit."),
]
IfRevision = Annotated[
    str | None,
    typer.Option(
        "--if-revision",
        metavar="N",
        help="Only if the alias is still at this revision (of --json), so as not to undo what somebody else did.",
    ),
]


def promote(
    name: AdapterName,
    version: Annotated[int, typer.Argument(metavar="VERSION", min=1, help="The version's number.")],
    alias: AliasName = "live",
    force: Force = None,
    if_revision: IfRevision = None,
    url: ServerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Let an alias point to a version, at once and entirely.

    Running requests finish on the version they began with. `rollback` undoes it. Where the server has a promotion gate,
    the version's evaluations must be good enough to go live.
    """
    with answering(as_json) as output:
        _set(output, name, alias, {"version": version}, force, if_revision, url)


def split(
    name: AdapterName,
    weights: Annotated[
        list[str], typer.Argument(metavar="VERSION=WEIGHT...", help="Versions and their shares: 3=90 4=10")
    ],
    alias: AliasName = "live",
    force: Force = None,
    if_revision: IfRevision = None,
    url: ServerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Divide an alias's requests between versions by weight.

    Who sends OpenAI's `user` field stays on one version, and so does an API key whose requests carry none. When weights
    change, only as many move as must.
    """
    with answering(as_json) as output:
        _set(output, name, alias, {"split": _weights(weights)}, force, if_revision, url)


def rollback(
    name: AdapterName,
    alias: AliasName = "live",
    if_revision: IfRevision = None,
    url: ServerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Let an alias point to where it pointed before.

    Done again, it leads one step further back.
    """
    with answering(as_json) as output:
        target = f"{alias_path(name, alias)}/rollback"
        with AdminClient(find_connection(url)) as client:
            answer = client.post(target, if_match=if_revision)
        _tell(output, answer)


def retire(
    adapter_id: Annotated[str, typer.Argument(metavar="NAME@VERSION", help="The version, as name@3.")],
    url: ServerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Take a version out of service, after what runs on it.

    Who asks for it from now on is told that it is retired. No alias may point to it.
    """
    with answering(as_json) as output:
        target = f"{version_path(adapter_id)}/retire"
        with AdminClient(find_connection(url)) as client:
            answer = client.post(target)
        output.document(answer)
        rest = "" if answer.get("unloaded", True) else "; requests that still run on it finish first"
        output.say(f"retired {cell(answer.get('id'))}{rest}")
        output.hint(f"loradock adapters delete {cell(answer.get('id'))}")


def _set(
    output: Output,
    name: str,
    alias: str,
    target: JsonObject,
    force: str | None,
    if_revision: str | None,
    url: str | None,
) -> None:
    path = alias_path(name, alias)
    with AdminClient(find_connection(url)) as client:
        answer = client.put(path, {**target, **({"force": force} if force else {})}, if_match=if_revision)
    _tell(output, answer)


def _tell(output: Output, answer: JsonObject) -> None:
    output.document(answer)
    name, alias = cell(answer.get("name")), cell(answer.get("alias"))
    shares = object_in(answer, "split")
    where = " ".join(f"{version}={weight}" for version, weight in shares.items()) or cell(answer.get("version"))
    output.say(f"{name}@{alias} points to {where}")
    of_alias = "" if alias == "live" else f" --alias {alias}"
    steps = [f"loradock adapters promote {name} {max(shares, key=int)}{of_alias}"] if shares else []
    steps += [f"loradock adapters rollback {name}{of_alias}"] if answer.get("previous") is not None else []
    output.hint(*steps)


def _weights(words: list[str]) -> dict[str, int]:
    weights: dict[str, int] = {}
    for word in words:
        version, _, weight = word.partition("=")
        if not (version.isdecimal() and weight.isdecimal()) or version in weights:
            raise Unreadable(f"{word[:80]!r} is no share of a version", fix="write it as 3=90 4=10, each version once")
        weights[version] = int(weight)
    return weights
