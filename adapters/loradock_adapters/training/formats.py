"""One line of a data file as a conversation: chat messages, prompt and completion, or Alpaca's instruction.

Each line may have its own format. What it cannot read it describes in words; it raises nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Format = Literal["messages", "prompt/completion", "alpaca"]

_ROLES = ("system", "user", "assistant")
_KNOWN = 'a "messages" list, "prompt" and "completion", or "instruction" and "output"'


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Example:
    """One conversation whose last message is the wanted answer."""

    messages: tuple[Message, ...]

    @property
    def context(self) -> list[dict[str, str]]:
        """What a client would send."""
        return [{"role": message.role, "content": message.content} for message in self.messages[:-1]]

    @property
    def answer(self) -> str:
        return self.messages[-1].content


def read_line(line: str) -> tuple[Format, Example] | str:
    """The example on a line and how it was written, or what is wrong with it."""
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        return f"not JSON ({error})"
    if not isinstance(row, dict):
        return f"a JSON {type(row).__name__}; an example is an object with {_KNOWN}"
    if "messages" in row:
        return _named("messages", _conversation(row["messages"]))
    if "prompt" in row and "completion" in row:
        return _named("prompt/completion", _prompted(row["prompt"], row["completion"]))
    if "instruction" in row and "output" in row:
        return _named("alpaca", _instructed(row))
    fields = ", ".join(repr(str(key)[:30]) for key in list(row)[:5]) or "nothing"
    return f"no example: it has {fields}; an example has {_KNOWN}"


def _named(kind: Format, found: Example | str) -> tuple[Format, Example] | str:
    return found if isinstance(found, str) else (kind, found)


def _conversation(messages: Any) -> Example | str:
    if not isinstance(messages, list) or len(messages) < 2:
        return 'no "messages" list with a question and an answer'
    read: list[Message] = []
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, dict) or message.keys() != {"role", "content"}:
            return f"message {number} is not an object with role and content alone"
        role, content = message["role"], message["content"]
        if role not in _ROLES:
            return f"message {number} has role {str(role)[:30]!r}; it is one of {', '.join(_ROLES)}"
        if not _is_text(content):
            return f"message {number} has no text"
        read.append(Message(role, content))
    if read[-1].role != "assistant":
        return f"the last message is the {read[-1].role}'s; it must be the assistant's answer"
    return Example(tuple(read))


def _prompted(prompt: Any, completion: Any) -> Example | str:
    """Text, or messages as TRL takes them: a conversation that is divided before its answer."""
    if isinstance(prompt, list) and isinstance(completion, list):
        return _conversation([*prompt, *completion])
    return _asked(("prompt", prompt), ("completion", completion))


def _instructed(row: dict[str, Any]) -> Example | str:
    given = row.get("input") or ""
    if not isinstance(given, str):
        return f'"input" is {type(given).__name__}; it is text, or left out'
    instruction = row["instruction"]
    if given.strip() and isinstance(instruction, str):
        instruction = f"{instruction}\n\n{given}"
    return _asked(("instruction", instruction), ("output", row["output"]))


def _asked(question: tuple[str, Any], answer: tuple[str, Any]) -> Example | str:
    for name, value in (question, answer):
        if not _is_text(value):
            return f'"{name}" has no text'
    return Example((Message("user", question[1]), Message("assistant", answer[1])))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def numbered(lines: Sequence[str]) -> list[tuple[int, tuple[Format, Example] | str]]:
    """Every line that is not blank, with its number from 1 and what `read_line` makes of it."""
    return [(number, read_line(line)) for number, line in enumerate(lines, start=1) if line.strip()]
