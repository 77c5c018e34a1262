"""Training examples: JSON lines of {"messages": [{"role", "content"}, …]}, and how they become tokens.

The last message is the assistant's answer; it and the stop token are what is learned, everything before is
context. Knows no torch: tokens are plain lists, the tokenizer is whatever has a chat template.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from loradock_adapters.training.errors import DataError

IGNORED = -100  # the label torch's cross-entropy leaves out
_ROLES = ("system", "user", "assistant")
_FAULTS_SHOWN = 10


class ChatTokenizer(Protocol):
    """The part of a transformers tokenizer that is used here."""

    eos_token: str

    def apply_chat_template(
        self, conversation: list[dict[str, str]], *, tokenize: bool, add_generation_prompt: bool
    ) -> Any: ...

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...


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


@dataclass(frozen=True, slots=True)
class Tokens:
    """`labels` has the length of `input_ids`, with IGNORED where nothing is learned."""

    input_ids: list[int]
    labels: list[int]

    @property
    def trained(self) -> int:
        return sum(label != IGNORED for label in self.labels)


@dataclass(frozen=True, slots=True)
class TokenSet:
    """The examples that fit, and how many did not."""

    examples: tuple[Tokens, ...]
    too_long: int

    @property
    def trained_share(self) -> float:
        """Trained tokens of all tokens, 0…1."""
        total = sum(len(tokens.input_ids) for tokens in self.examples)
        return sum(tokens.trained for tokens in self.examples) / total if total else 0.0


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file's examples with the sha256 of its bytes."""

    path: Path
    digest: str
    examples: tuple[Example, ...]


def read_examples(path: Path) -> DataFile:
    """Read a JSON lines file. Raises DataError naming every faulty line (the first few, and how many)."""
    try:
        content = path.read_bytes()
        lines = content.decode("utf-8").split("\n")
    except FileNotFoundError as error:
        raise DataError(f"no data at {path}; run prepare.py beside the recipe if there is one") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    examples: list[Example] = []
    faults: list[str] = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            example = _example(line)
            if isinstance(example, Example):
                examples.append(example)
            else:
                faults.append(f"line {number}: {example}")
    if faults:
        more = f"; and {len(faults) - _FAULTS_SHOWN} more" if len(faults) > _FAULTS_SHOWN else ""
        raise DataError(f"{path}: " + "; ".join(faults[:_FAULTS_SHOWN]) + more)
    if not examples:
        raise DataError(f"{path} has no examples")
    return DataFile(path=path, digest=hashlib.sha256(content).hexdigest(), examples=tuple(examples))


def tokenize(tokenizer: ChatTokenizer, examples: Iterable[Example], *, max_length: int) -> TokenSet:
    """Render and tokenize. Raises DataError when the chat template gives nothing to learn or nothing fits."""
    kept: list[Tokens] = []
    too_long = 0
    for example in examples:
        tokens = tokenize_one(tokenizer, example)
        if len(tokens.input_ids) > max_length:
            too_long += 1
        else:
            kept.append(tokens)
    if not kept:
        raise DataError(f"all {too_long} examples have more than {max_length} tokens; raise data.max_length")
    return TokenSet(examples=tuple(kept), too_long=too_long)


def tokenize_one(tokenizer: ChatTokenizer, example: Example) -> Tokens:
    """The context as the server will render it, then the answer and the stop token, and nothing after it.

    Context and answer are tokenized apart, since at inference the context's tokens are there first.
    """
    answer = {"role": "assistant", "content": example.answer}
    prompt = tokenizer.apply_chat_template(example.context, tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template([*example.context, answer], tokenize=False, add_generation_prompt=False)
    if not whole.startswith(prompt):
        raise DataError("the chat template renders the context differently once an answer follows; cannot mask it")
    completion, stop, _ = whole[len(prompt) :].rpartition(tokenizer.eos_token)
    if not stop:
        raise DataError(
            f"the chat template does not end an answer with the stop token {tokenizer.eos_token!r}; "
            "an adapter trained so would never stop"
        )
    context_ids = tokenizer.encode(prompt, add_special_tokens=False)
    answer_ids = tokenizer.encode(completion + stop, add_special_tokens=False)
    return Tokens(context_ids + answer_ids, [IGNORED] * len(context_ids) + answer_ids)


def _example(line: str) -> Example | str:
    """The example on a line, or what is wrong with it."""
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        return f"not JSON ({error})"
    messages = row.get("messages") if isinstance(row, dict) else None
    if not isinstance(messages, list) or len(messages) < 2:
        return 'no "messages" list with a question and an answer'
    return _conversation(messages)


def _conversation(messages: Sequence[Any]) -> Example | str:
    read: list[Message] = []
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, dict) or message.keys() != {"role", "content"}:
            return f"message {number} is not an object with role and content alone"
        role, content = message["role"], message["content"]
        if role not in _ROLES:
            return f"message {number} has role {role!r}; it is one of {', '.join(_ROLES)}"
        if not isinstance(content, str) or not content.strip():
            return f"message {number} has no text"
        read.append(Message(role, content))
    if read[-1].role != "assistant":
        return f"the last message is the {read[-1].role}'s; it must be the assistant's answer"
    return Example(tuple(read))
