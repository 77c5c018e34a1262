"""The check on hand-made adapters: each fault is found, named, and told together with the others."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loradock_adapters.base_model import BaseModel
from loradock_adapters.check import Fault, Limits, Report, check_adapter
from loradock_adapters.errors import AdapterRejected
from tests.adapters.making import LINEAR, lora_config, lora_tensors, write_adapter, write_base

Q = "base_model.model.model.layers.0.self_attn.q_proj"
LIMITS = Limits(max_rank=8, max_bytes=1 << 20)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return BaseModel.read(write_base(tmp_path_factory.mktemp("base")))


def codes(report: Report) -> set[str]:
    return {fault.code for fault in report.faults}


def checked(folder: Path, base: BaseModel | None, **made: Any) -> Report:
    return check_adapter(write_adapter(folder, **made), base, LIMITS)


def test_a_sound_adapter_has_no_fault_and_its_facts_are_measured(tmp_path: Path, base: BaseModel) -> None:
    report = checked(tmp_path, base)
    assert report.ok
    assert report.warnings == ()
    assert (report.rank, report.alpha) == (2, 4.0)
    assert report.target_modules == ("down_proj", "q_proj", "v_proj")
    assert report.parameters == sum(array.size for array in lora_tensors().values())
    assert report.size_bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    report.raise_if_faulty()


def with_tower(base: BaseModel, *parts: str) -> BaseModel:
    """The base with the layers under these names moved to what answers no text."""
    tower = {name: shape for name, shape in base.modules.items() if name.startswith(parts)}
    return replace(base, modules={name: s for name, s in base.modules.items() if name not in tower}, others=tower)


def test_weights_of_a_tower_are_left_out_with_a_note_and_must_fit_all_the_same(tmp_path: Path, base: BaseModel) -> None:
    tower = with_tower(base, "model.layers.1.")
    report = checked(tmp_path / "good", tower)
    assert report.ok
    assert [note.code for note in report.notes] == ["not_applied"]
    assert "3 modules have no part in answers to text" in report.warnings[0]
    wrong = {**lora_tensors(), "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight": np.ones((2, 9), "f4")}
    assert codes(checked(tmp_path / "wrong", tower, tensors=wrong)) == {"shape"}


def test_an_adapter_of_a_tower_alone_is_refused(tmp_path: Path, base: BaseModel) -> None:
    assert codes(checked(tmp_path, with_tower(base, "model."))) == {"no_effect"}


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("use_dora", True, "dora"),
        ("bias", "all", "bias"),
        ("lora_bias", True, "lora_bias"),
        ("modules_to_save", ["lm_head"], "modules_to_save"),
        ("trainable_token_indices", [1, 2], "trainable_tokens"),
        ("layer_replication", [[0, 2]], "layer_replication"),
        ("alora_invocation_tokens", [5], "alora"),
        ("target_parameters", ["mlp.experts.gate_up_proj"], "target_parameters"),
        ("use_qalora", True, "qalora"),
        ("use_bdlora", {"nblocks": 2}, "bd_lora"),
        ("init_lora_weights", "pissa", "unconverted_init"),
        ("init_lora_weights", "loftq", "unconverted_init"),
        ("kasa_config", {"beta": 1}, "variant"),
    ],
)
def test_a_feature_the_engine_does_not_have_is_refused(
    tmp_path: Path, base: BaseModel, field: str, value: Any, code: str
) -> None:
    report = checked(tmp_path, base, config=lora_config(**{field: value}))
    assert codes(report) == {code}
    assert report.faults[0].value.startswith(f"{field} is ")


@pytest.mark.parametrize(
    "fields",
    [
        {"init_lora_weights": "gaussian"},
        {"use_rslora": True},
        {"lora_dropout": 0.1, "peft_version": "0.21.2", "some_future_note": "x"},
        {"target_modules": r".*\.(q|v|down)_proj"},
        {"alpha_pattern": {"q_proj": 16}},
        {"rank_pattern": {"layers": 7, "q_pro": 7, "proj": 7}},  # patterns fit whole names at the end, none here
        {"modules_to_save": None, "use_dora": False, "loftq_config": {}, "bias": "none"},
    ],
)
def test_what_changes_nothing_for_the_engine_is_let_through(tmp_path: Path, base: BaseModel, fields: Any) -> None:
    assert checked(tmp_path, base, config=lora_config(**fields)).faults == ()


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"peft_type": "LOHA"}, "peft_type"),
        ({"peft_type": ["LORA"]}, "peft_type"),
        ({"r": 0}, "config_value"),
        ({"r": "8"}, "config_value"),
        ({"r": True}, "config_value"),
        ({"r": 8.0}, "config_value"),
        ({"lora_alpha": 0}, "config_value"),
        ({"lora_alpha": None}, "config_value"),
        ({"lora_alpha": 10**400}, "config_value"),
        ({"target_modules": None}, "config_value"),
        ({"target_modules": []}, "config_value"),
        ({"target_modules": [1]}, "config_value"),
        ({"rank_pattern": [1]}, "config_value"),
        ({"rank_pattern": {"q_proj": -1}}, "config_value"),
        ({"alpha_pattern": {"q_proj": "x"}}, "config_value"),
        ({"rank_pattern": {"(a+)+b": 4}}, "pattern"),
        ({"alpha_pattern": {"(a|a)*b": 4}}, "pattern"),
        ({"rank_pattern": {".*.*.*.*x": 4}}, "pattern"),
        ({"rank_pattern": {"x" * 300: 4}}, "pattern"),
        ({"rank_pattern": {"[": 4}}, "pattern"),
        ({"rank_pattern": {str(i): 4 for i in range(3000)}}, "pattern"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(
    tmp_path: Path, base: BaseModel, fields: dict[str, Any], code: str
) -> None:
    assert code in codes(checked(tmp_path, base, config={**lora_config(), **fields}))


def test_a_rank_above_the_limit_is_told_with_value_limit_and_fix(tmp_path: Path, base: BaseModel) -> None:
    report = checked(tmp_path, base, config=lora_config(9), tensors=lora_tensors(9))
    assert codes(report) == {"rank"}
    assert report.faults[0].message == (
        "adapter_config.json: rank 9; this server allows 8; raise LORADOCK_MAX_RANK, or train with a lower r"
    )


def test_a_higher_rank_hidden_in_a_pattern_counts_too(tmp_path: Path, base: BaseModel) -> None:
    tensors = lora_tensors(2)
    tensors[f"{Q}.lora_A.weight"], tensors[f"{Q}.lora_B.weight"] = np.ones((9, 8)), np.ones((8, 9))
    tensors = {name: array.astype(np.float32) for name, array in tensors.items()}
    config = lora_config(rank_pattern={r"layers\.0\.self_attn\.q_proj": 9})
    assert codes(checked(tmp_path, base, config=config, tensors=tensors)) == {"rank"}
    assert check_adapter(tmp_path, base, Limits(max_rank=9)).ok
    assert check_adapter(tmp_path, base, Limits(max_rank=9)).rank == 9


def changed(**changes: Any) -> dict[str, Any]:
    """The sound tensors with some replaced, or removed where the value is None. Names are short for layer 0's q."""
    tensors: dict[str, Any] = dict(lora_tensors())
    for side, array in changes.items():
        if array is None:
            del tensors[f"{Q}.lora_{side}.weight"]
        else:
            tensors[f"{Q}.lora_{side}.weight"] = array
    return tensors


