"""`loradock evaluate`: is an adapter better than its base, prompted or not? What that means, the adapters side knows.

Exit codes: 0 promote, 1 don't, 2 no verdict was reached, 3 not enough data, 130 interrupted.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from loradock_adapters.errors import LoraDockError
from loradock_adapters.evaluating.errors import EvaluatingError
from loradock_adapters.evaluation import Evaluation
from loradock_server.cli.connection import find_connection
from loradock_server.cli.errors import CommandError, NotDone
from loradock_server.cli.evaluation_inputs import (
    SHOTS,
    read_command,
    read_held_out,
    read_judge,
    read_prices,
    read_prompted,
    read_schema,
)
from loradock_server.cli.evaluation_run import Run, attach
from loradock_server.cli.options import AsJson, ServerUrl
from loradock_server.cli.output import answering
from loradock_server.cli.verdicts import say

EXIT_CODES = {"promote": 0, "dont": 1, "not_enough_data": 3}
INTERRUPTED = 130
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
        typer.Option("--shots", min=0, help=f"How many of them. Default: {SHOTS}.", rich_help_panel=_DATA),
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

            name = task or adapter.partition("@")[0]
            # An hour later would be too late to learn that the registry takes no such name.
            Evaluation.read({"task": name, "metrics": {"score": 0}})
            held_out = read_held_out(data, limit)
            plan = Plan(
                task=name,
                data=held_out,
                prompted=None if no_prompted else read_prompted(held_out, prompt, train, shots, seed),
                metrics=tuple(metric or ()),
                means=Means(read_schema(schema), regex, command is not None, judge_url is not None, not no_loss),
                max_tokens=max_tokens,
                seed=seed,
                general=not no_general,
                rules=Rules(min_examples, worth, max_forgetting),
                prices=read_prices(price_in, price_out),
            )
            judge = read_judge(judge_url, judge_model, judge_key)
            checker = read_command(command, command_timeout)
            run = Run(find_connection(url), adapter, not no_attach, out, fresh, concurrency, checker, judge)
            outcome, folder = asyncio.run(run.make(plan, output))
            document = summary(outcome) | {"folder": str(folder.absolute()), "attached": not no_attach}
            if not no_attach:
                attach(outcome, run.connection, folder)
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
