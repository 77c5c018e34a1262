"""The artifact store: adapters' bytes, each set of files under its own digest, written once, complete or not at all.

In a folder or in a bucket. It knows no names and no versions (the registry has those), and does not judge.
"""

from loradock_adapters.store.blobs import Blob, Store
from loradock_adapters.store.folder import FolderStore
from loradock_adapters.store.opening import is_bucket, open_store

__all__ = ["Blob", "FolderStore", "Store", "is_bucket", "open_store"]
