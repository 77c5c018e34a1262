"""An evaluation's outcome as people read it on a terminal: metrics with intervals, tokens, verdict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from loradock_server.cli.output import Output, table
from loradock_server.cli.wording import NOTHING, printable

if TYPE_CHECKING:
    from loradock_adapters.evaluating.outcome import Measured, Outcome
    from loradock_adapters.evaluating.statistics import Comparison, Estimate

_COLOURS = {"promote": "bold green", "dont": "bold red", "not_enough_data": "bold yellow"}
_SHARES = ("loss", "general_loss")  # all other metrics are shares of 1


def say(output: Output, outcome: Outcome, folder: Path, *, attached: bool) -> None:
    """Tables, the verdict, and what to do next; nothing with `--json`."""
    from loradock_adapters.evaluating.measuring import by_label

    shown = [*outcome.measured]
    if outcome.forgetting is not None:
        shown += [one for one in (outcome.forgetting.questions, outcome.forgetting.text) if one is not None]
    roles = [contender.role for contender in outcome.contenders]
    output.say(
        f"{outcome.adapter.id} on {len(outcome.data.examples)} examples of {printable(outcome.data.path)}, "
        "mean [95 % interval]",
        table(
            ("metric", *roles, *(f"gain over {role}" for role in roles[:-1])),
            (_row(one, roles) for one in shown),
        ),
        "",
        table(("tokens", *roles), _token_rows(outcome)),
    )
    if labels := by_label([example.answer for example in outcome.data.examples], outcome.measured):
        rows = ([label, count, *map(_share, each.values())] for label, (count, each) in labels.items())
        output.say("", table(("label", "examples", *roles), rows))
    for note in outcome.notes:
        output.say("", Text("note: ", "yellow") + Text(printable(note)))
    gain = outcome.deciding.over[outcome.deciding.strongest]
    output.say(
        "",
        Text("verdict: ", "bold")
        + Text(outcome.verdict.line, _COLOURS[outcome.verdict.kind])
        + Text(f" ({outcome.deciding.metric.name} {_gain(outcome.deciding, gain)}, p {p_value(gain.p)})"),
        Text(f"report: {folder / 'report.html'}" + (f"; attached to {outcome.adapter.id}" if attached else ""), "dim"),
    )
    if outcome.verdict.kind == "promote":
        name, _, version = outcome.adapter.id.partition("@")
        output.hint(f"loradock adapters promote {name} {version}")


def p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _row(one: Measured, roles: Iterable[str]) -> Iterator[object]:
    yield one.metric.name
    for role in roles:
        found = {str(name): estimate for name, estimate in one.estimates.items()}.get(role)
        yield NOTHING if found is None else _estimate(one, found)
    for role in roles:
        if role != "adapter":
            over = {str(name): comparison for name, comparison in one.over.items()}.get(role)
            yield NOTHING if over is None else _gain(one, over)


def _estimate(one: Measured, found: Estimate) -> str:
    if one.metric.name in _SHARES:
        return f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"
    return f"{_share(found.mean)} [{found.low * 100:.1f}, {found.high * 100:.1f}]"


def _gain(one: Measured, over: Comparison) -> str:
    if one.metric.name in _SHARES:
        return f"{over.gain:+.3f} [{over.low:+.3f}, {over.high:+.3f}]"
    return f"{over.gain * 100:+.1f} [{over.low * 100:+.1f}, {over.high * 100:+.1f}]"


def _share(value: float) -> str:
    return f"{value * 100:.1f} %"


def _token_rows(outcome: Outcome) -> Iterator[list[str]]:
    spent = outcome.spent.values()
    yield ["per prompt", *(f"{one.prompt_tokens:.1f}" for one in spent)]
    yield ["per answer", *(f"{one.answer_tokens:.1f}" for one in spent)]
    if outcome.prices is not None:
        yield ["cost of 1000", *(f"{one.cost_per_1000 or 0:.4f}" for one in spent)]
