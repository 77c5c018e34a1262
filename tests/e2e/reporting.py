"""Measured values of tests, for people."""

from __future__ import annotations

import sys


def report(text: str) -> None:
    """A measured value, for whoever runs pytest with -s or -rP."""
    sys.stdout.write(f"\n{text}\n")
