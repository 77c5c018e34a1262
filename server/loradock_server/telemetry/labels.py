"""The `adapter` and `version` labels of every metric, with a bound on how many adapters and versions get their own."""

from __future__ import annotations

import threading

BASE = "base"
OTHER = "other"

AdapterLabels = tuple[str, str]
VERSIONS_EACH = 50
BASE_LABELS: AdapterLabels = (BASE, "")


class LabelCap:
    """Hands out labels first come, first served: at most `limit` adapter names, the rest share `other`, and of each
    name at most VERSIONS_EACH versions.

    What has a label keeps it until the process ends, so that no series ever changes its meaning.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._versions: dict[str, set[str]] = {}
        self._lock = threading.Lock()  # metrics pages are made in threads

    def labels(self, name: str | None, version: int | str = "") -> AdapterLabels:
        """Label values (adapter, version) for an adapter; None means the base model."""
        if name is None:
            return BASE_LABELS
        with self._lock:
            versions = self._versions.get(name)
            if versions is None:
                if len(self._versions) >= self._limit:
                    return (OTHER, OTHER)
                versions = self._versions[name] = set()
            shown = str(version)
            if shown not in versions:
                if len(versions) >= VERSIONS_EACH:
                    return (name, OTHER)
                versions.add(shown)
        return (name, shown)
