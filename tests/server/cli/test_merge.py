"""`loradock merge` as a person and as a script see it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from typer.testing import Result

from tests.adapters.merging.conftest import MakeAdapter, data, make_adapter, one_thread, tiny_base

__all__ = ["data", "make_adapter", "one_thread", "tiny_base"]

Run = Callable[..., Result]


def test_one_adapter_becomes_a_model_and_both_ways_are_shown(
    loradock: Run, make_adapter: MakeAdapter, tiny_base: Path, tmp_path: Path, data: Path
) -> None:
    adapter = str(make_adapter("adapter", seed=1, trained_on="nf4"))
    common = ("merge", adapter, "--base", str(tiny_base), "--data", str(data), "--out")

    result = loradock(*common, str(tmp_path / "merged"))
    scripted = loradock(*common, str(tmp_path / "again"), "--json")

    assert result.exit_code == 0, result.output
    assert "merged onto the nf4 base" in result.stdout
    assert "from the adapter as trained" in result.stdout
    assert f"try: loradock serve --model {tmp_path / 'merged'}" in result.stdout
    assert [one["onto"] for one in json.loads(scripted.stdout)["tried"]] == ["bf16", "nf4"]


def test_several_adapters_become_one(loradock: Run, make_adapter: MakeAdapter, tiny_base: Path, tmp_path: Path) -> None:
    folders = [str(make_adapter(name, seed=seed)) for seed, name in enumerate(("one", "other"))]
    out = tmp_path / "both"

    result = loradock("merge", *folders, "--weights", "0.5,2", "--base", str(tiny_base), "--out", str(out), "--json")

    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["method"], found["weights"], found["rank"]) == ("cat", [0.5, 2.0], 8)
    assert loradock("adapters", "check", str(out), "--base", str(tiny_base)).exit_code == 0


def test_what_is_wrong_is_said(loradock: Run, make_adapter: MakeAdapter, tiny_base: Path, tmp_path: Path) -> None:
    one, other = (str(make_adapter(name, seed=1, trained_on="nf4")) for name in ("one", "other"))
    common = ("--base", str(tiny_base), "--out", str(tmp_path / "out"))

    for arguments, said in (
        ((one,), "must be measured"),
        ((one, other, "--weights", "1"), "--weights has 1 numbers for 2 adapters"),
        ((one, other, "--weights", "1,x"), "are no numbers"),
        ((one, "--data", str(tmp_path / "nothing")), "no data at"),
    ):
        result = loradock("merge", *arguments, *common)
        assert result.exit_code != 0
        assert said in result.stderr, result.stderr
    assert not (tmp_path / "out").exists()
