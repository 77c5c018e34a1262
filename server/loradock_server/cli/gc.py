"""`loradock gc`: remove bytes that no version refers to from a running server's store."""

from __future__ import annotations

from typing import Annotated

import typer

from loradock_adapters.garbage import GRACE_SECONDS
from loradock_server.cli.answers import objects_in
from loradock_server.cli.client import UPLOAD_TIMEOUT, AdminClient
from loradock_server.cli.connection import find_connection
from loradock_server.cli.options import AsJson, ServerUrl
from loradock_server.cli.output import answering, table
from loradock_server.cli.wording import size


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    grace: Annotated[
        float,
        typer.Option("--grace", metavar="SECONDS", min=0, help="Spare what was deleted or uploaded so lately."),
    ] = GRACE_SECONDS,
    url: ServerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Remove bytes that no version refers to and no engine holds.

    Those of deleted versions, after a grace, and what a crash left behind.
    """
    with answering(as_json) as output:
        with AdminClient(find_connection(url)) as client:
            order = {"dry_run": dry_run, "grace_seconds": grace}
            answer = client.post("/admin/gc", order, timeout=UPLOAD_TIMEOUT)
        output.document(answer)
        blobs = objects_in(answer, "blobs")
        if blobs:
            output.say(
                table(("DIGEST", "SIZE"), ((blob.get("digest"), size(blob.get("size_bytes"))) for blob in blobs))
            )
        output.say(f"{'would remove' if dry_run else 'removed'} {len(blobs)} blobs, {size(answer.get('bytes'))}")
        if blobs and dry_run:
            output.hint("loradock gc")
