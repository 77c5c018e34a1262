"""An evaluation from beginning to end: ask everybody everything, measure, decide.

It asks through an `Asker` and tells a `Progress`; it knows no file but the journal behind the asker, and no terminal.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol, TypeVar

from loradock_adapters.evaluating.asking import Answer, Asker, Decoding, Likelihood, Model
from loradock_adapters.evaluating.command import Command
from loradock_adapters.evaluating.contenders import Contender, Role
from loradock_adapters.evaluating.errors import CannotEvaluate, ServerSaidNo
from loradock_adapters.evaluating.forgetting import measure_forgetting
from loradock_adapters.evaluating.judge import Judge
from loradock_adapters.evaluating.labels import Labels
from loradock_adapters.evaluating.measuring import measured, sum_up
from loradock_adapters.evaluating.metrics import ELSEWHERE, Means, choose, measure_of
from loradock_adapters.evaluating.outcome import Outcome
from loradock_adapters.evaluating.outside import by_command, by_judge
from loradock_adapters.evaluating.together import Progress, all_of
from loradock_adapters.evaluating.verdict import Rules, decide
from loradock_adapters.training.data import DataFile
from loradock_adapters.training.formats import Example

Found = TypeVar("Found")
Pieces = Mapping[Role, Sequence[Sequence[int]]]
"""Tokens by role, in the order of the examples."""
_SHORTEST_LIMIT = 16  # tokens


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be found out. `prompted`: prompt and examples of that contender, None to leave it out.

    `max_tokens` None: half as long again as the longest wanted answer. `prices`: per million tokens in and out.
    """

    task: str
    data: DataFile
    prompted: tuple[str | None, tuple[Example, ...]] | None
    metrics: tuple[str, ...] = ()
    means: Means = field(default_factory=Means)
    max_tokens: int | None = None
    seed: int = 1
    general: bool = True
    rules: Rules = field(default_factory=Rules)
    prices: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Helpers:
    """Who measures what this program cannot: there is one for each metric that the plan's means promise."""

    command: Command | None = None
    judge: Judge | None = None


Asked = TypeVar("Asked", covariant=True)


class _Ask(Protocol[Asked]):
    def __call__(self, contender: Contender, number: int) -> Awaitable[Asked]: ...


class _Run:
    """The parts of one evaluation that share whom they ask."""

    def __init__(self, plan: Plan, adapter: Model, asker: Asker, progress: Progress) -> None:
        self.plan = plan
        self.examples = plan.data.examples
        self.wanted = [example.answer for example in self.examples]
        self.contenders = _contenders(plan, adapter)
        base = Model(adapter.base, None, adapter.base)
        self.models: dict[Role, Model] = {"base": base, "prompted": base, "adapter": adapter}
        self.asker = asker
        self.progress = progress

    async def pieces(self, *, learned: bool) -> list[list[int]]:
        """The tokens of each wanted answer; `learned`: those that training learns, stop token included."""
        base = self.models["base"]

        async def tokens(example: Example) -> list[int]:
            text = await self.asker.wanted_text(base, example) if learned else example.answer
            found = await self.asker.tokens(base, text)
            self.progress.advance()
            return found

        self.progress.begin("wanted answers", len(self.examples))
        return await all_of([tokens(example) for example in self.examples])

    async def prompts(self) -> dict[Role, list[list[int]]]:
        """The tokens that each contender is sent for each example."""

        async def one(contender: Contender, number: int) -> list[int]:
            messages = contender.messages(self.examples[number])
            return await self.asker.prompt_tokens(self.models[contender.role], messages)

        return await self._of_all("prompts", one)

    def say_what_it_takes(self, prompts: Pieces, decoding: Decoding, loss: bool) -> None:
        """Before it is asked: how many answers, of how many tokens, at what price."""
        new = [
            len(prompts[contender.role][number])
            for contender in self.contenders
            for number, example in enumerate(self.examples)
            if not self.asker.knows(self.models[contender.role], contender.messages(example), decoding)
        ]
        total = len(self.contenders) * len(self.examples)
        most = len(new) * decoding.max_tokens
        text = f"to ask: {len(new)} of {total} answers, {sum(new):,} tokens of prompts and at most {most:,} of answers"
        if self.plan.prices is not None:
            cost = (sum(new) * self.plan.prices[0] + most * self.plan.prices[1]) / 1e6
            text += f", at most {cost:.4f}"
        self.progress.say(f"{text}{'; and as many losses' if loss else ''}")

    async def answers(self, decoding: Decoding) -> dict[Role, list[Answer]]:
        async def one(contender: Contender, number: int) -> Answer:
            messages = contender.messages(self.examples[number])
            return await self.asker.answer(self.models[contender.role], messages, decoding)

        return await self._of_all("answers", one)

    async def likelihoods(self, prompts: Pieces, pieces: Sequence[Sequence[int]]) -> dict[Role, list[Likelihood]]:
        async def one(contender: Contender, number: int) -> Likelihood:
            given = prompts[contender.role][number]
            return await self.asker.likelihood_after(self.models[contender.role], given, pieces[number])

        return await self._of_all("losses", one)

    async def _of_all(self, what: str, ask: _Ask[Found]) -> dict[Role, list[Found]]:
        """Every contender about every example, in turn; by role, in the order of the examples."""
        pairs = [(contender, number) for number in range(len(self.examples)) for contender in self.contenders]
        self.progress.begin(what, len(pairs))

        async def told(contender: Contender, number: int) -> Found:
            found = await ask(contender, number)
            self.progress.advance()
            return found

        by_role: dict[Role, list[Found]] = defaultdict(list)
        try:
            found = await all_of([told(*pair) for pair in pairs])
        except ServerSaidNo as error:
            if error.status == 400 and "context" in str(error):
                fix = "fewer --shots, a shorter --prompt, or a lower --max-tokens"
                raise CannotEvaluate(str(error), fix=fix) from error
            raise
        for (contender, _), one in zip(pairs, found, strict=True):
            by_role[contender.role].append(one)
        return dict(by_role)


