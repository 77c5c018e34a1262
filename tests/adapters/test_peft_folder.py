"""Reading an adapter folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loradock_adapters.errors import AdapterUnreadable
from loradock_adapters.peft_folder import PeftFolder
from tests.adapters.making import lora_config, write_adapter


def test_a_folder_gives_its_own_files_and_leaves_the_trainers(tmp_path: Path) -> None:
    write_adapter(tmp_path / "a")
    (tmp_path / "a" / "README.md").write_text("# Mine")
    (tmp_path / "a" / "manifest.json").write_text(json.dumps({"recipe": "x"}))
    (tmp_path / "a" / "optimizer.pt").write_bytes(b"pickle")
    (tmp_path / "a" / "checkpoint-1").mkdir()
    adapter = PeftFolder.read(tmp_path / "a")
    assert adapter.files == ("README.md", "adapter_config.json", "adapter_model.safetensors", "manifest.json")
    assert adapter.ignored == ("checkpoint-1", "optimizer.pt")
    assert adapter.config["r"] == 2
    assert adapter.manifest == {"recipe": "x"}
    assert len(adapter.tensors.tensors) == 12
    assert adapter.size_bytes == sum((adapter.folder / name).stat().st_size for name in adapter.files)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (b"", "not JSON"),
        (b"[]", "not an object"),
        (b'{"r": 8, "r": 64}', "'r' appears twice"),
        (b'{"r": NaN}', "NaN"),
        (b'{"r": Infinity}', "Infinity"),
        (b"\xff", "UTF-8"),
        (b"[" * 200_000, "deep"),
        (json.dumps(lora_config(comment="x" * (1 << 20))).encode(), "larger"),
    ],
)
def test_a_configuration_is_read_strictly(tmp_path: Path, config: bytes, reason: str) -> None:
    with pytest.raises(AdapterUnreadable, match=reason) as caught:
        PeftFolder.read(write_adapter(tmp_path, config=config))
    assert caught.value.where == "adapter_config.json"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    write_adapter(tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(AdapterUnreadable, match=r"adapter_model\.safetensors.*missing"):
        PeftFolder.read(tmp_path)
    with pytest.raises(AdapterUnreadable, match="No such file"):
        PeftFolder.read(tmp_path / "absent")
