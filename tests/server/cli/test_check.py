"""`adapters check` judges real files offline: a small base model and adapters made here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import Result

from tests.adapters.making import lora_config, lora_tensors, write_adapter, write_base

Run = Callable[..., Result]
A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_base(tmp_path)


def test_a_good_adapter_is_exit_code_0_with_its_facts_and_the_next_step(
    loradock: Run, base: Path, tmp_path: Path
) -> None:
    folder = write_adapter(tmp_path / "good")

    result = loradock("adapters", "check", str(folder), "--base", str(base))

    assert result.exit_code == 0, result.output
    assert "fits" in result.stdout
    assert f"try: loradock adapters register NAME {folder}" in result.stdout


def test_a_bad_adapter_is_exit_code_1_with_every_fault_in_the_table(loradock: Run, base: Path, tmp_path: Path) -> None:
    folder = write_adapter(
        tmp_path / "bad", config=lora_config(rank=8), tensors=lora_tensors(8) | {A: np.ones((8, 17), np.float32)}
    )

    result = loradock("adapters", "check", str(folder), "--base", str(base), "--max-rank", "4")

    assert result.exit_code == 1
    heading, *rows = result.stdout.splitlines()[1:]
    assert heading.split() == ["code", "where", "value", "limit", "fix"]
    assert any("rank" in row and "8" in row and "4" in row for row in rows)
    assert any("lora_A" in row and "17" in row for row in rows)
    assert "register" not in result.stdout


def test_json_says_the_same_to_programs(loradock: Run, base: Path, tmp_path: Path) -> None:
    good = loradock("adapters", "check", str(write_adapter(tmp_path / "good")), "--base", str(base), "--json")
    bad = loradock(
        "adapters",
        "check",
        str(write_adapter(tmp_path / "bad", config=lora_config(rank=3))),
        "--base",
        str(base),
        "--json",
    )

    assert (good.exit_code, bad.exit_code) == (0, 1)
    said = json.loads(good.stdout)
    assert (said["ok"], said["rank"], said["base"]["name"]) == (True, 2, "tiny")
    fault = json.loads(bad.stdout)["faults"][0]
    assert {"code", "where", "value", "limit", "fix"} <= fault.keys()


def test_without_a_base_model_nothing_is_judged_and_the_ways_out_are_named(loradock: Run, tmp_path: Path) -> None:
    result = loradock("adapters", "check", str(write_adapter(tmp_path / "good")))

    assert result.exit_code == 2
    for way_out in ("loradock base fetch", "--base DIR"):
        assert way_out in result.stderr


def test_no_base_compares_less_and_says_so(loradock: Run, tmp_path: Path) -> None:
    result = loradock("adapters", "check", str(write_adapter(tmp_path / "good")), "--no-base")

    assert result.exit_code == 0
    assert "warning: no base model" in result.stdout


def test_a_path_that_is_no_folder_is_exit_code_2(loradock: Run, base: Path, tmp_path: Path) -> None:
    result = loradock("adapters", "check", str(tmp_path / "nowhere"), "--base", str(base), "--json")

    assert result.exit_code == 2
    assert "does not exist" in json.loads(result.stdout)["error"]["message"]


def test_a_base_that_is_no_model_is_exit_code_2(loradock: Run, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "good")

    result = loradock("adapters", "check", str(folder), "--base", str(folder))

    assert result.exit_code == 2
    assert "config.json" in result.stderr


def test_names_from_a_strangers_file_cannot_colour_the_terminal(loradock: Run, base: Path, tmp_path: Path) -> None:
    hostile = {"evil\x1b[2J\u202e": np.ones((2, 2), np.float32)}
    folder = write_adapter(tmp_path / "bad", tensors=lora_tensors() | hostile)

    result = loradock("adapters", "check", str(folder), "--base", str(base))

    assert result.exit_code == 1
    assert "evil" in result.stdout
    assert "\x1b" not in result.stdout
    assert "\u202e" not in result.stdout


def test_fix_writes_a_repaired_folder_says_what_it_did_and_checks_that_one(
    loradock: Run, base: Path, tmp_path: Path
) -> None:
    tensors = {name.removeprefix("base_model.model."): array for name, array in lora_tensors().items()}
    folder, out = write_adapter(tmp_path / "bad", tensors=tensors), tmp_path / "fixed"

    judged = loradock("adapters", "check", str(folder), "--base", str(base))
    fixed = loradock("adapters", "check", str(folder), "--base", str(base), "--fix", str(out), "--json")
    again = loradock("adapters", "check", str(out), "--base", str(base))
    twice = loradock("adapters", "check", str(folder), "--base", str(base), "--fix", str(out))

    assert (judged.exit_code, fixed.exit_code, again.exit_code, twice.exit_code) == (1, 0, 0, 1)
    assert f"try: loradock adapters check {folder} --fix {folder}-fixed" in judged.stdout
    said = json.loads(fixed.stdout)
    assert (said["ok"], said["path"]) == (True, str(out))
    assert "12 tensors were renamed" in said["repaired"][0]
    assert "exists" in twice.stderr


def test_fix_of_what_no_repair_can_change_writes_nothing_and_says_so(loradock: Run, base: Path, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "bad", config=lora_config(use_dora=True))

    result = loradock("adapters", "check", str(folder), "--base", str(base), "--fix", str(tmp_path / "fixed"))

    assert result.exit_code == 1
    assert "nothing was written" in result.stdout
    assert "dora" in result.stdout
    assert not (tmp_path / "fixed").exists()


def test_a_file_that_cannot_be_read_is_exit_code_2_with_the_other_faults_beside_it(
    loradock: Run, base: Path, tmp_path: Path
) -> None:
    folder = write_adapter(tmp_path / "bad", tensors=lora_tensors() | {A: np.ones((2, 17), np.float32)})
    (folder / "adapter_config.json").unlink()
    (folder / "adapter_config.json").mkdir()

    result = loradock("adapters", "check", str(folder), "--base", str(base), "--json")

    assert result.exit_code == 2
    assert {fault["code"] for fault in json.loads(result.stdout)["faults"]} == {"unreadable", "shape"}
