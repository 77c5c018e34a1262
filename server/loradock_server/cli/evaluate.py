"""`loradock evaluate`: is an adapter better than its base, prompted or not? What that means, the adapters side knows.

Exit codes: 0 promote, 1 don't, 2 no verdict was reached, 3 not enough data, 130 interrupted.
"""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from loradock_adapters.errors import LoraDockError
from loradock_adapters.evaluating.errors import EvaluatingError
from loradock_adapters.files import FileTooLarge, read_capped
from loradock_adapters.strict_json import parse_object
from loradock_adapters.training.data import DataFile, read_examples
from loradock_adapters.training.formats import Example
from loradock_server.cli.client import AdminClient, version_path
from loradock_server.cli.connection import Connection, find_connection
from loradock_server.cli.errors import CommandError, NotDone, Unreadable
from loradock_server.cli.home import read_settings
from loradock_server.cli.options import AsJson, ServerUrl
from loradock_server.cli.output import Output, answering
from loradock_server.cli.verdicts import say

if TYPE_CHECKING:
    from loradock_adapters.evaluating.command import Command
    from loradock_adapters.evaluating.outcome import Outcome
    from loradock_adapters.evaluating.run import Plan

EXIT_CODES = {"promote": 0, "dont": 1, "not_enough_data": 3}
INTERRUPTED = 130
_LONGEST_PATH = 1024
_MAX_PROMPT_BYTES = 1 << 20
_SHOTS = 4
_DATA = "Data and contenders"
_MEASURES = "Metrics"
_RULES = "Verdict"
_JUDGE = "Judge"


