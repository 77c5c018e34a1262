"""Adapter bytes for the engine: out of the content-addressed store, verified and checked once per process.

Runs in worker threads. What it returns may be handed to vLLM, which checks next to nothing itself.
"""

from __future__ import annotations

import threading
from pathlib import Path

from loradock_adapters.base_model import BaseModel
from loradock_adapters.check import Limits, check_adapter
from loradock_adapters.errors import AdapterError, BlobCorrupt, BlobMissing
from loradock_adapters.store import Store

from .residency import AdapterGone, AdapterUnfit


class StoredArtifacts:
    """residency.Artifacts over a `Store`. A digest once found good is not hashed again: blobs are read-only."""

    def __init__(self, store: Store, base: BaseModel, limits: Limits) -> None:
        self._store = store
        self._base = base
        self._limits = limits
        self._good: dict[str, int] = {}
        self._lock = threading.Lock()

    def fetch(self, digest: str) -> tuple[Path, int]:
        try:
            folder = self._store.path(digest)
            with self._lock:
                size = self._good.get(digest)
            if size is None or not folder.is_dir():
                self._store.verify(digest)
                report = check_adapter(folder, self._base, self._limits)
                report.raise_if_faulty()
                size = report.size_bytes
                with self._lock:
                    self._good[digest] = size
        except (BlobMissing, BlobCorrupt) as error:
            raise AdapterGone(str(error)) from error
        except AdapterError as error:
            raise AdapterUnfit(str(error)) from error
        return folder, size
