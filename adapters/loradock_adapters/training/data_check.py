"""Is this data fit to train on? One pass that collects every finding: form, length, doubles, leaks, balance, masks.

With a tokenizer it looks at examples as the trainer will; without one it says what it could not look at. It changes
nothing and raises only for files that cannot be read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from loradock_adapters.training.data import ChatTokenizer, Tokens, read_lines, tokenize_one
from loradock_adapters.training.data_report import Code, DataReport, Finding, Level, Mask, Spread
from loradock_adapters.training.duplicates import asked_text, groups, near_pairs, whole_text
from loradock_adapters.training.errors import DataError
from loradock_adapters.training.formats import Example, numbered

BORDERLINE, ENOUGH = 200, 500
_LABELS = 20  # different answers that may still be labels
_LOPSIDED = 0.8
_MASKS = 3
_LARGEST_BYTES = 2 << 30

Advance = Callable[[], None]


class Decoder(ChatTokenizer, Protocol):
    """A tokenizer that also turns tokens back into text."""

    def decode(self, token_ids: list[int]) -> str: ...


@dataclass(frozen=True, slots=True)
class _File:
    """Examples with their line numbers from 1, and what was wrong with the other lines."""

    examples: tuple[tuple[int, Example], ...]
    formats: dict[str, int]
    faults: tuple[tuple[int, str], ...]


def check_data(
    path: Path,
    *,
    held_out: Path | None = None,
    tokenizer: Decoder | None = None,
    max_length: int = 256,
    advance: Advance = lambda: None,
) -> DataReport:
    """Everything that can be said of a data file; `held_out` is the one that it must not overlap with.

    `advance` is called as work goes on, about three times for each line. Raises DataError for a file that is no text.
    """
    train = _read(path)
    test = None if held_out is None else _read(held_out)
    findings = [*_form(train, ""), *([] if test is None else _form(test, "held-out: "))]
    tokens, unusable, found = _tokens(train, tokenizer, max_length, advance)
    findings += found
    texts = [whole_text(example) for _, example in train.examples]
    lines = [number for number, _ in train.examples]
    asked = [asked_text(example) for _, example in train.examples]
    findings += _doubles(train, texts, asked, lines, advance)
    if test is not None:
        findings += _leaks(test, asked, lines, advance)
    labels = _labels(train)
    findings += _balance(labels, len(train.examples))
    usable = len(train.examples) - unusable
    findings += _count(usable)
    order = {Level.FAULT: 0, Level.WARNING: 1, Level.NOTE: 2}
    return DataReport(
        examples=len(train.examples),
        usable=usable,
        formats=train.formats,
        findings=tuple(sorted(findings, key=lambda finding: order[finding.level])),
        tokens=Spread.of([len(one.input_ids) for _, one in tokens]) if tokens else None,
        answer_tokens=Spread.of([one.trained for _, one in tokens]) if tokens else None,
        labels=labels,
        masks=tuple(_masks(tokens, tokenizer)) if tokenizer is not None else (),
        verdict=_verdict(usable, any(finding.level is Level.FAULT for finding in findings)),
    )


def _read(path: Path) -> _File:
    if path.is_file() and (size := path.stat().st_size) > _LARGEST_BYTES:
        raise DataError(f"{path} has {size:,} bytes; at most {_LARGEST_BYTES:,} are read; divide it")
    _, lines = read_lines(path)
    read = numbered(lines)
    good = [(number, *found) for number, found in read if not isinstance(found, str)]
    return _File(
        examples=tuple((number, example) for number, _, example in good),
        formats=dict(Counter(str(kind) for _, kind, _ in good)),
        faults=tuple((number, found) for number, found in read if isinstance(found, str)),
    )


def _form(file: _File, whose: str) -> Iterator[Finding]:
    for words, lines in _by_text(file.faults).items():
        yield Finding(Code.SCHEMA, Level.FAULT, whose + words, "mend or remove these lines", lines)
    if not file.examples:
        yield Finding(Code.EMPTY, Level.FAULT, f"{whose}there is no example in it", "put one example on each line")
    if len(file.formats) > 1:
        mixed = ", ".join(f"{count} {kind}" for kind, count in sorted(file.formats.items()))
        yield Finding(Code.MIXED_FORMATS, Level.NOTE, f"{whose}several formats: {mixed}", "fine, if it is meant so")


def _by_text(faults: tuple[tuple[int, str], ...]) -> dict[str, tuple[tuple[int, ...], ...]]:
    found: dict[str, list[tuple[int, ...]]] = {}
    for number, words in faults:
        found.setdefault(words, []).append((number,))
    return {words: tuple(lines) for words, lines in found.items()}


def _tokens(
    file: _File, tokenizer: Decoder | None, max_length: int, advance: Advance
) -> tuple[list[tuple[int, Tokens]], int, list[Finding]]:
    """Examples as tokens, by line; how many of them would not be trained on; what is to be said of that."""
    if tokenizer is None:
        text = "without a tokenizer nothing is known of lengths, of the chat template and of what is learned"
        return [], 0, [Finding(Code.NO_TOKENIZER, Level.NOTE, text, "name the base model with --base")]
    found: list[tuple[int, Tokens]] = []
    for number, example in file.examples:
        advance()
        try:
            found.append((number, tokenize_one(tokenizer, example)))
        except DataError as error:  # the template's fault, and so every line's
            fix = "use the base model's own template, or an instruct model"
            return [], len(file.examples), [Finding(Code.TEMPLATE, Level.FAULT, str(error), fix, ((number,),))]
    long = tuple((number,) for number, tokens in found if len(tokens.input_ids) > max_length)
    if not long:
        return found, 0, []
    most = max(len(tokens.input_ids) for _, tokens in found)
    level = Level.FAULT if len(long) == len(found) else Level.WARNING
    text = f"{len(long)} examples have more than {max_length} tokens (data.max_length) and would be left out"
    return (
        found,
        len(long),
        [Finding(Code.TOO_LONG, level, text, f"the longest has {most}: raise the limit, or cut", long)],
    )


def _doubles(
    file: _File, texts: list[str], questions: list[str], lines: list[int], advance: Advance
) -> Iterator[Finding]:
    same = groups(texts)
    if same:
        count = sum(len(group) - 1 for group in same)
        where = tuple(tuple(lines[position] for position in group) for group in same)
        yield Finding(
            Code.DUPLICATE, Level.WARNING, f"{count} examples are there more than once", "keep one of each", where
        )
    near = near_pairs(texts, advance=advance)
    if near:
        where = tuple((lines[one], lines[other]) for one, other in near)
        text = f"{len(near)} examples are nearly the same as another one"
        yield Finding(Code.NEAR_DUPLICATE, Level.NOTE, text, "they teach little twice; vary them, or keep one", where)
    torn = [
        group
        for group in groups(questions)
        if len({file.examples[position][1].answer.strip() for position in group}) > 1
    ]
    if torn:
        where = tuple(tuple(lines[position] for position in group) for group in torn)
        text = f"{len(torn)} questions have different answers in different lines"
        yield Finding(
            Code.CONTRADICTION, Level.WARNING, text, "decide for one, or say what makes the difference", where
        )


def _leaks(test: _File, questions: list[str], lines: list[int], advance: Advance) -> Iterator[Finding]:
    """Held-out examples whose question is in the training data: a figure over them measures memory."""
    known = dict(zip(reversed(questions), reversed(lines), strict=True))  # of equal ones the first
    asked = [asked_text(example) for _, example in test.examples]
    leaked = tuple(
        (number, known[text]) for (number, _), text in zip(test.examples, asked, strict=True) if text in known
    )
    if leaked:
        text = (
            f"{len(leaked)} of {len(asked)} held-out questions are in the training data too (held-out line = its line)"
        )
        yield Finding(Code.LEAK, Level.FAULT, text, "take them out of one of the two files", leaked)
    rest = [position for position, text in enumerate(asked) if text not in known]
    near = near_pairs([asked[position] for position in rest], questions, advance=advance)
    if near:
        where = tuple((test.examples[rest[one]][0], lines[other]) for one, other in near)
        text = f"{len(near)} of {len(asked)} held-out questions are nearly the same as one that is trained on"
        yield Finding(Code.NEAR_LEAK, Level.WARNING, text, "divide the data by source before it is varied", where)


def _labels(file: _File) -> tuple[tuple[str, int], ...]:
    """Answers with their counts, most frequent first, if they are so few that they are labels."""
    counts = Counter(example.answer.strip() for _, example in file.examples)
    few = len(counts) <= min(_LABELS, max(1, len(file.examples) // 5))
    return tuple(counts.most_common()) if few and counts else ()


def _balance(labels: tuple[tuple[str, int], ...], examples: int) -> Iterator[Finding]:
    if not labels or examples < 2:
        return
    answer, count = labels[0]
    if len(labels) == 1:
        yield Finding(
            Code.ONE_ANSWER, Level.WARNING, f"every answer is {answer[:60]!r}", "there is nothing to tell apart"
        )
    elif count > _LOPSIDED * examples:
        text = f"{count} of {examples} answers are {answer[:60]!r}; who always says that is right as often"
        yield Finding(
            Code.UNBALANCED, Level.WARNING, text, "add examples of the others, and measure more than accuracy"
        )


def _count(usable: int) -> Iterator[Finding]:
    if usable < BORDERLINE:
        text = f"{usable} usable examples: gains will be small, and of format only"
        yield Finding(Code.FEW, Level.WARNING, text, f"try a good prompt first; from {ENOUGH} on training pays")
    elif usable < ENOUGH:
        text = f"{usable} usable examples: borderline"
        yield Finding(Code.FEW, Level.NOTE, text, f"compare with a good prompt; from {ENOUGH} on training pays")


def _verdict(usable: int, faulty: bool) -> str:
    if faulty:
        return "not fit to train on as it is"
    if usable < BORDERLINE:
        return "fit to train on, but gains will be small and format-only with so few examples"
    return "borderline: compare with a good prompt" if usable < ENOUGH else "go"


def _masks(tokens: list[tuple[int, Tokens]], tokenizer: Decoder) -> Iterator[Mask]:
    """Of the shortest, a middle and the longest example."""
    ordered = sorted(tokens, key=lambda pair: len(pair[1].input_ids))
    chosen = {0, len(ordered) // 2, len(ordered) - 1} if ordered else set()
    for position in sorted(chosen)[:_MASKS]:
        line, one = ordered[position]
        pieces: list[tuple[str, bool]] = []
        start = 0
        for end in range(1, len(one.labels) + 1):
            learned = one.labels[start] >= 0
            if end == len(one.labels) or (one.labels[end] >= 0) != learned:
                pieces.append((tokenizer.decode(one.input_ids[start:end]), learned))
                start = end
        yield Mask(line, tuple(pieces), len(one.input_ids), one.trained)
