"""Following an operation on a server to its end, with a bar. Knows no flag and nothing of what the operation does."""

from __future__ import annotations

import time

from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

from loradock_server.cli.answers import object_in
from loradock_server.cli.client import AdminClient, operation_path
from loradock_server.cli.errors import JsonObject, ServerRefused, Unreachable
from loradock_server.cli.output import Output
from loradock_server.cli.wording import cell, size

POLL_SECONDS = 0.5
_BYTES = frozenset({"fetching", "checking", "storing"})


def followed(client: AdminClient, answer: JsonObject, output: Output) -> JsonObject:
    """What an answer comes to: if it is an operation, its result once it is over, else the answer itself.

    Raises ServerRefused for one that failed, and Unreachable when the server is gone.
    """
    if answer.get("object") != "operation":
        return answer
    id = cell(answer.get("id"))
    try:
        answer = _over(client, answer, output)
    except KeyboardInterrupt:
        output.step(f"it goes on without you: loradock adapters operation {id}")
        raise
    except Unreachable as error:
        raise Unreachable(error.message, fix=f"it may go on: loradock adapters operation {id}") from error
    if answer.get("state") == "succeeded":
        return object_in(answer, "result")
    status = answer.get("status")
    raise ServerRefused(status if isinstance(status, int) else 500, object_in(answer, "error"))


def amount(operation: JsonObject) -> str:
    """How much of its stage is done: `1.2 MB of 8.0 MB`, where the stage counts bytes."""
    if operation.get("stage") not in _BYTES or not (operation.get("done") or operation.get("total")):
        return ""
    total = operation.get("total")
    return size(operation.get("done")) + (f" of {size(total)}" if total else "")


def _over(client: AdminClient, operation: JsonObject, output: Output) -> JsonObject:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[amount]}"),
        TimeElapsedColumn(),
    )
    path = operation_path(str(operation.get("id")))
    with output.progress(*columns) as bar:
        task = bar.add_task("waiting", total=None, amount="")
        while operation.get("state") == "running":
            time.sleep(POLL_SECONDS)
            operation = client.get(path)
            bar.update(
                task,
                description=cell(operation.get("stage")),
                completed=_number(operation.get("done")) or 0,
                total=_number(operation.get("total")),
                amount=amount(operation),
            )
    return operation


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int) else None
