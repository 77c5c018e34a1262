"""One run of `loradock evaluate`: the server found, the journal opened, the reports written, the result attached."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from loradock_server.cli.client import AdminClient, version_path
from loradock_server.cli.connection import Connection
from loradock_server.cli.errors import CommandError, NotDone
from loradock_server.cli.home import read_settings
from loradock_server.cli.output import Output

if TYPE_CHECKING:
    from loradock_adapters.evaluating.command import Command
    from loradock_adapters.evaluating.outcome import Outcome
    from loradock_adapters.evaluating.run import Plan


@dataclass(frozen=True, slots=True)
class Run:
    """Whom to ask and where to keep it. `judge`: its address, model and key."""

    connection: Connection
    adapter: str
    attach: bool
    out: Path | None
    fresh: bool
    concurrency: int
    command: Command | None
    judge: tuple[str, str, str | None] | None

    async def make(self, plan: Plan, output: Output) -> tuple[Outcome, Path]:
        from loradock_adapters.evaluating.asking import Asker, find
        from loradock_adapters.evaluating.endpoint import Endpoint
        from loradock_adapters.evaluating.journal import Journal
        from loradock_adapters.evaluating.judge import Judge
        from loradock_adapters.evaluating.run import Helpers
        from loradock_adapters.evaluating.run import evaluate as evaluate_all
        from loradock_adapters.evaluating.writing import write

        async with AsyncExitStack() as stack:
            endpoint = Endpoint(self.connection.url, self.connection.key, concurrency=self.concurrency)
            model = await find(await stack.enter_async_context(endpoint), self.adapter)
            if self.attach:
                await asyncio.to_thread(_require_admin, self.connection, model.id)
            folder = self.out or read_settings().home / "evaluated" / model.id
            journal = stack.enter_context(Journal(folder / "answers.jsonl", fresh=self.fresh))
            if len(journal):
                output.step(f"going on with {len(journal)} answers of {folder}; --fresh asks anew")
            judge = None
            if self.judge is not None:
                address, name, key = self.judge
                other = Endpoint(address, key, concurrency=self.concurrency)
                judge = Judge(await stack.enter_async_context(other), name, journal, plan.seed)
            with output.progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
            ) as bar:
                outcome = await evaluate_all(
                    plan, model, Asker(endpoint, journal), Bar(bar, output), Helpers(self.command, judge)
                )
            write(outcome, folder)
        return outcome, folder


class Bar:
    """The progress of an evaluation, one bar for each of its parts."""

    def __init__(self, bar: Progress, output: Output) -> None:
        self._bar = bar
        self._output = output
        self._task: TaskID | None = None

    def say(self, what: str) -> None:
        self._output.step(what)

    def begin(self, what: str, total: int) -> None:
        self._task = self._bar.add_task(what, total=total)

    def advance(self) -> None:
        if self._task is not None:
            self._bar.advance(self._task)


def _require_admin(connection: Connection, version: str) -> None:
    """Found out before anything is asked, not after everything was."""
    try:
        with AdminClient(connection) as client:
            client.get(f"{version_path(version)}/evaluations?limit=1")
    except CommandError as error:
        raise NotDone(
            f"the result could not be attached to {version}: {error.message}",
            fix=f"{error.fix or 'use a key with the admin scope'}; or say --no-attach",
        ) from error


def attach(outcome: Outcome, connection: Connection, folder: Path) -> None:
    """Raises NotDone, saying how to do it later."""
    from loradock_adapters.evaluating.report import summary

    try:
        with AdminClient(connection) as client:
            client.post(f"{version_path(outcome.adapter.id)}/evaluations", summary(outcome))
    except CommandError as error:
        version, document = outcome.adapter.id, folder / "evaluation.json"
        raise NotDone(
            f"the verdict is {outcome.verdict.line!r}, but it was not attached to {version}: {error.message}",
            fix=f"loradock adapters evaluations {version} --attach {document}, or say --no-attach",
        ) from error