def ones(*shape: int) -> Any:
    return np.ones(shape, np.float32)


@pytest.mark.parametrize(
    ("tensors", "code"),
    [
        ({}, "no_tensors"),
        (changed(A=None), "incomplete_pair"),
        (changed(B=None), "incomplete_pair"),
        (changed(A=None, B=None), "missing_tensors"),
        (changed(A=ones(2, 9)), "shape"),
        (changed(B=ones(9, 2)), "shape"),
        (changed(A=ones(8, 2), B=ones(2, 8)), "shape"),
        (changed(A=ones(2, 8, 1)), "shape"),
        (changed(A=ones(3, 8), B=ones(8, 3)), "rank_mismatch"),
        (changed(A=np.ones((2, 8), np.int32)), "dtype"),
        (changed(A=np.ones((2, 8), np.float64)), "dtype"),
        (changed(A=np.full((2, 8), np.nan, np.float32)), "not_finite"),
        (changed(B=np.array([[np.inf, 0]] * 8, np.float16)), "not_finite"),
        (changed(B=np.full((8, 2), 0x7F80, np.uint16)), "not_finite"),  # infinity in BF16
        ({name: array * ("lora_A" in name) for name, array in lora_tensors().items()}, "no_effect"),
        ({**lora_tensors(), "base_model.model.lm_head.lora_A.weight": ones(2, 8)}, "embedding"),
        ({**lora_tensors(), "base_model.model.model.embed_tokens.lora_embedding_A": ones(2, 32)}, "embedding"),
        ({**lora_tensors(), f"{Q}.lora_magnitude_vector.weight": ones(8)}, "dora"),
        ({**lora_tensors(), f"{Q}.lora_A.default.weight": ones(2, 8)}, "unknown_tensor"),
        ({**lora_tensors(), f"{Q}.lora_B.bias": ones(8)}, "lora_bias"),
        ({name.removeprefix("base_model.model."): array for name, array in lora_tensors().items()}, "key_names"),
        ({name.replace("model.model.model", "model.model"): a for name, a in lora_tensors().items()}, "key_names"),
        ({name.replace("layers.1", "layers.7"): array for name, array in lora_tensors().items()}, "unknown_module"),
        ({f"base_model.model.{name}": array for name, array in lora_tensors().items()}, "key_names"),
    ],
)
def test_tensors_that_would_not_do_what_was_trained_are_refused(
    tmp_path: Path, base: BaseModel, tensors: dict[str, Any], code: str
) -> None:
    assert code in codes(checked(tmp_path, base, tensors=tensors))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_half_and_full_precision_are_served(tmp_path: Path, base: BaseModel, dtype: Any) -> None:
    assert checked(tmp_path, base, tensors={n: a.astype(dtype) for n, a in lora_tensors().items()}).ok