def evaluate(
    adapter: Annotated[
        str, typer.Argument(metavar="ADAPTER", help="A registered name (its live version), name@3 or name@alias.")
    ],
    data: Annotated[
        Path,
        typer.Option("--data", metavar="FILE", help="Held-out examples, JSON lines.", rich_help_panel=_DATA),
    ],
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt",
            metavar="FILE|TEXT",
            help="The system prompt with which the base competes. Write it as if there were no adapter.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    train: Annotated[
        Path | None,
        typer.Option("--train", metavar="FILE", help="Training examples to show to the base.", rich_help_panel=_DATA),
    ] = None,
    shots: Annotated[
        int | None,
        typer.Option("--shots", min=0, help=f"How many of them. Default: {_SHOTS}.", rich_help_panel=_DATA),
    ] = None,
    no_prompted: Annotated[
        bool,
        typer.Option("--no-prompted", help="Do not ask whether a prompt would do as well.", rich_help_panel=_DATA),
    ] = False,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Only the first so many examples.", rich_help_panel=_DATA)
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-tokens",
            min=1,
            help="Longest answer. Default: half as long again as the longest wanted one.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of examples, decoding and intervals.")] = 1,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            metavar="NAME",
            help="exact, json_equal, field_f1, json_valid, json_schema, accuracy, regex, rouge_l, pass@1, judge, loss. "
            "May be repeated; the first one decides. Default: by the wanted answers.",
            rich_help_panel=_MEASURES,
        ),
    ] = None,
    schema: Annotated[
        Path | None,
        typer.Option("--schema", metavar="FILE", help="json_schema: the schema.", rich_help_panel=_MEASURES),
    ] = None,
    regex: Annotated[
        str | None,
        typer.Option(
            "--regex", metavar="PATTERN", help="regex: what a right answer contains.", rich_help_panel=_MEASURES
        ),
    ] = None,
    command: Annotated[
        str | None,
        typer.Option(
            "--command",
            metavar="COMMAND",
            help="pass@1: exit code 0 takes the answer, which comes on stdin; "
            "or {answer}, {wanted}, {question} are files.",
            rich_help_panel=_MEASURES,
        ),
    ] = None,
    command_timeout: Annotated[
        float,
        typer.Option("--command-timeout", min=0.1, metavar="SECONDS", help="Of one answer.", rich_help_panel=_MEASURES),
    ] = 10.0,
    no_loss: Annotated[
        bool, typer.Option("--no-loss", help="Do not measure the loss.", rich_help_panel=_MEASURES)
    ] = False,
    no_general: Annotated[
        bool,
        typer.Option("--no-general", help="Do not ask general questions.", rich_help_panel=_MEASURES),
    ] = False,
    price_in: Annotated[
        float | None,
        typer.Option("--price-in", min=0, help="Of a million tokens of prompts.", rich_help_panel=_MEASURES),
    ] = None,
    price_out: Annotated[
        float | None,
        typer.Option("--price-out", min=0, help="Of a million tokens of answers.", rich_help_panel=_MEASURES),
    ] = None,
    judge_url: Annotated[
        str | None,
        typer.Option(
            "--judge-url", metavar="URL", help="An OpenAI endpoint that compares answers.", rich_help_panel=_JUDGE
        ),
    ] = None,
    judge_model: Annotated[
        str | None, typer.Option("--judge-model", metavar="NAME", help="Its model.", rich_help_panel=_JUDGE)
    ] = None,
    judge_key: Annotated[
        str | None,
        typer.Option(
            "--judge-key",
            envvar="LORADOCK_JUDGE_KEY",
            show_envvar=True,
            metavar="KEY",
            help="Its key; better in the environment, where others do not see it.",
            rich_help_panel=_JUDGE,
        ),
    ] = None,
    min_examples: Annotated[
        int, typer.Option("--min-examples", min=2, help="Below that: not enough data.", rich_help_panel=_RULES)
    ] = 30,
    worth: Annotated[
        float,
        typer.Option(
            "--worth",
            min=0,
            help="The smallest gain that is worth an adapter; less is as good as nothing.",
            rich_help_panel=_RULES,
        ),
    ] = 0.05,
    max_forgetting: Annotated[
        float | None,
        typer.Option(
            "--max-forgetting",
            min=0,
            max=1,
            help="The largest loss of right answers to general questions, 0 … 1. Default: any.",
            rich_help_panel=_RULES,
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option("--task", metavar="NAME", help="The evaluation's name. Default: the adapter's."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Answers, report.json and report.html. Default: evaluated/NAME@VERSION in the home folder.",
        ),
    ] = None,
    fresh: Annotated[
        bool,
        typer.Option("--fresh/--resume", help="Ask everything anew, or use the answers that are in --out."),
    ] = False,
    concurrency: Annotated[int, typer.Option("--concurrency", min=1, max=256, help="Requests at a time.")] = 8,
    no_attach: Annotated[bool, typer.Option("--no-attach", help="Do not attach the result to the version.")] = False,
    url: ServerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Compare an adapter with its base, and with its base under a good prompt, on held-out examples.

    The answer to "train or prompt?": promote, don't, or not enough data. Exit code 0: promote. 1: don't. 2: no verdict
    was reached. 3: not enough data.
    """
    with answering(as_json) as output:
        try:
            from loradock_adapters.evaluating.metrics import Means
            from loradock_adapters.evaluating.report import summary
            from loradock_adapters.evaluating.run import Plan
            from loradock_adapters.evaluating.verdict import Rules

            held_out = _held_out(data, limit)
            plan = Plan(
                task=task or adapter.partition("@")[0],
                data=held_out,
                prompted=None if no_prompted else _prompted(held_out, prompt, train, shots, seed),
                metrics=tuple(metric or ()),
                means=Means(_schema(schema), regex, command is not None, judge_url is not None, not no_loss),
                max_tokens=max_tokens,
                seed=seed,
                general=not no_general,
                rules=Rules(min_examples, worth, max_forgetting),
                prices=_prices(price_in, price_out),
            )
            judge = _judge(judge_url, judge_model, judge_key)
            checker = _command(command, command_timeout)
            run = Run(find_connection(url), adapter, out, fresh, concurrency, checker, judge)
            outcome, folder = asyncio.run(run.make(plan, output))
            document = summary(outcome) | {"folder": str(folder.absolute()), "attached": not no_attach}
            if not no_attach:
                _attach(outcome, run.connection, folder)
        except KeyboardInterrupt:
            output.error(
                NotDone("interrupted; every answer that came is kept", fix="run the same command again to go on")
            )
            raise typer.Exit(INTERRUPTED) from None
        except EvaluatingError as error:
            raise NotDone(str(error), fix=error.fix) from error
        except CommandError as error:
            # 1 is a verdict here; whatever kept it from being reached is 2.
            raise NotDone(error.message, fix=error.fix) from error
        except LoraDockError as error:
            raise NotDone(str(error)) from error
        except ModuleNotFoundError as error:
            raise NotDone(
                f"evaluating needs the package {error.name}, which is not installed",
                fix="install LoRADock with its evaluation packages: loradock[evaluate]",
            ) from error
        output.document(document)
        say(output, outcome, folder, attached=not no_attach)
        raise typer.Exit(EXIT_CODES[outcome.verdict.kind])


@dataclass(frozen=True, slots=True)
class Run:
    """Whom to ask and where to keep it. `judge`: its address, model and key."""

    connection: Connection
    adapter: str
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
                    plan, model, Asker(endpoint, journal), Bar(bar), Helpers(self.command, judge)
                )
            write(outcome, folder)
        return outcome, folder


class Bar:
    """The progress of an evaluation, one bar for each of its parts."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task: TaskID | None = None

    def begin(self, what: str, total: int) -> None:
        self._task = self._bar.add_task(what, total=total)

    def advance(self) -> None:
        if self._task is not None:
            self._bar.advance(self._task)


def _held_out(path: Path, limit: int | None) -> DataFile:
    held_out = read_examples(path)
    if limit is None or limit >= len(held_out.examples):
        return held_out
    # Part of a file is other data than the file: results on both must not be compared.
    digest = hashlib.sha256(f"{held_out.digest} first {limit}".encode()).hexdigest()
    return DataFile(held_out.path, digest, held_out.examples[:limit])


def _prompted(
    held_out: DataFile, prompt: str | None, train: Path | None, shots: int | None, seed: int
) -> tuple[str | None, tuple[Example, ...]]:
    from loradock_adapters.evaluating.contenders import choose_shots, refuse_leaks

    if prompt is None and train is None:
        raise Unreadable(
            "nothing was given for the base to compete with: whether a prompt would do as well is half of the question",
            fix="give --prompt FILE|TEXT, --train FILE for examples to show, or both; or say --no-prompted",
        )
    if train is None:
        if shots:
            raise Unreadable(f"--shots {shots}, but no examples to show", fix="give --train FILE")
        return _prompt_text(prompt or ""), ()
    training = read_examples(train)
    refuse_leaks(held_out, training)
    return None if prompt is None else _prompt_text(prompt), choose_shots(
        training, _SHOTS if shots is None else shots, seed
    )


def _prompt_text(given: str) -> str:
    """The file's text if there is such a file, else the text itself."""
    text = given
    try:
        if len(given) < _LONGEST_PATH and Path(given).is_file():
            text = read_capped(Path(given), _MAX_PROMPT_BYTES).decode()
    except (OSError, ValueError) as error:
        raise Unreadable(f"the prompt {given[:80]!r} cannot be read: {error}") from error
    if not text.strip():
        raise Unreadable("the prompt is empty", fix="write what the base is to do, or leave --prompt out")
    return text.strip()


def _schema(path: Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    try:
        return parse_object(read_capped(path, _MAX_PROMPT_BYTES))
    except (OSError, FileTooLarge) as error:
        raise Unreadable(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise Unreadable(f"{path} {error}") from error


def _command(text: str | None, seconds: float) -> Command | None:
    from loradock_adapters.evaluating.command import Command

    return None if text is None else Command.read(text, seconds)


def _prices(given: float | None, made: float | None) -> tuple[float, float] | None:
    if given is None and made is None:
        return None
    if given is None or made is None:
        raise Unreadable("one price is missing", fix="give --price-in and --price-out")
    return given, made


def _judge(url: str | None, model: str | None, key: str | None) -> tuple[str, str, str | None] | None:
    if url is None and model is None:
        return None
    if url is None or model is None:
        raise Unreadable("a judge has an address and a model", fix="give --judge-url and --judge-model")
    if not url.startswith(("http://", "https://")):
        raise Unreadable(f"the judge's address {url[:80]!r} is not an http or https address")
    return url, model, key


def _attach(outcome: Outcome, connection: Connection, folder: Path) -> None:
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
