"""`loradock adapters register`: a PEFT folder becomes the next version of a name on a running server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import urlencode

import typer
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from loradock_adapters.names import LIVE
from loradock_adapters.signing import SigningKey, read_key
from loradock_server.cli.answers import object_in
from loradock_server.cli.client import UPLOAD_TIMEOUT, AdminClient, adapter_path
from loradock_server.cli.connection import KEY_VARIABLE, Connection, find_connection
from loradock_server.cli.errors import JsonObject, Unreadable
from loradock_server.cli.options import AdapterName, AsJson, ServerUrl
from loradock_server.cli.output import Output, answering, fields
from loradock_server.cli.upload import open_adapter
from loradock_server.cli.wording import cell


def register(
    name: AdapterName,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Folder that PEFT's save_pretrained wrote.")],
    on_server: Annotated[
        bool,
        typer.Option(
            "--on-server",
            help="PATH is on the server's machine, below one of its source_roots; nothing is uploaded.",
        ),
    ] = False,
    alias: Annotated[
        str, typer.Option("--alias", metavar="ALIAS", help="The alias that is to point to it, instead of `live`.")
    ] = LIVE,
    no_promote: Annotated[
        bool, typer.Option("--no-promote", help="Let no alias point to it; clients ask for NAME@VERSION.")
    ] = False,
    sign: Annotated[
        Path | None,
        typer.Option("--sign", metavar="KEY", help="Sign what is uploaded with this private key; PATH stays as it is."),
    ] = None,
    url: ServerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Upload an adapter as the next version of NAME and make it live.

    The same bytes again make no new version. Running requests finish on the version they began with, the next
    one gets the new version.
    """
    with answering(as_json) as output:
        if sign is not None and on_server:
            raise Unreadable(
                "--sign signs what is uploaded, and with --on-server nothing is",
                fix="sign it there: loradock adapters sign PATH --key KEY",
            )
        key = None if sign is None else read_key(sign)
        target = f"{adapter_path(name)}/versions{_query(alias, no_promote)}"
        connection = find_connection(url)
        with AdminClient(connection) as client:
            if on_server:
                answer = client.post(target, {"source": str(path)}, timeout=UPLOAD_TIMEOUT)
            else:
                answer = _upload(client, target, path, key, output)
        output.document(answer)
        _tell(answer, connection, output)


def _query(alias: str, no_promote: bool) -> str:
    if no_promote:
        return "?promote=false"
    return "" if alias == LIVE else f"?{urlencode({'alias': alias})}"


def _upload(client: AdminClient, target: str, folder: Path, key: SigningKey | None, output: Output) -> JsonObject:
    columns = (
        TextColumn("uploading"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with open_adapter(folder, key) as adapter, output.progress(*columns) as bar:
        task = bar.add_task("upload", total=adapter.size_bytes)
        return client.upload(target, adapter.parts(lambda count: bar.advance(task, count)))


def _warnings(answer: JsonObject) -> list[object]:
    found = object_in(answer, "report").get("warnings")
    return found if isinstance(found, list) else []


def _tell(answer: JsonObject, connection: Connection, output: Output) -> None:
    ref = cell(answer.get("id"))
    output.say(f"registered {ref}" if answer.get("created", True) else f"unchanged: these bytes are already {ref}")
    facts = {"digest": f"sha256:{answer.get('digest')}", "aliases": answer.get("aliases")}
    output.say(fields(facts | {"server": connection.url}))
    for warning in _warnings(answer):
        output.say(f"warning: {cell(warning)}")
    key = f"$(cat {connection.key_file})" if connection.key_file else f"${KEY_VARIABLE}"
    model = cell(answer.get("name")) if LIVE in (answer.get("aliases") or ()) else ref
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello"}}]}}'
    output.hint(
        f'curl {connection.url}/v1/chat/completions -H "Authorization: Bearer {key}"'
        f" -H \"Content-Type: application/json\" -d '{body}'",
        "loradock keys create my-app   # a key for clients",
    )
