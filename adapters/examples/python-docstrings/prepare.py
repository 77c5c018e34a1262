"""Make the python-docstrings data: functions of the Python standard library and the docstrings their authors wrote.

Only the summary (the docstring's first paragraph) is asked for, and only of functions short enough to read at a
glance. Deterministic for one Python patch release, whose version goes into data/source.json.
"""

from __future__ import annotations

import ast
import json
import platform
import random
import re
import sysconfig
import warnings
from pathlib import Path

from loradock_adapters.training.duplicates import asked_text, near_pairs
from loradock_adapters.training.formats import Example, numbered

SEED = 20260
HELD_OUT = 150
TRAIN = 1200
PROMPT = "Write a docstring for this function:\n\n{source}"
SKIP = {"test", "tests", "idlelib", "lib2to3", "site-packages", "turtledemo", "ensurepip", "__pycache__", "encodings"}
LONGEST_SOURCE = 420
LONGEST_SUMMARY = 140


def summary(docstring: str) -> str | None:
    """The first paragraph on one line, or None where it is no sentence."""
    text = " ".join(docstring.strip().split("\n\n")[0].split())
    if not 15 <= len(text) <= LONGEST_SUMMARY or not text.endswith(".") or not text[0].isupper():
        return None
    return text if text.isascii() and not re.search(r"->|>>>|https?:|[<>|]", text) else None


def without_docstring(node: ast.FunctionDef) -> str | None:
    """The function's source with the docstring (and comments) gone, or None when it is too long to be an example."""
    if len(node.body) < 2:
        return None
    node.body = node.body[1:]
    source = ast.unparse(node)
    return source if source.isascii() and 40 <= len(source) <= LONGEST_SOURCE else None


def functions(library: Path) -> dict[str, str]:
    """Source → summary, in file order; the first of two equal functions counts."""
    found: dict[str, str] = {}
    for path in sorted(library.rglob("*.py")):
        if SKIP.intersection(path.relative_to(library).parts):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old escapes in old modules
            tree = ast.parse(path.read_bytes())
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef):
                continue
            text = summary(ast.get_docstring(node) or "")
            source = without_docstring(node) if text else None
            if text and source:
                found.setdefault(source, text)
    return found


def row(source: str, text: str) -> str:
    messages = [
        {"role": "user", "content": PROMPT.format(source=source)},
        {"role": "assistant", "content": f'"""{text}"""'},
    ]
    return json.dumps({"messages": messages})


def strange_to(train: list[str], rows: list[str]) -> list[str]:
    """The rows whose function is not nearly one that is trained on, as `loradock data check` sees it."""
    known, asked = [[asked_text(one) for _, one in examples(part)] for part in (train, rows)]
    near = {position for position, _ in near_pairs(asked, known)}
    return [text for position, text in enumerate(rows) if position not in near]


def examples(rows: list[str]) -> list[tuple[int, Example]]:
    return [(number, found[1]) for number, found in numbered(rows) if not isinstance(found, str)]


def main() -> None:
    found = functions(Path(sysconfig.get_path("stdlib")))
    # A summary that occurs twice must not stand on both sides of the split.
    unique = {text: source for source, text in found.items()}
    rows = [row(source, text) for text, source in unique.items()]
    random.Random(SEED).shuffle(rows)
    train = rows[HELD_OUT : HELD_OUT + TRAIN]
    held_out = strange_to(train, rows[:HELD_OUT] + rows[HELD_OUT + TRAIN :])[:HELD_OUT]
    folder = Path(__file__).parent / "data"
    folder.mkdir(exist_ok=True)
    (folder / "held_out.jsonl").write_text("\n".join(held_out) + "\n", encoding="utf-8")
    (folder / "train.jsonl").write_text("\n".join(train) + "\n", encoding="utf-8")
    source = {"package": "Python standard library", "version": platform.python_version(), "found": len(rows)}
    (folder / "source.json").write_text(json.dumps(source, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
