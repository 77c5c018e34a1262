"""`loradock doctor`: what is wrong in this home folder's registry and store, and putting it right. Needs no server."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from loradock_adapters.doctor import AGE_SECONDS, examine
from loradock_adapters.registry import Registry
from loradock_adapters.registry.database import Database
from loradock_server.cli.errors import Refused
from loradock_server.cli.home import read_settings
from loradock_server.cli.options import AsJson
from loradock_server.cli.output import answering, table
from loradock_server.cli.together import make_private_folder, only_server_of
from loradock_server.settings import Settings


def doctor(
    repair: Annotated[
        bool, typer.Option("--repair", help="Put right what can be; the servers of this registry must be stopped.")
    ] = False,
    older_than: Annotated[
        float,
        typer.Option("--older-than", metavar="SECONDS", min=0, help="Spare what may still be in the making."),
    ] = AGE_SECONDS,
    downgrade_to: Annotated[
        str | None,
        typer.Option(
            "--downgrade-to",
            metavar="REVISION",
            help="Instead: take the registry back to an earlier release's schema, losing what that does not know.",
        ),
    ] = None,
    home: Annotated[Path | None, typer.Option("--home", help="Folder that holds all state (LORADOCK_HOME).")] = None,
    as_json: AsJson = False,
) -> None:
    """Look for what is wrong between registry and store.

    Missing, corrupt and orphaned bytes, half uploads, registrations that did not finish, aliases that lead nowhere.
    Exit 0: nothing is wrong, or it was repaired; 1: something is.
    """
    with answering(as_json) as output:
        settings = read_settings(home=home)
        with _alone(settings) if repair or downgrade_to else contextlib.nullcontext():
            if downgrade_to:
                Database.downgrade(settings.registry, downgrade_to)
                output.document({"downgraded_to": downgrade_to})
                output.say(f"the registry has the schema {downgrade_to}; start the release that it belongs to")
                return
            registry = Registry.open(settings.registry)
            try:
                findings = examine(
                    registry, settings.open_store(), settings.home / "tmp", age_seconds=older_than, repair=repair
                )
            finally:
                registry.close()
        bad = [finding for finding in findings if not repair or finding.repair is None]
        output.document({"findings": [finding.as_dict() for finding in findings], "repaired": repair, "ok": not bad})
        if findings:
            rows = ((f.code, f.where, f.message, f.repair) for f in findings)
            output.say(table(("WHAT", "WHERE", "WHY", "REPAIRED" if repair else "REPAIR"), rows))
        if not bad:
            output.say(f"repaired {len(findings)}" if findings else "nothing is wrong")
            return
        if not repair:
            output.hint("loradock doctor --repair   # with the server stopped")
        raise typer.Exit(Refused.exit_code)


@contextlib.contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """While nobody serves from this home folder. Raises NotDone."""
    make_private_folder(settings.run_dir)
    with only_server_of(settings):
        yield
