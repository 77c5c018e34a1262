"""Who is compared: the base as it is, the base with a prompt and examples, and the adapter. What each is sent.

Examples for the prompt come from training data, drawn by a seed; a held-out question among them is refused. It asks
nobody.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

from loradock_adapters.evaluating.errors import CannotEvaluate
from loradock_adapters.training.data import DataFile
from loradock_adapters.training.duplicates import asked_text
from loradock_adapters.training.formats import Example

Role = Literal["base", "prompted", "adapter"]
Messages = list[dict[str, str]]

_SHOWN = 5
_MANY_ANSWERS = 20  # more different answers than this are no labels to be shown in turn


@dataclass(frozen=True, slots=True)
class Contender:
    """`model` is who is asked; `prompt` and `shots` stand before what the client would send."""

    role: Role
    model: str
    prompt: str | None = None
    shots: tuple[Example, ...] = ()

    def messages(self, example: Example) -> Messages:
        """What this contender is sent for the example: its context, behind prompt and shots."""
        context = example.context
        system = [message["content"] for message in context if message["role"] == "system"]
        if self.prompt is None and not self.shots:
            return context
        # One system message in front: chat templates allow no second one.
        text = "\n\n".join(([self.prompt] if self.prompt else []) + system)
        made: Messages = [{"role": "system", "content": text}] if text else []
        for shot in self.shots:
            made += [message for message in shot.context if message["role"] != "system"]
            made.append({"role": "assistant", "content": shot.answer})
        return made + [message for message in context if message["role"] != "system"]


def refuse_leaks(held_out: DataFile, train: DataFile) -> None:
    """Raises CannotEvaluate when a held-out question stands in the training data too."""
    known = {asked_text(example): number for number, example in enumerate(train.examples, start=1)}
    leaked = [
        f"{number} = {known[text]}"
        for number, example in enumerate(held_out.examples, start=1)
        if (text := asked_text(example)) in known
    ]
    if leaked:
        more = f" and {len(leaked) - _SHOWN} more" if len(leaked) > _SHOWN else ""
        raise CannotEvaluate(
            f"{len(leaked)} of {len(held_out.examples)} held-out questions stand in {train.path} too "
            f"(held-out example = training example: {', '.join(leaked[:_SHOWN])}{more}); what was learned is no test",
            fix="take them out of one of the two files; loradock data check TRAIN --held-out HELDOUT shows them",
        )


def choose_shots(train: DataFile, count: int, seed: int) -> tuple[Example, ...]:
    """`count` different examples, drawn by the seed; where answers are few labels, each label in turn.

    Raises CannotEvaluate when there are not so many.
    """
    unique = list({asked_text(example): example for example in train.examples}.values())
    if count > len(unique):
        raise CannotEvaluate(
            f"{train.path} has {len(unique)} different questions, {count} examples were asked for", fix="lower --shots"
        )
    draw = random.Random(seed)
    draw.shuffle(unique)
    by_answer: dict[str, list[Example]] = defaultdict(list)
    for example in unique:
        by_answer[example.answer.strip()].append(example)
    if len(by_answer) > min(_MANY_ANSWERS, len(unique) // 2):
        return tuple(unique[:count])
    chosen: list[Example] = []
    queues = [by_answer[answer] for answer in sorted(by_answer)]
    draw.shuffle(queues)
    while len(chosen) < count:
        for queue in queues:
            if queue and len(chosen) < count:
                chosen.append(queue.pop())
    draw.shuffle(chosen)
    return tuple(chosen)
