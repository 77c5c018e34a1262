"""Adapter bytes for the engine: out of the content-addressed store, their hash compared at every load.

Runs in the stager, one call at a time. What it returns may be handed to vLLM, which checks next to nothing itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from loradock_adapters.base_model import BaseModel
from loradock_adapters.check import Limits, check_adapter
from loradock_adapters.errors import AdapterError, BlobCorrupt, BlobMissing, StoreError
from loradock_adapters.signing import Signature, signer_of
from loradock_adapters.store import Store

from .residency import AdapterGone, AdapterUnfit, StoreUnreachable


class StoredArtifacts:
    """residency.Artifacts over a `Store`.

    The bytes are hashed at every load: read-only files still rot, are edited by root, or are restored half way. The
    verdict on their content is kept, since the same digest is the same content. Where `limits` demand a signature, one
    over the digest itself must come with the question: nobody between trainer and engine is taken at their word.
    """

    def __init__(self, store: Store, base: BaseModel, limits: Limits) -> None:
        self._store = store
        self._base = base
        self._limits = limits
        # What lies in the store is the adapter alone: its signature comes with the question.
        self._content_limits = replace(limits, require_signature=False)
        self._good: set[str] = set()  # digests

    def fetch(self, digest: str, signatures: Iterable[str] = ()) -> Path:
        """A verified folder. Raises AdapterGone, AdapterUnfit, StoreUnreachable."""
        if self._limits.require_signature and not any(self._vouches(text, digest) for text in signatures):
            who = ", ".join(key.name for key in self._limits.trusted_keys)
            raise AdapterUnfit(
                f"the adapter with digest {digest[:12]}… has no signature of {who}, which this server demands; "
                "have it signed and register it again, or look at LORADOCK_TRUSTED_KEYS"
            )
        try:
            folder = self._store.fetch(digest)
            if digest not in self._good:
                check_adapter(folder, self._base, self._content_limits).raise_if_faulty()
                self._good.add(digest)
        except (BlobMissing, BlobCorrupt) as error:
            raise AdapterGone(str(error)) from error
        except StoreError as error:
            raise StoreUnreachable(str(error)) from error
        except AdapterError as error:
            raise AdapterUnfit(str(error)) from error
        return folder

    def _vouches(self, text: str, digest: str) -> bool:
        try:
            signature = Signature.parse(text)
        except ValueError:
            return False
        return signer_of(signature, self._limits.trusted_keys) is not None and signature.holds_for(digest)
