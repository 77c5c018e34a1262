"""`loradock adapters set` and `unset`: what an operator says of an adapter, on a running server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from loradock_adapters.adapter_settings import PIN, AdapterSettings, nearest_setting
from loradock_server.cli.answers import object_in
from loradock_server.cli.client import AdminClient, adapter_path
from loradock_server.cli.connection import find_connection
from loradock_server.cli.errors import JsonObject, Unreadable
from loradock_server.cli.options import AdapterName, AsJson, ServerUrl
from loradock_server.cli.output import Output, answering, fields
from loradock_server.cli.wording import cell, printable

_TEXTS = frozenset({"description", "owner", "system_prompt", "priority"})
_SHOWN_CHARACTERS = 200

IfRevision = Annotated[
    str | None,
    typer.Option(
        "--if-revision",
        metavar="N",
        help="Only if the adapter is still at this revision (of show --json): not to undo what somebody else did.",
    ),
]


def set_values(
    name: AdapterName,
    pairs: Annotated[
        list[str],
        typer.Argument(
            metavar="KEY=VALUE...", help="For instance temperature=0.2 stop='[\"END\"]' system_prompt=@file"
        ),
    ],
    if_revision: IfRevision = None,
    url: ServerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Say something of an adapter: defaults and limits of its requests, its priority, description and owner.

    Keys: description, owner, system_prompt, temperature, top_p, top_k, min_p, presence_penalty, frequency_penalty,
    repetition_penalty, seed, stop, max_tokens_cap, max_concurrency, requests_per_minute, tokens_per_minute,
    tokens_per_day, priority (low, normal, high), pin. A text that begins with @ is read from that file. Requests that
    come from now on are answered so.
    """
    with answering(as_json) as output:
        _change(output, name, dict(_pair(word) for word in pairs), if_revision, url)


def unset_values(
    name: AdapterName,
    keys: Annotated[list[str], typer.Argument(metavar="KEY...", help="What to say nothing of any more.")],
    if_revision: IfRevision = None,
    url: ServerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Take back what `set` said of an adapter."""
    with answering(as_json) as output:
        _change(output, name, {_known(key): None for key in keys}, if_revision, url)


def shown_settings(settings: JsonObject) -> Iterator[tuple[str, str]]:
    """Names and values for people, in one order; long texts are cut."""
    for name in AdapterSettings.model_fields:
        if name in settings:
            text = printable(settings[name] if isinstance(settings[name], str) else json.dumps(settings[name]))
            yield name, text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"


def _change(output: Output, name: str, patch: dict[str, Any], if_revision: str | None, url: str | None) -> None:
    with AdminClient(find_connection(url)) as client:
        answer = client.patch(adapter_path(name), patch, if_match=if_revision)
    output.document(answer)
    output.say(f"changed {cell(answer.get('name'))}")
    said = dict(shown_settings(object_in(answer, "settings")))
    output.say(fields({**said, **({PIN: "true"} if answer.get("pinned") else {})}))
    output.hint(f"loradock adapters show {cell(answer.get('name'))}")


def _pair(word: str) -> tuple[str, Any]:
    name, equals, text = word.partition("=")
    if not equals:
        raise Unreadable(f"{word[:80]!r} is no KEY=VALUE", fix="write it as temperature=0.2")
    name = _known(name)
    if text.startswith("@") and name in _TEXTS:
        return name, _read(Path(text[1:]))
    if name in _TEXTS:
        return name, text
    try:
        return name, json.loads(text)
    except (ValueError, RecursionError):
        # Anything else the server refuses, with what would be right.
        return name, [text] if name == "stop" else text


def _known(name: str) -> str:
    if name not in AdapterSettings.model_fields and name != PIN:
        raise Unreadable(f"{name[:80]!r} is no setting of an adapter", fix=nearest_setting(name))
    return name


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Unreadable(f"{path} cannot be read as text: {error}") from error
