"""`report.json`, `evaluation.json` (what is attached) and `report.html` in a folder, each complete or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from loradock_adapters.evaluating.errors import CannotEvaluate
from loradock_adapters.evaluating.html import page
from loradock_adapters.evaluating.outcome import Outcome
from loradock_adapters.evaluating.report import report, summary


def write(outcome: Outcome, folder: Path) -> None:
    """Raises CannotEvaluate when the folder cannot be written."""
    _replace(folder / "report.json", json.dumps(report(outcome), indent=2, ensure_ascii=False) + "\n")
    _replace(folder / "evaluation.json", json.dumps(summary(outcome), indent=2) + "\n")
    _replace(folder / "report.html", page(outcome))


def _replace(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, made = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            # A lone surrogate, which JSON can bring, has no UTF-8.
            file.write(text.encode("utf-8", errors="backslashreplace"))
        os.replace(made, path)
    except OSError as error:
        raise CannotEvaluate(f"cannot write {path}: {error.strerror}", fix="name a folder with --out") from error