def test_some_zero_b_are_fine_as_long_as_one_is_not(tmp_path: Path, base: BaseModel) -> None:
    assert checked(tmp_path, base, tensors=changed(B=np.zeros((8, 2), np.float32))).ok


def test_a_module_missing_in_one_layer_is_refused_unless_the_layers_were_chosen(
    tmp_path: Path, base: BaseModel
) -> None:
    first_only = {name: array for name, array in lora_tensors().items() if ".layers.0." in name}
    assert codes(checked(tmp_path, base, tensors=first_only)) == {"missing_tensors"}
    assert checked(tmp_path, base, config=lora_config(layers_to_transform=[0]), tensors=first_only).ok


def test_tensors_that_the_configuration_does_not_target_are_refused(tmp_path: Path, base: BaseModel) -> None:
    assert codes(checked(tmp_path, base, config=lora_config(target_modules=["q_proj", "v_proj"]))) == {
        "untargeted_tensors"
    }


def test_a_target_that_no_model_part_has_is_only_worth_a_warning(tmp_path: Path, base: BaseModel) -> None:
    targets = [*(name.rpartition(".")[2] for name in LINEAR), "query_key_value"]
    report = checked(tmp_path, base, config=lora_config(target_modules=targets))
    assert report.ok
    assert "query_key_value" in report.warnings[0]


def test_embeddings_among_the_targets_are_refused(tmp_path: Path, base: BaseModel) -> None:
    config = lora_config(target_modules=[*lora_config()["target_modules"], "lm_head"])
    assert codes(checked(tmp_path, base, config=config)) == {"embedding"}


def test_every_fault_is_found_in_one_pass(tmp_path: Path, base: BaseModel) -> None:
    config = lora_config(16, use_dora=True, lora_alpha=-1)
    tensors = changed(A=np.full((16, 9), np.nan, np.float32), B=None)
    report = checked(tmp_path, base, config=config, tensors=tensors)
    expected = {
        "dora",
        "config_value",
        "rank",
        "incomplete_pair",
        "shape",
        "rank_mismatch",
        "not_finite",
    }
    assert codes(report) == expected
    with pytest.raises(AdapterRejected, match="faults:") as caught:
        report.raise_if_faulty()
    assert caught.value.report is report
    for fault in report.faults:
        assert fault.message in str(caught.value)
        assert "" not in (fault.where, fault.value, fault.limit, fault.fix)


def test_a_bad_configuration_does_not_hide_bad_tensors(tmp_path: Path, base: BaseModel) -> None:
    report = checked(tmp_path, base, config=b"{", tensors=changed(A=ones(2, 9)))
    assert codes(report) == {"bad_json", "shape"}
    assert {fault.where for fault in report.faults if fault.code == "bad_json"} == {"adapter_config.json"}


def test_a_thousand_equal_faults_are_told_shortly_and_quickly(tmp_path: Path, base: BaseModel) -> None:
    tensors = {f"base_model.model.model.layers.{n}.x_proj.lora_A.weight": ones(2, 1) for n in range(2000)}
    started = time.monotonic()
    report = checked(tmp_path, base, tensors=tensors)
    assert time.monotonic() - started < 10
    unknown = [fault for fault in report.faults if fault.code == "unknown_module"]
    assert len(unknown) == 6
    assert unknown[-1].where == "1995 more"
    assert len(json.dumps(report.as_dict())) < 20_000


