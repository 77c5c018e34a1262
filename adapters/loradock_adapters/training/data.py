"""Training examples, one on each line of a file (see `formats`), and how they become tokens.

The last message is the assistant's answer; it and the stop token are what is learned, everything before is
context. Knows no torch: tokens are plain lists, the tokenizer is whatever has a chat template.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from loradock_adapters.training.errors import DataError
from loradock_adapters.training.formats import Example, numbered

IGNORED = -100  # the label torch's cross-entropy leaves out
_FAULTS_SHOWN = 10


class ChatTokenizer(Protocol):
    """The part of a transformers tokenizer that is used here."""

    eos_token: str

    def apply_chat_template(
        self, conversation: list[dict[str, str]], *, tokenize: bool, add_generation_prompt: bool
    ) -> Any: ...

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...


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
    content, lines = read_lines(path, hint="; run prepare.py beside the recipe if there is one")
    read = numbered(lines)
    examples = [found[1] for _, found in read if not isinstance(found, str)]
    faults = [f"line {number}: {found}" for number, found in read if isinstance(found, str)]
    if faults:
        more = f"; and {len(faults) - _FAULTS_SHOWN} more" if len(faults) > _FAULTS_SHOWN else ""
        raise DataError(f"{path}: " + "; ".join(faults[:_FAULTS_SHOWN]) + more)
    if not examples:
        raise DataError(f"{path} has no examples")
    return DataFile(path=path, digest=hashlib.sha256(content).hexdigest(), examples=tuple(examples))


def read_lines(path: Path, *, hint: str = "") -> tuple[bytes, list[str]]:
    """A text file's bytes and lines. Raises DataError; `hint` is added where there is no file."""
    try:
        content = path.read_bytes()
        return content, content.decode("utf-8").split("\n")
    except FileNotFoundError as error:
        raise DataError(f"no data at {path}{hint}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from error


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
