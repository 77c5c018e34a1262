"""H10: the prefix cache knows an adapter by name and path. Here both change with the bytes."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.slow

Seen = dict[str, Any]


def test_plain_vllm_finds_old_cache_entries_for_new_weights_under_the_same_path(plain: Seen) -> None:
    before, after = plain["h10"]["keys"]
    assert before == after


def test_two_versions_of_a_name_share_no_cache_entry_and_the_key_holds_the_digest(ours: Seen) -> None:
    first, second = ours["h10"]["keys"]
    assert first != second
    for key, digest in zip((first, second), ours["h10"]["digests"], strict=True):
        assert key[0][2].endswith(f"/blobs/sha256/{digest}")


def test_an_id_is_never_served_from_other_bytes(ours: Seen) -> None:
    assert ours["h10"]["other bytes, resident"].startswith("422 ")
    assert "a version never changes its bytes" in ours["h10"]["other bytes, resident"]
