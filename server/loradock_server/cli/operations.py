"""`loradock adapters operations, operation`: how far long registrations on a running server are, and how they ended."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlencode

import typer

from loradock_server.cli.answers import object_in, objects_in
from loradock_server.cli.client import OPERATIONS, AdminClient, operation_path
from loradock_server.cli.connection import find_connection
from loradock_server.cli.errors import JsonObject
from loradock_server.cli.follow import amount, followed
from loradock_server.cli.options import AsJson, ServerUrl
from loradock_server.cli.output import answering, fault_table, fields, table
from loradock_server.cli.wording import cell, moment


def operations(
    limit: Annotated[int, typer.Option("--limit", min=1, max=999, help="How many operations.")] = 20,
    after: Annotated[str | None, typer.Option("--after", metavar="ID", help="Only older ones than this.")] = None,
    url: ServerUrl = None,
    as_json: AsJson = False,
) -> None:
    """List registrations that run, or ran, in the background.

    Newest first, whichever gateway runs them; those that are over are kept for a week.
    """
    with answering(as_json) as output:
        asked = {"limit": limit, "after": after}
        query = urlencode({name: value for name, value in asked.items() if value is not None})
        with AdminClient(find_connection(url)) as client:
            answer = client.get(f"{OPERATIONS}?{query}")
        output.document(answer)
        rows = objects_in(answer, "data")
        if not rows:
            output.say("no operations")
            return
        columns = ("ID", "ADAPTER", "STATE", "STAGE", "DONE", "CAME TO", "STARTED", "BY")
        output.say(table(columns, map(_row, rows)))
        if answer.get("has_more"):
            output.hint(f"loradock adapters operations --limit {limit} --after {cell(answer.get('last_id'))}")
        elif running := next((row for row in rows if row.get("state") == "running"), None):
            output.hint(f"loradock adapters operation {cell(running.get('id'))} --wait")


def operation(
    id: Annotated[str, typer.Argument(metavar="ID", help="The operation's id, as op-1234.")],
    wait: Annotated[
        bool, typer.Option("--wait", help="Until it is over; a failed one is this command's failure then.")
    ] = False,
    url: ServerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show how far one of them is, or how it ended.

    A registration that failed is shown with every fault.
    """
    with answering(as_json) as output:
        path = operation_path(id)
        with AdminClient(find_connection(url)) as client:
            answer = client.get(path)
            if wait:
                followed(client, answer, output)
                answer = client.get(path)
        output.document(answer)
        error, result = object_in(answer, "error"), object_in(answer, "result")
        facts = {name: answer.get(name) for name in ("id", "adapter", "state", "stage")}
        facts |= {"done": amount(answer), "started": moment(answer.get("created_at")), "by": answer.get("created_by")}
        if answer.get("finished_at"):
            facts["finished"] = moment(answer.get("finished_at"))
        if result:
            facts["registered"] = result.get("id")
        if error:
            # The faults below say better what the message repeats line by line.
            facts["error"] = str(error.get("message")).partition("\n")[0]
        output.say(fields(facts))
        if faults := objects_in(error, "faults"):
            output.say(fault_table(faults, spaced=output.words.is_terminal))
        if answer.get("state") == "running":
            output.hint(f"loradock adapters operation {cell(answer.get('id'))} --wait")
        elif result:
            output.hint(f"loradock adapters show {cell(answer.get('adapter'))}")


def _row(row: JsonObject) -> tuple[object, ...]:
    came_to = object_in(row, "result").get("id") or object_in(row, "error").get("code")
    return (
        row.get("id"),
        row.get("adapter"),
        row.get("state"),
        row.get("stage"),
        amount(row),
        came_to,
        moment(row.get("created_at")),
        row.get("created_by"),
    )
