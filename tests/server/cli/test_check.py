"""`adapters check` judges real files offline: a small base model and adapters made here."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import Result

Run = Callable[..., Result]
Q_PROJ = "model.layers.0.self_attn.q_proj"


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    header: dict[str, Any] = {}
    offset = 0
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": "F32",
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(tensor.tobytes() for tensor in tensors.values()))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny-base"
    folder.mkdir()
    config = {"architectures": ["LlamaForCausalLM"], "vocab_size": 32, "dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config))
    write_safetensors(folder / "model.safetensors", {f"{Q_PROJ}.weight": np.ones((16, 16), np.float32)})
    return folder


def make_adapter(folder: Path, *, rank: int = 4, width: int = 16) -> Path:
    folder.mkdir()
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": 8,
        "target_modules": ["q_proj"],
        "base_model_name_or_path": "tiny-base",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    prefix = f"base_model.model.{Q_PROJ}"
    write_safetensors(
        folder / "adapter_model.safetensors",
        {
            f"{prefix}.lora_A.weight": np.full((rank, width), 0.5, np.float32),
            f"{prefix}.lora_B.weight": np.full((16, rank), 0.5, np.float32),
        },
    )
    return folder


def test_a_good_adapter_is_exit_code_0_with_its_facts_and_the_next_step(
    loradock: Run, base: Path, tmp_path: Path
) -> None:
    folder = make_adapter(tmp_path / "good")

    result = loradock("adapters", "check", str(folder), "--base", str(base))

    assert result.exit_code == 0, result.output
    assert "fits" in result.stdout
    assert f"try: loradock adapters register NAME {folder}" in result.stdout


def test_a_bad_adapter_is_exit_code_1_with_every_fault_in_the_table(loradock: Run, base: Path, tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "bad", rank=8, width=17)

    result = loradock("adapters", "check", str(folder), "--base", str(base), "--max-rank", "4")

    assert result.exit_code == 1
    heading, *rows = result.stdout.splitlines()[1:]
    assert heading.split() == ["code", "where", "value", "limit", "fix"]
    assert any("rank" in row and "8" in row and "4" in row for row in rows)
    assert any("lora_A" in row and "17" in row and "16" in row for row in rows)
    assert "register" not in result.stdout


def test_json_says_the_same_to_programs(loradock: Run, base: Path, tmp_path: Path) -> None:
    good = loradock("adapters", "check", str(make_adapter(tmp_path / "good")), "--base", str(base), "--json")
    bad = loradock("adapters", "check", str(make_adapter(tmp_path / "bad", width=17)), "--base", str(base), "--json")

    assert (good.exit_code, bad.exit_code) == (0, 1)
    said = json.loads(good.stdout)
    assert (said["ok"], said["rank"], said["base"]["name"]) == (True, 4, "tiny-base")
    fault = json.loads(bad.stdout)["faults"][0]
    assert {"code", "where", "value", "limit", "fix"} <= fault.keys()


def test_without_a_base_model_nothing_is_judged_and_the_ways_out_are_named(loradock: Run, tmp_path: Path) -> None:
    result = loradock("adapters", "check", str(make_adapter(tmp_path / "good")))

    assert result.exit_code == 2
    for way_out in ("loradock base fetch", "--base DIR"):
        assert way_out in result.stderr


def test_no_base_compares_less_and_says_so(loradock: Run, tmp_path: Path) -> None:
    result = loradock("adapters", "check", str(make_adapter(tmp_path / "good")), "--no-base")

    assert result.exit_code == 0
    assert "warning: no base model" in result.stdout


def test_a_path_that_is_no_folder_is_exit_code_2(loradock: Run, base: Path, tmp_path: Path) -> None:
    result = loradock("adapters", "check", str(tmp_path / "nowhere"), "--base", str(base), "--json")

    assert result.exit_code == 2
    assert "does not exist" in json.loads(result.stdout)["error"]["message"]


def test_a_base_that_is_no_model_is_exit_code_2(loradock: Run, tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "good")

    result = loradock("adapters", "check", str(folder), "--base", str(folder))

    assert result.exit_code == 2
    assert "config.json" in result.stderr


def test_names_from_a_strangers_file_cannot_colour_the_terminal(loradock: Run, base: Path, tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "bad")
    write_safetensors(folder / "adapter_model.safetensors", {"evil\x1b[2J\u202e": np.ones((2, 2), np.float32)})

    result = loradock("adapters", "check", str(folder), "--base", str(base))

    assert result.exit_code == 1
    assert "evil" in result.stdout
    assert "\x1b" not in result.stdout
    assert "\u202e" not in result.stdout
