"""`loradock adapters register`: a source becomes the next version of a name on a running server.

What lies on this machine is sent; what lies elsewhere the server fetches, or this machine, if told so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import urlencode

import typer

from loradock_adapters.digest import folder_digest
from loradock_adapters.names import LIVE
from loradock_adapters.peft_folder import SIGNATURE_FILE, list_adapter_files
from loradock_adapters.signing import SigningKey, read_key
from loradock_adapters.sources import SourceLimits
from loradock_server.cli.answers import object_in
from loradock_server.cli.client import AdminClient, adapter_path
from loradock_server.cli.connection import KEY_VARIABLE, Connection, find_connection
from loradock_server.cli.errors import JsonObject, ServerRefused, Unreadable
from loradock_server.cli.follow import followed
from loradock_server.cli.options import AdapterName, AsJson, ServerUrl
from loradock_server.cli.output import Output, answering, fields
from loradock_server.cli.sources import SOURCE_HELP, folder_of, is_archive, is_uri, transfer_bar
from loradock_server.cli.upload import AdapterFiles, open_adapter, open_archive
from loradock_server.cli.wording import cell

# From here on reading the files twice is cheaper than sending them once for nothing.
ASK_FIRST_BYTES = 8 << 20
# The server judges the size; here it only keeps a mistake from filling the disk.
_FETCH_LIMITS = SourceLimits(max_bytes=64 << 30, timeout=3600.0)


def register(
    name: AdapterName,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help=SOURCE_HELP)],
    on_server: Annotated[
        bool,
        typer.Option(
            "--on-server",
            help="SOURCE is a path on the server's machine, below one of its source_roots; nothing is uploaded.",
        ),
    ] = False,
    fetch_here: Annotated[
        bool,
        typer.Option("--fetch-here", help="Fetch a URI on this machine and upload it; the server need not reach it."),
    ] = False,
    alias: Annotated[
        str, typer.Option("--alias", metavar="ALIAS", help="The alias that is to point to it, instead of `live`.")
    ] = LIVE,
    no_promote: Annotated[
        bool, typer.Option("--no-promote", help="Let no alias point to it; clients ask for NAME@VERSION.")
    ] = False,
    sign: Annotated[
        Path | None,
        typer.Option("--sign", metavar="KEY", help="Sign the upload with this private key; the folder stays as it is."),
    ] = None,
    url: ServerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Make an adapter the next version of NAME, and live.

    A path is uploaded. A URI is fetched by the server, if its LORADOCK_SOURCE_PREFIXES open it. The same bytes
    again make no new version. Running requests finish on the version they began with, the next one gets the new
    version. What takes long goes on in the server when this command is broken off: loradock adapters operations.
    """
    with answering(as_json) as output:
        if sign is not None and (on_server or is_archive(source) or (is_uri(source) and not fetch_here)):
            raise Unreadable(
                "--sign signs the files of a folder that is uploaded, and here none is",
                fix="sign the folder where it is: loradock adapters sign PATH --key KEY",
            )
        key = None if sign is None else read_key(sign)
        target = f"{adapter_path(name)}/versions{_query(alias, no_promote)}"
        connection = find_connection(url)
        with AdminClient(connection) as client:
            if on_server or (is_uri(source) and not fetch_here):
                answer = _named(client, target, source, output)
            elif is_archive(source):
                with open_archive(Path(source)) as archive:
                    known = _known_archive(client, target, source, archive, output)
                    answer = _upload(client, target, archive, output) if known is None else known
            else:
                with folder_of(source, _FETCH_LIMITS, output) as folder:
                    answer = send_folder(client, target, folder, output, key)
        output.document(answer)
        tell(answer, connection, output)


def send_folder(
    client: AdminClient, target: str, folder: Path, output: Output, key: SigningKey | None = None
) -> JsonObject:
    """Upload an adapter's folder to `target`, the route of a name's versions; large ones only if the server lacks them.

    Returns the version as the server tells it. Raises Unreadable, ServerRefused, Unreachable.
    """
    with open_adapter(folder, key) as files:
        large = files.size_bytes >= ASK_FIRST_BYTES and SIGNATURE_FILE not in files.files
        known = _known(client, target, folder, output) if large else None
        return _upload(client, target, files, output) if known is None else known


def _query(alias: str, no_promote: bool) -> str:
    if no_promote:
        return "?promote=false"
    return "" if alias == LIVE else f"?{urlencode({'alias': alias})}"


def _named(client: AdminClient, target: str, source: str, output: Output) -> JsonObject:
    return followed(client, client.submit(target, {"source": source}), output)


def _known_archive(
    client: AdminClient, target: str, source: str, archive: AdapterFiles, output: Output
) -> JsonObject | None:
    """The same for what is in an archive, unpacked to see. Raises Unreadable for one that no server would take."""
    if archive.size_bytes < ASK_FIRST_BYTES:
        return None
    with folder_of(source, _FETCH_LIMITS, output) as folder:
        return None if (folder / SIGNATURE_FILE).exists() else _known(client, target, folder, output)


def _known(client: AdminClient, target: str, folder: Path, output: Output) -> JsonObject | None:
    """Register bytes by their digest, if the server has them already; None if they must be sent."""
    names, _ = list_adapter_files(folder)
    try:
        return _named(client, target, f"sha256:{folder_digest(folder, names)}", output)
    except ServerRefused as error:
        if error.body.get("code") == "digest_unknown":
            return None
        raise


def _upload(client: AdminClient, target: str, files: AdapterFiles, output: Output) -> JsonObject:
    with transfer_bar(output, "uploading") as progress:
        sent = 0

        def advance(count: int) -> None:
            nonlocal sent
            sent += count
            progress(sent, files.size_bytes)

        answer = client.upload(target, files.parts(advance))
    return followed(client, answer, output)


def _warnings(answer: JsonObject) -> list[object]:
    found = object_in(answer, "report").get("warnings")
    return found if isinstance(found, list) else []


def _probe(answer: JsonObject) -> dict[str, str]:
    """How the smoke probe went, if the server says so."""
    probe = object_in(answer, "probe")
    if not probe:
        return {}
    if probe.get("result") != "passed":
        return {"probe": f"not probed: {probe.get('reason')}"}
    effect = probe.get("effect")
    return {"probe": "passed" + (f", moves a logprob by {effect:.3g}" if isinstance(effect, float) else "")}


def tell(answer: JsonObject, connection: Connection, output: Output) -> None:
    """Say what was registered, and what to do with it."""
    ref = cell(answer.get("id"))
    output.say(f"registered {ref}" if answer.get("created", True) else f"unchanged: these bytes are already {ref}")
    facts = {"digest": f"sha256:{answer.get('digest')}", "aliases": answer.get("aliases")}
    output.say(fields(facts | _probe(answer) | {"server": connection.url}))
    for warning in _warnings(answer):
        output.say(f"warning: {cell(warning)}")
    key = f"$(cat {connection.key_file})" if connection.key_file else f"${KEY_VARIABLE}"
    live = LIVE in (answer.get("aliases") or ())
    model = cell(answer.get("name")) if live else ref
    promote = f"loradock adapters promote {cell(answer.get('name'))} {cell(answer.get('version'))}   # let it be live"
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello"}}]}}'
    output.hint(
        f'curl {connection.url}/v1/chat/completions -H "Authorization: Bearer {key}"'
        f" -H \"Content-Type: application/json\" -d '{body}'",
        "loradock keys create my-app   # a key for clients" if live else promote,
    )
