"""Addresses have one spelling, and an allow-list opens what it says and not one letter more."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loradock_adapters.errors import SourceForbidden, SourceInvalid, SourceMissing
from loradock_adapters.sources import AllowList, SourceRules, fetched, parse_uri, scheme_of
from tests.adapters.making import write_adapter
from tests.adapters.sources.packing import entries_of, tgz_bytes


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("hf://org/repo", "hf://org/repo"),
        ("HF://org/repo@v1/sub/", "hf://org/repo@v1/sub"),
        ("hf://org/repo@refs%2Fpr%2F1", "hf://org/repo@refs/pr/1"),
        ("https://Models.Example:443/a/b.tgz", "https://models.example/a/b.tgz"),
        ("http://models.example:8080/b.tgz?sig=secret", "http://models.example:8080/b.tgz"),
        ("https://[::1]:8443/b.tgz", "https://[::1]:8443/b.tgz"),
        ("https://h/%61.tgz", "https://h/a.tgz"),
        (f"s3://Bucket.x_y/a b/c#sha256={'a' * 64}".replace(" ", "+"), "s3://Bucket.x_y/a+b/c"),
        ("gs://bucket/a", "gs://bucket/a"),
    ],
)
def test_an_address_is_shown_in_its_one_spelling_and_without_secrets(text: str, shown: str) -> None:
    assert str(parse_uri(text)) == shown


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "hf:", "hf:org/repo", "hf://", "hf:///repo", "hf://org", "hf://org/repo@", "hf://org@x/repo"),
        *("hf://o/r@%0a", "hf://o/r@a%2F..%2Fb", "hf://o/r@%2Fa", "hf://o/r@%E2%80%AE", "hf://o/r@-x", "hf://o/r%40x"),
        *("https://", "https:///a", "https://h", "https://h/", "https://u:p@h/a", "https://u@h/a", "https://h:x/a"),
        *("https://h:99999/a", "https://h./a", "https://h..x/a", "https://-h/a", "https://hö/a", "https://[::1/a"),
        *("https://h/a/../b", "https://h/./b", "https://h/%2e%2e/b", "https://h/a%2fb", "https://h/a%5cb"),
        *("https://h/a%252fb", "https://h//b", "https://h/a//b", "https://h\\@x/a", "https://h/a b", "https://h/a\tb"),
        *("https://h/a\nb", " https://h/a", "https://h/a#x", "https://h/a#sha256=12", "https://h/%00"),
        *("s3://", "s3:///a", "s3://b/../c", "s3://b/a?x=1", "s3://u@b/c", "s3://b:1/c"),
        *("file:///etc/passwd", "local:///etc", "FILE:///etc/passwd", "data:text,x", "data://x/y"),
        *("zip://x::https://h/a", "simplecache::s3://b/a", "s3://b/a::file:///x", "reference://x/y", "dir://a/b"),
        *("gs://bucket/a::memory", "gs://b::simplecache/a"),
        "https://h/" + "x" * 5000,
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(text: str) -> None:
    with pytest.raises(SourceInvalid) as refusal:
        parse_uri(text)
    assert str(refusal.value).isprintable()
    assert "p@h" not in str(refusal.value)


OPEN = AllowList.of(["hf://org", "hf://one/repo@v1", "https://h:8443/a/b/", "s3://bucket/team", "gs://"])


@pytest.mark.parametrize(
    ("text", "is_open"),
    [
        ("hf://org/x", True),
        ("hf://org/x@v9/y", True),
        ("hf://organisation/x", False),
        ("hf://one/repo@v1/sub", True),
        ("hf://one/repo@v2", False),
        ("hf://one/repo", False),
        ("hf://one/repository@v1", False),
        ("https://h:8443/a/b/c.tgz", True),
        ("https://H:8443/%61/b/c.tgz", True),
        ("https://h:8443/a/bc.tgz", False),
        ("https://h:8443/A/b/c.tgz", False),
        ("https://h/a/b/c.tgz", False),
        ("http://h:8443/a/b/c.tgz", False),
        ("https://h.evil:8443/a/b/c.tgz", False),
        ("s3://bucket/team/x", True),
        ("s3://bucket/team-evil/x", False),
        ("s3://bucket/other/team/x", False),
        ("s3://bucket2/team/x", False),
        ("gs://any/x", True),
        ("az://any/x", False),
    ],
)
def test_an_allow_list_compares_part_by_part(text: str, is_open: bool) -> None:
    if is_open:
        OPEN.require(parse_uri(text))
    else:
        with pytest.raises(SourceForbidden, match="LORADOCK_SOURCE_PREFIXES"):
            OPEN.require(parse_uri(text))


@given(st.text(max_size=60), st.sampled_from(["https://h:8443/a/b/", "s3://bucket/team/", "hf://org/", ""]))
def test_no_text_gets_past_its_prefix(tail: str, head: str) -> None:
    try:
        uri = parse_uri(head + tail)
        OPEN.require(uri)
    except (SourceInvalid, SourceForbidden):
        return
    # Whatever is open is, read again from how it is shown, the same and below the prefix.
    assert (uri.scheme, uri.authority) in {("https", "h:8443"), ("s3", "bucket"), ("hf", "org"), ("gs", uri.authority)}
    assert not {"..", ".", ""} & set(uri.segments)


@pytest.mark.parametrize("prefix", ["https://", "http://", "file:///", "org", "s3:", "https://h/a?x=1", "hf:///x"])
def test_a_prefix_that_opens_too_much_or_nothing_is_refused(prefix: str) -> None:
    with pytest.raises(SourceInvalid):
        AllowList.of([prefix])


@pytest.mark.parametrize(
    ("text", "scheme"),
    [("C:\\adapters", None), ("/srv/a:b", None), ("a/b:c", None), ("Hf://x", "hf"), ("s3:x", "s3"), ("./x", None)],
)
def test_paths_are_told_from_addresses(text: str, scheme: str | None) -> None:
    assert scheme_of(text) == scheme


def test_a_local_folder_is_read_where_it_lies_and_an_archive_is_unpacked_beside(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "mine")
    archive = tmp_path / "mine.tgz"
    archive.write_bytes(tgz_bytes(entries_of(folder)))
    with fetched(str(folder), SourceRules()) as found:
        assert (found.folder, found.origin) == (folder, str(folder))
    assert folder.exists()
    with fetched(str(archive), SourceRules(), parent=tmp_path / "scratch") as found:
        assert (found.folder / "adapter_config.json").exists()
        assert found.origin == str(archive)
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize("name", ["missing", "plain.txt", "x" * 300])
def test_a_path_that_is_no_adapter_says_what_would_be(tmp_path: Path, name: str) -> None:
    (tmp_path / "plain.txt").write_text("x")
    with pytest.raises(SourceMissing, match="save_pretrained"), fetched(str(tmp_path / name), SourceRules()):
        pass
