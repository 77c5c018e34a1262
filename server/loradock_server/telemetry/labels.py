"""The `adapter` and `version` labels of every metric, with a bound on how many adapters get their own."""

from __future__ import annotations

import threading

BASE = "base"
OTHER = "other"

AdapterLabels = tuple[str, str]
BASE_LABELS: AdapterLabels = (BASE, "")


class LabelCap:
    """Hands out labels first come, first served: at most `limit` adapter names, the rest share `other`.

    A name that has a label keeps it, so that no series ever changes its meaning.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._names: set[str] = set()
        self._lock = threading.Lock()  # metrics pages are made in threads

    def labels(self, name: str | None, version: int | str = "") -> AdapterLabels:
        """Label values (adapter, version) for an adapter; None means the base model."""
        if name is None:
            return BASE_LABELS
        with self._lock:
            if name not in self._names:
                if len(self._names) >= self._limit:
                    return (OTHER, OTHER)
                self._names.add(name)
        return (name, str(version))
