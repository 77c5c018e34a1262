"""Adapter bytes for the engine: out of the content-addressed store, their hash compared at every load.

Runs in the stager, one call at a time. What it returns may be handed to vLLM, which checks next to nothing itself.
"""

from __future__ import annotations

from pathlib import Path

from loradock_adapters.base_model import BaseModel
from loradock_adapters.check import Limits, check_adapter
from loradock_adapters.errors import AdapterError, BlobCorrupt, BlobMissing
from loradock_adapters.store import Store

from .residency import AdapterGone, AdapterUnfit


class StoredArtifacts:
    """residency.Artifacts over a `Store`.

    The bytes are hashed at every load: read-only files still rot, are edited by root, or are restored half way. The
    verdict on their content is kept, since the same digest is the same content.
    """

    def __init__(self, store: Store, base: BaseModel, limits: Limits) -> None:
        self._store = store
        self._base = base
        self._limits = limits
        self._good: set[str] = set()  # digests

    def fetch(self, digest: str) -> Path:
        try:
            folder = self._store.fetch(digest)
            if digest not in self._good:
                check_adapter(folder, self._base, self._limits).raise_if_faulty()
                self._good.add(digest)
        except (BlobMissing, BlobCorrupt) as error:
            raise AdapterGone(str(error)) from error
        except AdapterError as error:
            raise AdapterUnfit(str(error)) from error
        return folder