def test_lists_and_patterns_as_long_as_json_allows_are_judged(tmp_path: Path, base: BaseModel) -> None:
    targets = [*lora_config()["target_modules"], *(f"t{number}" for number in range(60_000))]
    strangers = {f"base_model.model.x.{n}.{'a.' * 60}q.lora_A.weight": ones(1, 1) for n in range(10_000)}
    patterns = {rf"q{n}\.[a-z]*": 4 for n in range(60)}
    config = lora_config(target_modules=targets, exclude_modules=targets[10:20_000], alpha_pattern=patterns)
    report = checked(tmp_path, base, config=config, tensors={**lora_tensors(), **strangers})
    assert codes(report) == {"too_large", "unknown_module", "incomplete_pair"}
    assert [note.code for note in report.notes] == ["unused_target"]
    assert len(json.dumps(report.as_dict())) < 20_000


def test_the_nearest_module_is_named_for_an_unknown_one(tmp_path: Path, base: BaseModel) -> None:
    tensors = {name.replace("q_proj", "q_porj"): array for name, array in lora_tensors().items()}
    report = checked(tmp_path, base, tensors=tensors)
    assert any("its nearest is model.layers.0.self_attn.q_proj" in fault.limit for fault in report.faults)


def test_control_characters_in_a_strangers_names_are_not_printed(tmp_path: Path, base: BaseModel) -> None:
    report = checked(tmp_path, base, tensors={**lora_tensors(), "\x1b[31m\n" + "x" * 5000: ones(1)})
    assert codes(report) == {"unknown_tensor"}
    assert report.faults[0].message.isprintable()
    assert len(report.faults[0].message) < 500


def test_files_that_are_no_part_of_an_adapter_are_left_out_with_a_warning(tmp_path: Path, base: BaseModel) -> None:
    write_adapter(tmp_path)
    for name in ("tokenizer.json", "training_args.bin"):
        (tmp_path / name).write_bytes(b"x" * (2 << 20))
    report = check_adapter(tmp_path, base, LIMITS)
    assert report.ok
    assert [note.code for note in report.notes] == ["pickle_beside", "other_files"]
    assert "training_args.bin" in report.warnings[0]
    assert "tokenizer.json" in report.warnings[1]


def test_pickled_weights_are_refused_without_being_opened(tmp_path: Path, base: BaseModel) -> None:
    write_adapter(tmp_path)
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    report = check_adapter(tmp_path, base, LIMITS)
    assert codes(report) == {"pickle"}
    assert report.faults[0].where == "adapter_model.bin"
    assert "--fix" in report.faults[0].fix


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_file_is_a_fault(tmp_path: Path, base: BaseModel, name: str) -> None:
    write_adapter(tmp_path)
    (tmp_path / name).unlink()
    assert codes(check_adapter(tmp_path, base, LIMITS)) == {"missing_file"}


def test_a_folder_that_is_not_there_is_a_fault_too(tmp_path: Path, base: BaseModel) -> None:
    report = check_adapter(tmp_path / "absent", base, LIMITS)
    assert codes(report) == {"unreadable"}
    assert str(tmp_path / "absent") in report.faults[0].where


def test_too_many_bytes_are_refused(tmp_path: Path, base: BaseModel) -> None:
    size = checked(tmp_path, base).size_bytes
    assert check_adapter(tmp_path, base, Limits(max_bytes=size)).ok
    assert codes(check_adapter(tmp_path, base, Limits(max_bytes=size - 1))) == {"too_large"}


def test_a_broken_manifest_is_a_fault_because_it_would_be_stored(tmp_path: Path, base: BaseModel) -> None:
    write_adapter(tmp_path)
    (tmp_path / "manifest.json").write_bytes(b'{"loss": NaN}')
    report = check_adapter(tmp_path, base, LIMITS)
    assert codes(report) == {"bad_json"}
    assert report.faults[0].where == "manifest.json"


@pytest.mark.parametrize(
    ("named", "warned"), [("hub/Tiny", False), ("/a/b/tiny/", False), ("hub/huge", True), (None, False)]
)
def test_another_base_models_name_is_worth_a_warning(
    tmp_path: Path, base: BaseModel, named: str | None, warned: bool
) -> None:
    report = checked(tmp_path, base, config=lora_config(base_model_name_or_path=named))
    assert report.ok
    assert bool(report.warnings) is warned


def test_without_a_base_model_the_rest_is_still_checked(tmp_path: Path) -> None:
    report = checked(tmp_path, None)
    assert report.ok
    assert "no base model" in report.warnings[0]
    assert codes(checked(tmp_path, None, tensors=changed(B=None, A=ones(3, 8)))) == {"incomplete_pair", "rank_mismatch"}


def test_a_report_goes_into_json_whole(tmp_path: Path, base: BaseModel) -> None:
    report = checked(tmp_path, base, config=lora_config(use_dora=True))
    body = json.loads(json.dumps(report.as_dict()))
    assert body["ok"] is False
    fault = {key: value for key, value in body["faults"][0].items() if key != "message"}
    assert Fault(**fault) == report.faults[0]
