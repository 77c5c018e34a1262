"""`loradock train --register`: the server is asked before the hours of training, and given the adapter after them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from loradock_adapters.base_model import BaseModel
from loradock_server.cli.answers import objects_in
from loradock_server.cli.client import ADAPTERS, AdminClient, adapter_path
from loradock_server.cli.connection import Connection, find_connection
from loradock_server.cli.errors import CommandError, JsonObject, Refused, ServerRefused
from loradock_server.cli.output import Output
from loradock_server.cli.register import send_folder, tell

_NO_RIGHT = frozenset({401, 403})


@dataclass(frozen=True, slots=True)
class Registering:
    """A server that was asked, and the name that the adapter gets there."""

    name: str
    connection: Connection

    @classmethod
    def checked(cls, name: str, url: str | None, base: BaseModel, output: Output) -> Self:
        """Raises CommandError: no server, no admin key, no name, or another base model than the one trained on."""
        adapter_path(name)
        connection = find_connection(url)
        with AdminClient(connection) as client:
            client.get(f"{ADAPTERS}?limit=1")
            served = _served_digest(client)
        if served is None:
            output.step("this key may not see the server's base model; whether it is this one shows when registering")
        elif served != base.digest:
            raise Refused(
                f"the server at {connection.url} has another base model (digest {served[:12]}…) than {base.name} "
                f"({base.digest[:12]}…): it would refuse the adapter",
                fix="name the served model's folder with --base, or another server with --url",
            )
        return cls(name, connection)

    def send(self, folder: Path, output: Output) -> JsonObject:
        """Make the folder the next version. Raises CommandError that says where the adapter lies."""
        try:
            with AdminClient(self.connection) as client:
                return send_folder(client, f"{adapter_path(self.name)}/versions", folder, output)
        except CommandError as error:
            error.fix = f"the adapter is safe in {folder}; loradock adapters register {self.name} {folder}"
            raise

    def tell(self, answer: JsonObject, output: Output) -> None:
        """What was registered, for people."""
        tell(answer, self.connection, output)


def _served_digest(client: AdminClient) -> str | None:
    """Of the server's base model; None where the key may not ask, or the server is too old to say."""
    try:
        models = objects_in(client.get("/v1/models"), "data")
    except ServerRefused as error:
        if error.status in _NO_RIGHT:
            return None
        raise
    found = next((model.get("digest") for model in models if model.get("parent") is None), None)
    return found if isinstance(found, str) else None
