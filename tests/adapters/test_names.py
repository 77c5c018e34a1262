"""How names are spelt and read."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loradock_adapters.errors import AdapterError, InvalidName
from loradock_adapters.names import LIVE, AdapterRef, ModelName, validate_alias, validate_name

ALLOWED = set("abcdefghijklmnopqrstuvwxyz0123456789._-")
valid_names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True).filter(lambda n: n not in {"base", "other"})
versions = st.integers(1, 999_999_999)
# Text that is nearly a name finds more than text at random.
nearly = st.text(alphabet="abz09._-@/: A\n\0\u0660\u00df", max_size=70) | st.text(max_size=70)


@settings(deadline=None)
@given(valid_names)
def test_a_well_spelt_name_comes_back_unchanged(name: str) -> None:
    assert validate_name(name) == name


@settings(deadline=None)
@given(nearly)
def test_what_passes_as_a_name_is_harmless_in_paths_urls_and_labels(text: str) -> None:
    try:
        validate_name(text)
    except InvalidName:
        return
    assert set(text) <= ALLOWED
    assert 1 <= len(text) <= 63
    assert PurePosixPath(text).parts == (text,)


@pytest.mark.parametrize(
    "name", ["", "A", "-a", ".a", "a/b", "a:b", "a@1", "a b", "a\n", "a" * 64, "\u0660", "base", "other"]
)
def test_a_badly_spelt_or_reserved_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidName):
        validate_name(name)


def test_a_refused_name_is_shown_but_never_at_length() -> None:
    with pytest.raises(InvalidName, match=r"'Support Bot'.*a-z") as caught:
        validate_name("Support Bot")
    assert isinstance(caught.value, AdapterError)
    assert isinstance(caught.value, ValueError)
    with pytest.raises(InvalidName) as long:
        validate_name("x" * 100_000)
    assert len(str(long.value)) < 300


@settings(deadline=None)
@given(valid_names, versions)
def test_an_adapter_id_reads_back_as_the_same_version(name: str, version: int) -> None:
    ref = AdapterRef(name, version)
    assert ref.id == str(ref) == f"{name}@{version}"
    assert AdapterRef.parse(ref.id) == ref
    assert ModelName.parse(ref.id) == ModelName(name, version, None)


@settings(deadline=None)
@given(nearly)
def test_every_string_is_either_one_model_or_refused(text: str) -> None:
    try:
        model = ModelName.parse(text)
    except InvalidName:
        return
    assert (model.version is None) != (model.alias is None)
    assert ModelName.parse(str(model)) == model


def test_a_plain_name_means_its_live_alias() -> None:
    assert ModelName.parse("support-bot") == ModelName("support-bot", None, LIVE)
    assert ModelName.parse("support-bot@canary") == ModelName("support-bot", None, "canary")


@pytest.mark.parametrize(
    "text", ["a@", "@1", "a@0", "a@03", "a@-1", "a@1@2", "a@1.5@x", "a@9999999999", "a@\u0663", "a@1\n"]
)
def test_a_version_is_a_plain_positive_number(text: str) -> None:
    with pytest.raises(InvalidName):
        ModelName.parse(text)


def test_an_id_without_a_version_is_no_id() -> None:
    with pytest.raises(InvalidName, match="name@3"):
        AdapterRef.parse("support-bot")


def test_an_alias_may_not_look_like_a_version() -> None:
    assert validate_alias("v2") == "v2"
    with pytest.raises(InvalidName):
        validate_alias("2")
