"""`loradock backup` and `loradock restore`: registry and artifacts of this home folder into one folder, and back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from sqlalchemy import make_url

from loradock_adapters import backup as backups
from loradock_adapters.backup import Backup, Progress
from loradock_adapters.doctor import examine
from loradock_adapters.registry import Registry
from loradock_server.cli.errors import Refused, Unreadable
from loradock_server.cli.home import read_settings
from loradock_server.cli.options import AsJson
from loradock_server.cli.output import Output, answering, fields
from loradock_server.cli.together import make_private_folder, only_server_of
from loradock_server.cli.wording import size
from loradock_server.settings import Settings

Home = Annotated[Path | None, typer.Option("--home", help="Folder that holds all state (LORADOCK_HOME).")]


def backup(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder; private, key hashes and audit are in it.")],
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Copy registry and artifacts into a new folder, while the server runs.

    One snapshot of an SQLite registry, then the bytes that it refers to, each compared with its digest. The base model
    is not in it. Exit 1 if the bytes of some version were missing or corrupt: the rest is in OUT, and it says which.
    """
    with answering(as_json) as output:
        settings = read_settings(home=home)
        file = _registry_file(settings)
        if not file.exists():
            raise Unreadable(f"there is no registry at {file}", fix="name the home folder with --home")
        registry = Registry.open(settings.registry)
        try:
            with _progress(output, "backing up") as progress:
                done = backups.back_up(registry, settings.open_store(), out, progress)
        finally:
            registry.close()
        output.document({**asdict(done), "path": str(out)})
        _tell(output, f"backed up into {out}", done)
        if done.lost:
            output.say(f"without the bytes of {', '.join(done.lost)}, which the store does not have unharmed")
            output.hint("loradock doctor")
            raise typer.Exit(Refused.exit_code)
        output.hint(f"loradock restore {out} --home OTHER")


def restore(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A folder that `loradock backup` made.")],
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Bring a backup into a home folder without a registry, and let the doctor look at it.

    Every byte is compared with its digest; the registry comes last, so a restore that was stopped may be begun again.
    Where LORADOCK_ARTIFACTS names a bucket, the bytes go there.
    """
    with answering(as_json) as output:
        settings = read_settings(home=home)
        file = _registry_file(settings)
        make_private_folder(settings.run_dir)
        with only_server_of(settings):
            store = settings.open_store()
            with _progress(output, "restoring") as progress:
                done = backups.restore(source, store, file, progress)
            registry = Registry.open(settings.registry)
            try:
                findings = examine(registry, store, settings.home / "tmp")
            finally:
                registry.close()
        output.document({**asdict(done), "path": str(settings.home), "findings": [f.as_dict() for f in findings]})
        _tell(output, f"restored into {settings.home}", done)
        if findings:
            output.say(f"the doctor finds {len(findings)} things in it")
            output.hint("loradock doctor")
            raise typer.Exit(Refused.exit_code)
        output.hint("loradock serve")


def _registry_file(settings: Settings) -> Path:
    url = make_url(settings.registry)
    if url.get_backend_name() != "sqlite" or not url.database:
        raise Unreadable(
            "the registry is on PostgreSQL, which has its own tools: pg_dump, then a copy of the artifacts",
            fix="docs/storage.md says in which order, and why",
        )
    return Path(url.database).absolute()


def _tell(output: Output, what: str, done: Backup) -> None:
    output.say(what)
    counts = {"adapters": done.adapters, "versions": done.versions, "blobs": done.blobs}
    output.say(fields({**counts, "size": size(done.size_bytes), "taken": done.created_at}))


@contextlib.contextmanager
def _progress(output: Output, what: str) -> Iterator[Progress]:
    with output.progress(TextColumn(what), BarColumn(), MofNCompleteColumn()) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
