"""From a setting to a store: a folder's path, or `s3://bucket/prefix`. Reads no environment itself; obstore does."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from loradock_adapters.errors import StoreError
from loradock_adapters.store.blobs import Store
from loradock_adapters.store.folder import FolderStore

CACHE_BYTES = 20 << 30

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def is_bucket(where: str) -> bool:
    """Whether this names a bucket rather than a folder. Raises StoreError for other schemes and malformed addresses."""
    scheme = _SCHEME.match(where)
    if scheme is None:
        return False
    if scheme[1] != "s3":
        raise StoreError(f"artifacts cannot be kept at {scheme[1]}://; name a folder, or s3://bucket/prefix")
    bucket, prefix = _parts(where)
    bad = {"", ".", ".."}.intersection(prefix.split("/")) if prefix else False
    if not _BUCKET.fullmatch(bucket) or bad or re.search(r"[?#\\\x00-\x1f\x7f]", where):
        raise StoreError(
            "that is no address of a bucket; write s3://bucket or s3://bucket/prefix, and the key, region and "
            "endpoint as AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL"
        )
    return True


def open_store(where: str, cache: Path, *, cache_bytes: int = CACHE_BYTES) -> Store:
    """The store at a folder's path or a bucket's address; nothing is read yet.

    Of a bucket, what was fetched is kept in the local folder `cache`, up to `cache_bytes`. Raises StoreError.
    """
    if not is_bucket(where):
        return FolderStore(Path(where))
    try:
        from loradock_adapters.store.bucket import BucketStore
    except ImportError as error:
        raise StoreError(f"artifacts at {where} need a package: pip install 'loradock[s3]' ({error})") from error
    bucket, prefix = _parts(where)
    return BucketStore.open(bucket, prefix, FolderStore(cache), cache_bytes=cache_bytes)


def _parts(where: str) -> tuple[str, str]:
    parts = urlsplit(where)
    return parts.netloc, parts.path.strip("/")
