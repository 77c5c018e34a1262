"""The S3 server that tests lean on is one: it keeps bytes, tells buckets apart, and lets in one key only."""

from __future__ import annotations

import httpx
import obstore

from tests.seaweed import Seaweed


def test_the_s3_server_keeps_objects_by_bucket_and_refuses_strangers(seaweed: Seaweed) -> None:
    one, two = seaweed.new_bucket(), seaweed.new_bucket()
    data = bytes(range(256)) * (9 << 12)  # more than one of obstore's upload parts
    obstore.put(seaweed.store(one), "deep/down/object", data, chunk_size=5 << 20)

    assert bytes(obstore.get(seaweed.store(one), "deep/down/object").bytes()) == data
    names = [meta["path"] for page in obstore.list(seaweed.store(one)) for meta in page]
    assert names == ["deep/down/object"]
    assert [meta for page in obstore.list(seaweed.store(two)) for meta in page] == []
    assert httpx.get(f"{seaweed.url}/{one}/deep/down/object", trust_env=False).status_code == 403


def test_there_is_room_for_more_buckets_than_a_few(seaweed: Seaweed) -> None:
    """With 50 volumes the ninth bucket took nothing any more."""
    for bucket in [seaweed.new_bucket() for _ in range(10)]:
        obstore.put(seaweed.store(bucket), "object", b"x")
