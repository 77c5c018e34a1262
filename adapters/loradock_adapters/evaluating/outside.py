"""Metrics that others decide: a command, or a judge. Answers in, numbers per example out."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from loradock_adapters.evaluating.asking import Answer
from loradock_adapters.evaluating.command import Command
from loradock_adapters.evaluating.contenders import Role
from loradock_adapters.evaluating.errors import CannotEvaluate
from loradock_adapters.evaluating.judge import Judge
from loradock_adapters.evaluating.together import Progress, all_of
from loradock_adapters.training.formats import Example

_COMMANDS_AT_ONCE = 4


async def by_command(
    command: Command | None, examples: Sequence[Example], answers: Mapping[Role, Sequence[Answer]], progress: Progress
) -> dict[Role, list[float]]:
    """1 where the command takes the answer. Raises CannotEvaluate."""
    if command is None:
        raise CannotEvaluate("pass@1 needs a command", fix="give --command")
    places = asyncio.Semaphore(_COMMANDS_AT_ONCE)
    progress.begin("commands", len(answers) * len(examples))

    async def passed(example: Example, answer: Answer) -> float:
        async with places:
            good = await command.passes(
                question=example.context[-1]["content"], wanted=example.answer, answer=answer.text
            )
        progress.advance()
        return float(good)

    return {
        role: await all_of([passed(e, a) for e, a in zip(examples, each, strict=True)])
        for role, each in answers.items()
    }


async def by_judge(
    judge: Judge | None, examples: Sequence[Example], answers: Mapping[Role, Sequence[Answer]], progress: Progress
) -> tuple[dict[Role, list[float]], str]:
    """How often the adapter's answers are preferred to the prompted base's, or to the bare base's where that is not
    there; and a note on how steady the judge was. Raises CannotEvaluate, ServerSaidNo, ServerGone.
    """
    if judge is None:
        raise CannotEvaluate("judge needs a judge", fix="give --judge-url and --judge-model")
    rival: Role = "prompted" if "prompted" in answers else "base"
    progress.begin("judgements", len(examples))

    async def judged(example: Example, ours: Answer, theirs: Answer) -> tuple[float, bool]:
        found = await judge.compare(
            question=example.context[-1]["content"], wanted=example.answer, ours=ours.text, theirs=theirs.text
        )
        progress.advance()
        return found.score, found.consistent

    triples = zip(examples, answers["adapter"], answers[rival], strict=True)
    found = await all_of([judged(*triple) for triple in triples])
    swayed = sum(not consistent for _, consistent in found)
    scores = [score for score, _ in found]
    note = f"the judge contradicted itself on {swayed} of {len(found)} pairs when their order changed: counted as ties"
    return {rival: [1 - score for score in scores], "adapter": scores}, note
