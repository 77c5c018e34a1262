"""Regular expressions from strangers: which ones may be run, and how PEFT and the engine match them.

rank_pattern and alpha_pattern fit the end of a module's name, target_modules and exclude_modules the whole. Names,
dots, anchors, classes, choices and a few plain quantifiers are what people write; what could run for ever is refused.
"""

from __future__ import annotations

import re

MAX_LENGTH = 256
MAX_TARGET_LENGTH = 4096  # lists of choices are long, and harmless
MAX_QUANTIFIERS = 3

_PIECE = r"[A-Za-z0-9_.|$-]|\\[.d]|\[[A-Za-z0-9_-]+\]"
# A group is never quantified: nested quantifiers are what explodes.
_SAFE = re.compile(rf"\^?(?:{_PIECE}|\((?:\?:)?(?:[A-Za-z0-9_.|-]|\\[.d])+\)(?![*+?{{])|[*+?])+")


def is_safe(pattern: str, max_length: int = MAX_LENGTH) -> bool:
    """Whether it is a valid expression that cannot take long."""
    if len(pattern) > max_length or not _SAFE.fullmatch(pattern):
        return False
    if quantifiers(pattern) > MAX_QUANTIFIERS:
        return False
    try:
        ending(pattern)
    except re.error:
        return False
    return True


def quantifiers(pattern: str) -> int:
    """How many pieces of it may repeat."""
    return len(re.findall(r"[*+]|(?<!\()\?", pattern))


def ending(pattern: str) -> re.Pattern[str]:
    """As PEFT and vLLM match rank_pattern and alpha_pattern: from a dot on, to the end."""
    return re.compile(rf"(.*\.)?({pattern})$")
