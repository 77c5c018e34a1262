"""Which examples say the same, or nearly: exactly by their text, nearly by MinHash over runs of three words.

Near means that about four fifths of all runs of three words are common to both (Jaccard). Order of files does not
matter, nor do case and blanks.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from loradock_adapters.training.formats import Example

NEAR = 0.8
_PERMUTATIONS = 128
_RUN = 3
_FEWEST_WORDS = 8  # shorter texts share their few runs by chance


def whole_text(example: Example) -> str:
    """Everything that is said, in lower case, with single blanks."""
    return _plain("\n".join(f"{message.role}: {message.content}" for message in example.messages))


def asked_text(example: Example) -> str:
    """What a client would send, likewise."""
    return _plain("\n".join(f"{message.role}: {message.content}" for message in example.messages[:-1]))


def groups(texts: Iterable[str]) -> list[list[int]]:
    """Positions of equal texts, where there are two or more; in order of their first."""
    found: dict[str, list[int]] = defaultdict(list)
    for position, text in enumerate(texts):
        found[text].append(position)
    return [same for same in found.values() if len(same) > 1]


def near_pairs(
    texts: Sequence[str], others: Sequence[str] | None = None, advance: Callable[[], None] = lambda: None
) -> list[tuple[int, int]]:
    """Pairs (position in `texts`, position in `others`) of texts that are near but not equal.

    Without `others` the pairs lie within `texts`, the smaller position first. One pair for each text at most, its
    nearest. `advance` is called once for each text that was looked at.
    """
    from datasketch import MinHash, MinHashLSH

    def sketch(text: str) -> MinHash | None:
        advance()
        words = re.findall(r"\w+", text)
        if len(words) < _FEWEST_WORDS:
            return None
        made = MinHash(num_perm=_PERMUTATIONS, hashfunc=_hash)
        made.update_batch([" ".join(words[i : i + _RUN]).encode() for i in range(len(words) - _RUN + 1)])
        return made

    index = MinHashLSH(threshold=NEAR, num_perm=_PERMUTATIONS)
    sketches: dict[int, MinHash] = {}
    pairs = []

    def nearest(made: MinHash, own: str, pool: Sequence[str]) -> int | None:
        close = [(made.jaccard(sketches[key]), -key) for key in index.query(made) if pool[key] != own]
        close = [one for one in close if one[0] >= NEAR]
        return -max(close)[1] if close else None

    if others is not None:
        for position, text in enumerate(others):
            if (made := sketch(text)) is not None:
                sketches[position] = made
                index.insert(position, made)
    for position, text in enumerate(texts):
        if (made := sketch(text)) is None:
            continue
        pool = texts if others is None else others
        if (found := nearest(made, text, pool)) is not None:
            pairs.append((found, position) if others is None else (position, found))
        if others is None:
            sketches[position] = made
            index.insert(position, made)
    return pairs


def distinct(examples: Iterable[Example]) -> list[Example]:
    """Examples that may be divided into training and held-out data without a leak, in their order.

    Of those that are equal or near, as a whole or in what is asked, the first stays; a question with two answers goes.
    """
    asked: dict[str, Example] = {}
    torn: set[str] = set()
    for example in examples:
        text = asked_text(example)
        if asked.setdefault(text, example).answer != example.answer:
            torn.add(text)
    later = {other for _, other in near_pairs(list(asked))}
    later |= {other for _, other in near_pairs([whole_text(example) for example in asked.values()])}
    return [
        example for position, (text, example) in enumerate(asked.items()) if position not in later and text not in torn
    ]


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _hash(data: bytes) -> int:
    # The same everywhere and always, unlike Python's own.
    return int.from_bytes(hashlib.blake2b(data, digest_size=4).digest(), "little")