async def evaluate(
    plan: Plan, adapter: Model, asker: Asker, progress: Progress, helpers: Helpers | None = None
) -> Outcome:
    """Raises CannotEvaluate, ServerSaidNo, ServerGone; what was answered before is in the journal."""
    started = time.monotonic()
    run, helpers = _Run(plan, adapter, asker, progress), helpers or Helpers()
    metrics = choose(plan.metrics, plan.means, run.wanted)
    # Before anything is asked: a bad schema or pattern is found now.
    labels = Labels.among(run.wanted)
    measures = {m.name: measure_of(m, plan.means, labels) for m in metrics if m.name not in ELSEWHERE}

    loss = any(metric.name == "loss" for metric in metrics)
    pieces = await run.pieces(learned=loss)
    decoding = Decoding(plan.max_tokens or _limit(pieces), plan.seed)
    prompts = await run.prompts()
    run.say_what_it_takes(prompts, decoding, loss)
    answers = await run.answers(decoding)
    likelihoods = await run.likelihoods(prompts, pieces) if loss else {}

    found = []
    notes = []
    for metric in metrics:
        weights = [1.0] * len(run.examples)
        values: dict[Role, list[float]]
        if metric.name == "loss":
            values = {role: [one.nats / one.tokens for one in each] for role, each in likelihoods.items()}
            weights = [float(len(tokens)) for tokens in pieces]
        elif metric.name == "pass@1":
            values = await by_command(helpers.command, run.examples, answers, progress)
        elif metric.name == "judge":
            values, note = await by_judge(helpers.judge, run.examples, answers, progress)
            notes.append(note)
        else:
            measure = measures[metric.name]
            values = {
                role: [measure(a.text, wanted) for a, wanted in zip(each, run.wanted, strict=True)]
                for role, each in answers.items()
            }
        found.append(measured(metric, values, weights, plan.seed))

    forgotten = await measure_forgetting(asker, run.models, plan.seed, progress) if plan.general else None
    spent = {role: sum_up(each, plan.prices) for role, each in answers.items()}
    notes += [
        f"{one.cut} of {len(run.examples)} answers of {role} were cut off at {decoding.max_tokens} tokens"
        for role, one in spent.items()
        if one.cut
    ]
    if plan.prompted is None:
        notes.append("prompting was not tried (--no-prompted): whether training was needed is not known")
    first = found[0]
    return Outcome(
        task=plan.task,
        server=asker.server,
        adapter=adapter,
        data=plan.data,
        contenders=run.contenders,
        decoding=decoding,
        answers=answers,
        measured=tuple(found),
        spent=spent,
        forgetting=forgotten,
        rules=plan.rules,
        verdict=decide(
            first.over, first.strongest, plan.rules, None if forgotten is None else forgotten.questions.over["base"]
        ),
        notes=tuple(notes),
        prices=plan.prices,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - started, 1),
    )


def _contenders(plan: Plan, adapter: Model) -> tuple[Contender, ...]:
    made = [Contender("base", adapter.base)]
    if plan.prompted is not None:
        made.append(Contender("prompted", adapter.base, *plan.prompted))
    return (*made, Contender("adapter", adapter.id))


def _limit(pieces: Sequence[Sequence[int]]) -> int:
    longest = max(len(tokens) for tokens in pieces)
    return max(_SHORTEST_LIMIT, -(-longest * 3 // 2))
