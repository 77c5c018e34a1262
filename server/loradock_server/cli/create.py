"""`loradock adapters create`: take a name on a running server before there is a version."""

from __future__ import annotations

from typing import Annotated

import typer

from loradock_server.cli.adapter_settings import shown_settings
from loradock_server.cli.answers import object_in
from loradock_server.cli.client import ADAPTERS, AdminClient, adapter_path
from loradock_server.cli.connection import find_connection
from loradock_server.cli.options import AdapterName, AsJson, ServerUrl
from loradock_server.cli.output import answering, fields


def create(
    name: AdapterName,
    description: Annotated[str | None, typer.Option("--description", metavar="TEXT", help="What it is for.")] = None,
    owner: Annotated[str | None, typer.Option("--owner", metavar="WHO", help="Who answers for it.")] = None,
    url: ServerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Take a name for an adapter before it has a version.

    It answers 404 until a version is registered. Registering needs no `create`: it takes a new name by itself.
    """
    with answering(as_json) as output:
        adapter_path(name)  # which refuses what is no name
        said = {"description": description, "owner": owner}
        body = {"name": name, **{key: value for key, value in said.items() if value is not None}}
        with AdminClient(find_connection(url)) as client:
            answer = client.post(ADAPTERS, body)
        output.document(answer)
        output.say(f"created {name}", fields(dict(shown_settings(object_in(answer, "settings")))))
        output.hint(f"loradock adapters register {name} PATH")
