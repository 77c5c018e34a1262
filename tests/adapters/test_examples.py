"""The example adapters as they are committed: data without leaks, figures that the program wrote, adapters measured."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from loradock_adapters.digest import folder_digest
from loradock_adapters.training.data import read_examples
from loradock_adapters.training.duplicates import asked_text, near_pairs

EXAMPLES = Path(__file__).parents[2] / "adapters" / "examples"
FOLDERS = [EXAMPLES / name for name in ("change-numbers", "home-commands", "mail-triage", "python-docstrings")]
each = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


@pytest.fixture(scope="module")
def program() -> ModuleType:
    """What `make examples` runs."""
    spec = importlib.util.spec_from_file_location("make_examples", EXAMPLES / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkey = pytest.MonkeyPatch()
    monkey.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    finally:
        monkey.undo()
    return module


def result(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize(
    "folder", [folder for folder in FOLDERS if (folder / "data/train.jsonl").exists()], ids=lambda folder: folder.name
)
def test_no_held_out_question_is_trained_on_or_nearly(folder: Path) -> None:
    pytest.importorskip("datasketch")
    train = [asked_text(one) for one in read_examples(folder / "data/train.jsonl").examples]
    held_out = [asked_text(one) for one in read_examples(folder / "data/held_out.jsonl").examples]
    assert len(train) >= 500
    assert len(held_out) >= 150
    assert not set(held_out) & set(train)
    assert near_pairs(held_out, train) == []


@each
def test_the_result_is_of_the_data_and_of_the_adapter_that_are_here(folder: Path) -> None:
    found = result(folder)
    assert found["count"] >= 150
    for measured in found["measured"].values():
        for role in ("base", "prompted", "adapter"):
            assert measured[role]["low"] <= measured[role]["mean"] <= measured[role]["high"]
    if (folder / "data/held_out.jsonl").exists():
        assert found["data_sha256"] == read_examples(folder / "data/held_out.jsonl").digest
    if (folder / "adapter").is_dir():
        served = ("adapter_config.json", "adapter_model.safetensors", "manifest.json")  # what a server keeps of it
        assert found["adapter_digest"] == folder_digest(folder / "adapter", served)
        assert (folder / "adapter/adapter_model.safetensors").stat().st_size < 2_000_000


@each
def test_the_figures_in_the_readmes_are_what_the_program_writes_from_the_results(
    folder: Path, program: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    copy = root / "adapters/examples"
    for name in program.TASKS:
        (copy / name).mkdir(parents=True)
        for file in ("README.md", "result.json"):  # of all, as the tables leave out what is not measured
            (copy / name / file).write_bytes((EXAMPLES / name / file).read_bytes())
    (copy / "README.md").write_bytes((EXAMPLES / "README.md").read_bytes())
    (root / "README.md").write_bytes((EXAMPLES.parents[1] / "README.md").read_bytes())
    monkeypatch.setattr(program, "EXAMPLES", copy)
    monkeypatch.setattr(program, "ROOT", root)

    program.write_readme(folder.name)
    program.write_tables()

    assert (copy / folder.name / "README.md").read_text() == (EXAMPLES / folder.name / "README.md").read_text()
    assert (copy / "README.md").read_text() == (EXAMPLES / "README.md").read_text()
    assert (root / "README.md").read_text() == (EXAMPLES.parents[1] / "README.md").read_text()


def test_one_example_is_a_clear_win_over_prompting_and_one_is_none() -> None:
    verdicts = {folder.name: result(folder)["verdict"]["kind"] for folder in FOLDERS}
    assert verdicts["home-commands"] == "promote"
    assert verdicts["change-numbers"] == "dont"
