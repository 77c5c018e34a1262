"""`loradock adapters evaluations`: how versions did on held-out data, shown and attached, on a running server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from loradock_adapters.evaluation import MAX_BYTES
from loradock_adapters.files import FileTooLarge, read_capped
from loradock_adapters.strict_json import parse_object
from loradock_server.cli.answers import object_in, objects_in
from loradock_server.cli.client import AdminClient, version_path
from loradock_server.cli.connection import find_connection
from loradock_server.cli.errors import JsonObject, Unreadable
from loradock_server.cli.options import AsJson, ServerUrl
from loradock_server.cli.output import answering, table
from loradock_server.cli.wording import cell, moment


def evaluations(
    adapter_id: Annotated[str, typer.Argument(metavar="NAME@VERSION", help="The version, as name@3.")],
    attach: Annotated[
        Path | None,
        typer.Option(
            "--attach",
            metavar="FILE",
            help='A JSON file with `task` and `metrics` ({"score": 0.9}), or a report of loradock evaluate.',
        ),
    ] = None,
    url: ServerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show the evaluations of a version, newest first, or attach one.

    The promotion gate (LORADOCK_PROMOTION_GATE) compares them before a version goes live. The latest of each task
    counts.
    """
    with answering(as_json) as output:
        target = f"{version_path(adapter_id)}/evaluations"
        document = None if attach is None else _read(attach)
        with AdminClient(find_connection(url)) as client:
            answer = client.get(target) if document is None else client.post(target, document)
        output.document(answer)
        if document is None:
            rows = [_row(evaluation) for evaluation in objects_in(answer, "data")]
            output.say(table(("ID", "TASK", "METRICS", "DATA", "CREATED", "BY"), rows))
        else:
            output.say(f"attached to {adapter_id}: {cell(answer.get('task'))}, {_metrics(answer)}")
            name, _, version = adapter_id.partition("@")
            output.hint(f"loradock adapters promote {name} {version}")


def _read(path: Path) -> JsonObject:
    try:
        return parse_object(read_capped(path, 2 * MAX_BYTES))
    except (OSError, FileTooLarge) as error:
        raise Unreadable(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise Unreadable(f"{path} {error}") from error


def _row(evaluation: JsonObject) -> tuple[object, ...]:
    data = evaluation.get("data_sha256")
    return (
        evaluation.get("id"),
        evaluation.get("task"),
        _metrics(evaluation),
        data[:12] if isinstance(data, str) else None,
        moment(evaluation.get("created_at")),
        evaluation.get("created_by"),
    )


def _metrics(evaluation: JsonObject) -> str:
    return " ".join(f"{cell(name)}={cell(value)}" for name, value in object_in(evaluation, "metrics").items())
