"""The strict reader of safetensors files, on sound and on hostile bytes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from loradock_adapters.errors import AdapterUnreadable
from loradock_adapters.safetensors_header import TensorFile
from tests.adapters.making import lora_tensors, safetensors_bytes

SOUND = safetensors_bytes({"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(2, np.float16)})
hostile = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=300, deadline=None
)


def entry(dtype: Any = "F32", shape: Any = (2, 3), offsets: Any = (0, 24)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def opened(folder: Path, data: bytes) -> TensorFile:
    path = folder / "weights.safetensors"
    path.write_bytes(data)
    return TensorFile.open(path)


def with_header(header: Any, data_bytes: int = 24) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(data_bytes)


def test_a_sound_file_gives_names_shapes_and_numbers(tmp_path: Path) -> None:
    file = opened(tmp_path, SOUND)
    assert {name: info.shape for name, info in file.tensors.items()} == {"a": (2, 3), "b": (2,)}
    assert file.metadata == {"format": "pt"}
    assert file.size_bytes == len(SOUND)
    np.testing.assert_array_equal(file.read("a"), [[0, 1, 2], [3, 4, 5]])
    assert file.read("b").dtype == np.float16


@given(st.lists(st.floats(width=32), min_size=1, max_size=8))
@hostile
def test_bfloat16_comes_as_the_float32_of_its_upper_half(tmp_path: Path, values: list[float]) -> None:
    exact = np.array(values, np.float32)
    halves = (exact.view(np.uint32) >> 16).astype(np.uint16)
    expected = (halves.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(opened(tmp_path, safetensors_bytes({"t": halves})).read("t"), expected)


def test_empty_tensors_and_empty_files_are_sound(tmp_path: Path) -> None:
    assert opened(tmp_path, safetensors_bytes({"none": np.zeros((0, 4), np.float32)})).read("none").shape == (
        0,
        4,
    )
    assert not opened(tmp_path, with_header({}, 0)).tensors


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "too few"),
        (b"\x10", "too few"),
        (SOUND[:-1], "end at byte"),
        (SOUND + b"x", "end at byte"),
        (SOUND[:60], "cut short"),
        ((1 << 63).to_bytes(8, "little") + b"{}", "at most"),
        (with_header([]), "not an object"),
        (with_header(b"\xff\xff"), "UTF-8"),
        (with_header(b'{"a": NaN}'), "NaN"),
        (with_header(b'{"a":1,"a":2}'), "twice"),
        (with_header(b'{"a":' * 100_000 + b"1" + b"}" * 100_000), "deep"),
        (with_header(b'{"a":' + b"9" * 10_000 + b"}"), "digits"),
        (with_header({"__metadata__": {"format": 1}}, 0), "strings"),
        (with_header({"a": {"dtype": "F32", "shape": [2, 3]}}), "data_offsets"),
        (with_header({"a": {**entry(), "extra": 1}}), "nothing else"),
        (with_header({"a": entry("F31")}), "unknown type"),
        (with_header({"a": entry(shape=(2, -3))}), "shape"),
        (with_header({"a": entry(shape=(2, 3.0))}), "shape"),
        (with_header({"a": entry(shape=(True, 6))}), "shape"),
        (with_header({"a": entry(shape=[1] * 9 + [6])}), "shape"),
        (with_header({"a": entry(shape=(1 << 40, 1 << 40))}), "needs"),
        (with_header({"a": entry(offsets=(24, 0))}), "needs 24 bytes"),
        (with_header({"a": entry(offsets=(0, 23))}), "needs 24 bytes"),
        (with_header({"a": entry(offsets=(0, 12, 24))}), "two positions"),
        (with_header({"a": entry(offsets=(4, 28))}, 28), "gap"),
        (with_header({"a": entry(), "b": entry(offsets=(12, 36))}, 36), "overlaps"),
        (with_header({"a": entry(), "b": entry()}), "overlaps"),
        (with_header({"a": entry()}, 20), "end at byte"),
    ],
)
def test_every_lie_in_a_header_is_told(tmp_path: Path, data: bytes, reason: str) -> None:
    with pytest.raises(AdapterUnreadable, match=reason) as caught:
        opened(tmp_path, data)
    assert caught.value.where == "weights.safetensors"
    assert len(str(caught.value)) < 400


def tiles_the_file(file: TensorFile, data: bytes) -> bool:
    position = 8 + int.from_bytes(data[:8], "little")
    for info in file.tensors.values():
        if info.start != position:
            return False
        position = info.end
    return position == len(data)


@given(st.data())
@hostile
def test_damaged_files_are_refused_or_still_sound_for_the_reference_reader_too(
    tmp_path: Path, data: st.DataObject
) -> None:
    damaged = bytearray(SOUND)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, max(0, len(damaged) - 1)))
        kind = data.draw(st.sampled_from(["change", "insert", "remove", "cut"]))
        if kind == "change":
            damaged[place : place + 1] = data.draw(st.binary(min_size=1, max_size=1))
        elif kind == "insert":
            damaged[place:place] = data.draw(st.binary(min_size=1, max_size=9))
        elif kind == "remove":
            del damaged[place : place + 1]
        else:
            del damaged[place:]
    _refused_or_sound(tmp_path, bytes(damaged))


sizes = st.integers(0, 8) | st.integers(-2, 1 << 70)
numbers = st.lists(sizes, max_size=4)
values = st.none() | st.booleans() | st.text(max_size=3) | sizes | st.floats() | numbers
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "U8", "f32"]) | values,
        "shape": numbers | values,
        "data_offsets": numbers,
    }
)


@given(st.dictionaries(st.text(max_size=4), entries | values, max_size=4), st.integers(0, 64))
@hostile
def test_invented_headers_are_refused_or_sound(tmp_path: Path, header: dict[str, Any], data_bytes: int) -> None:
    _refused_or_sound(tmp_path, with_header(header, data_bytes))


@given(st.binary(max_size=200))
@hostile
def test_bytes_at_random_are_refused(tmp_path: Path, data: bytes) -> None:
    _refused_or_sound(tmp_path, data)


def _refused_or_sound(folder: Path, data: bytes) -> None:
    try:
        file = opened(folder, data)
    except AdapterUnreadable:
        return
    assert tiles_the_file(file, data)
    with safe_open(folder / "weights.safetensors", framework="np") as reference:
        assert set(reference.keys()) == set(file.tensors)
        for name, info in file.tensors.items():
            assert tuple(reference.get_slice(name).get_shape()) == info.shape


def test_a_named_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(AdapterUnreadable, match="regular file"):
        TensorFile.open(tmp_path / "pipe")


def test_a_file_that_shrinks_after_its_header_was_read_is_noticed(tmp_path: Path) -> None:
    file = opened(tmp_path, SOUND)
    (tmp_path / "weights.safetensors").write_bytes(SOUND[:-10])
    with pytest.raises(AdapterUnreadable, match="shorter"):
        file.read("b")


def test_integers_are_listed_but_not_read_as_weights(tmp_path: Path) -> None:
    file = opened(tmp_path, safetensors_bytes({"ids": np.zeros(2, np.int32)}))
    with pytest.raises(AdapterUnreadable, match="I32"):
        file.read("ids")


def test_reading_one_tensor_takes_only_its_own_bytes(tmp_path: Path) -> None:
    tensors = {name: np.full_like(array, index) for index, (name, array) in enumerate(lora_tensors().items())}
    file = opened(tmp_path, safetensors_bytes(tensors))
    for name, array in tensors.items():
        np.testing.assert_array_equal(file.read(name), array)
