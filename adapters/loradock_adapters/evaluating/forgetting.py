"""What an adapter cost its base in general: the same questions and texts for both."""

from __future__ import annotations

from collections.abc import Mapping

from loradock_adapters.evaluating import general
from loradock_adapters.evaluating.asking import Asker, Decoding, Likelihood, Model
from loradock_adapters.evaluating.contenders import Role
from loradock_adapters.evaluating.measuring import measured
from loradock_adapters.evaluating.metrics import Metric
from loradock_adapters.evaluating.outcome import Forgetting
from loradock_adapters.evaluating.together import Progress, all_of

_RIGHT = Metric("general", "the right word stands in the answer to a general question", True)
_TEXT = Metric("general_loss", "nats per token of general text", False, higher=False)


async def measure_forgetting(asker: Asker, models: Mapping[Role, Model], seed: int, progress: Progress) -> Forgetting:
    known = general.read_general()
    sides: tuple[Role, Role] = ("base", "adapter")
    progress.begin("general questions", len(sides) * (len(known.questions) + len(known.texts)))
    decoding = Decoding(general.LONGEST_ANSWER, seed)

    async def asked(role: Role, question: general.Question) -> str:
        found = await asker.answer(models[role], [{"role": "user", "content": question.text}], decoding)
        progress.advance()
        return found.text

    async def read(role: Role, text: str) -> Likelihood:
        first, *rest = await asker.tokens(models[role], text)
        found = await asker.likelihood_after(models[role], [first], rest)
        progress.advance()
        return found

    said = {role: await all_of([asked(role, question) for question in known.questions]) for role in sides}
    right = {
        role: [float(q.is_right(text)) for q, text in zip(known.questions, said[role], strict=True)] for role in sides
    }
    losses = {role: await all_of([read(role, text) for text in known.texts]) for role in sides}
    return Forgetting(
        measured(_RIGHT, right, [1.0] * len(known.questions), seed),
        measured(
            _TEXT,
            {role: [one.nats / one.tokens for one in losses[role]] for role in sides},
            [float(one.tokens) for one in losses["base"]],
            seed,
        ),
        [
            (question.text, before, after, bool(was_right), bool(is_right))
            for question, before, after, was_right, is_right in zip(
                known.questions, said["base"], said["adapter"], right["base"], right["adapter"], strict=True
            )
        ],
    )
