"""Exact repairs: what is written is servable, acts as what was trained, and the original stays as it was."""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")
pytest.importorskip("transformers")

import peft
import torch
from safetensors.torch import load_file

from loradock_adapters.check import Limits
from loradock_adapters.check.adapter import judge
from loradock_adapters.digest import folder_digest
from loradock_adapters.errors import AdapterMalformed, RepairRefused
from loradock_adapters.peft_folder import CONFIG_FILE, WEIGHTS_FILE
from loradock_adapters.repair import Repair, repair
from tests.adapters.corpus.case import Build, lora, with_fields, with_files
from tests.adapters.corpus.damaged import as_torch_saves, renamed, trained_as_auto_model
from tests.adapters.corpus.delta import served_delta, weights
from tests.adapters.corpus.world import LIMITS, World, adapted, build_world, change_config, saved, shaken

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's, about what these adapters are

Delta = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield build_world(tmp_path_factory.mktemp("base") / "tiny-llama")


def difference(after: dict[str, Any], before: dict[str, Any]) -> Delta:
    changed = {name: after[name] - before[name] for name in before if not torch.equal(after[name], before[name])}
    return {name.removesuffix(".weight"): delta for name, delta in changed.items()}


def served(folder: Path, world: World, limits: Limits = LIMITS) -> Delta:
    return served_delta(folder / WEIGHTS_FILE, world.base, judge(folder, world.base, limits).facts.scale_of)


def assert_same(got: Delta, expected: Delta, atol: float = 1e-6) -> None:
    assert got.keys() == expected.keys() != set()
    for name, delta in expected.items():
        torch.testing.assert_close(got[name], delta, rtol=1e-4, atol=atol)


def repaired(world: World, folder: Path, **how: Any) -> Repair:
    """Repair `folder` into a folder beside it called fixed."""
    return repair(folder, folder.with_name("fixed"), world.base, LIMITS, **how)


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name.removeprefix("base_model.model."),
        lambda name: f"base_model.model.{name}",
        lambda name: name.replace("model.layers", "model.language_model.layers"),
        lambda name: name.replace(".model.layers", "._orig_mod.model.layers"),
        lambda name: name.replace(".weight", ".default.weight"),
    ],
    ids=["no-prefix", "prefix-twice", "language-model", "compiled", "adapters-name"],
)
def test_renamed_tensors_get_pefts_names_and_keep_every_number(
    rename: Callable[[str], str], world: World, tmp_path: Path
) -> None:
    lora()(world, tmp_path / "sound")
    renamed(rename)(world, tmp_path / "adapter")
    before = folder_digest(tmp_path / "adapter")

    done = repaired(world, tmp_path / "adapter")

    assert done.report.ok
    assert len(done.did) == 1
    assert "renamed" in done.did[0]
    assert folder_digest(tmp_path / "adapter") == before
    sound, fixed = load_file(tmp_path / "sound" / WEIGHTS_FILE), load_file(tmp_path / "fixed" / WEIGHTS_FILE)
    assert sound.keys() == fixed.keys()
    assert all(torch.equal(sound[name], fixed[name]) for name in sound)
    assert_same(served(tmp_path / "fixed", world), served(tmp_path / "sound", world))


@pytest.mark.parametrize(
    "targets", [["q_proj", "v_proj"], ["layers.0.self_attn.q_proj"], r"layers\.1\.mlp\.up_proj"], ids=str
)
def test_an_adapter_of_the_bare_model_acts_on_the_whole_model_as_it_did(
    targets: Any, world: World, tmp_path: Path
) -> None:
    model = adapted(world, model=world.model().model, task_type=None, target_modules=targets)
    saved(model, tmp_path / "adapter")
    trained = weights(model.merge_and_unload())

    done = repaired(world, tmp_path / "adapter")

    assert done.report.ok, done.report
    bare = {name: trained[name.removeprefix("model.")] for name in weights(world.pristine) if name != "lm_head.weight"}
    expected = difference(bare, {name: tensor for name, tensor in weights(world.pristine).items() if name in bare})
    assert_same(served(tmp_path / "fixed", world), expected)
    in_peft = weights(peft.PeftModel.from_pretrained(world.model(), tmp_path / "fixed").merge_and_unload())
    assert_same(difference(in_peft, weights(world.pristine)), expected)


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.pt"])
def test_pickled_weights_become_safetensors_with_the_same_numbers(name: str, world: World, tmp_path: Path) -> None:
    lora()(world, tmp_path / "sound")
    as_torch_saves(name)(world, tmp_path / "adapter")

    done = repaired(world, tmp_path / "adapter")

    assert done.report.ok
    assert "weights_only" in done.did[0]
    assert not (tmp_path / "fixed" / name).exists()
    assert_same(served(tmp_path / "fixed", world), served(tmp_path / "sound", world))


def test_a_pickle_that_runs_code_is_refused_and_runs_none(world: World, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    as_torch_saves("adapter_model.bin")(world, tmp_path / "adapter")
    for evil in (pickle.dumps(Evil()), None):
        path = tmp_path / "adapter" / "adapter_model.bin"
        if evil is None:
            torch.save({"a": Evil()}, path)
        else:
            path.write_bytes(evil)
        with pytest.raises(AdapterMalformed, match="weights_only"):
            repaired(world, tmp_path / "adapter")
    assert not (tmp_path / "ran").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter"]


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ({"a": torch.zeros(1).expand(1 << 40)}, "at most"),
        ({"a": torch.zeros(1 << 20)}, "at most"),
        ([torch.zeros(1)], "a list"),
        ({}, "not tensors by name"),
        ({"a": {"b": torch.zeros(1)}}, "no dense tensor"),
        ({"a": torch.eye(2).to_sparse()}, "no dense tensor"),
        ({1: torch.zeros(1)}, "no dense tensor"),
    ],
    ids=["a-view-of-terabytes", "too-large", "a-list", "empty", "nested", "sparse", "numbered"],
)
def test_a_pickle_of_anything_but_tensors_that_fit_is_refused(
    found: Any, reason: str, world: World, tmp_path: Path
) -> None:
    as_torch_saves("adapter_model.bin")(world, tmp_path / "adapter")
    torch.save(found, tmp_path / "adapter" / "adapter_model.bin")
    with pytest.raises(AdapterMalformed, match=reason):
        repaired(world, tmp_path / "adapter")
    assert not (tmp_path / "fixed").exists()


def moved(method: str, **config: Any) -> Build:
    """Trained from the given start, with the adapter before the first step in a folder inside, as PEFT advises."""

    def build(world: World, folder: Path) -> None:
        model = adapted(world, trained=False, init_lora_weights=method, **config)
        model.save_pretrained(folder / f"{method}_init", save_embedding_layers=False)
        saved(shaken(model), folder)

    return build


@pytest.mark.parametrize("config", [{}, {"use_rslora": True}, {"rank_pattern": {"q_proj": 2}}], ids=str)
@pytest.mark.parametrize("method", ["pissa", "olora"])
def test_a_moved_start_is_subtracted_so_that_the_base_as_it_is_gives_the_trained_weights(
    method: str, config: dict[str, Any], world: World, tmp_path: Path
) -> None:
    moved(method, **config)(world, tmp_path / "adapter")
    model = adapted(world, trained=False, init_lora_weights=method, **config)
    trained = weights(shaken(model).merge_and_unload())

    done = repaired(world, tmp_path / "adapter")

    assert done.report.ok, done.report
    assert "PEFT" in done.did[0]
    assert done.report.rank == 8
    expected = {name: delta for name, delta in difference(trained, weights(world.pristine)).items()}
    assert_same(served(tmp_path / "fixed", world), expected, atol=1e-5)
    in_peft = weights(peft.PeftModel.from_pretrained(world.model(), tmp_path / "fixed").merge_and_unload())
    assert_same(difference(in_peft, weights(world.pristine)), expected, atol=1e-5)


def test_the_initial_weights_may_lie_elsewhere_and_must_be_of_the_same_run(world: World, tmp_path: Path) -> None:
    moved("pissa")(world, tmp_path / "adapter")
    initial = (tmp_path / "adapter" / "pissa_init").rename(tmp_path / "before")

    assert repaired(world, tmp_path / "adapter").did == ()
    assert not (tmp_path / "fixed").exists()
    change_config(initial, r=8)
    with pytest.raises(AdapterMalformed, match="two training runs"):
        repaired(world, tmp_path / "adapter", initial=initial)
    change_config(initial, r=4)
    assert repaired(world, tmp_path / "adapter", initial=initial).report.ok


def test_several_repairs_follow_each_other(world: World, tmp_path: Path) -> None:
    model = adapted(world, model=world.model().model, task_type=None, trained=False, init_lora_weights="pissa")
    model.save_pretrained(tmp_path / "adapter" / "pissa_init", save_embedding_layers=False)
    saved(shaken(model), tmp_path / "adapter")
    torch.save(load_file(tmp_path / "adapter" / WEIGHTS_FILE), tmp_path / "adapter" / "adapter_model.bin")
    (tmp_path / "adapter" / WEIGHTS_FILE).unlink()
    with_files({"manifest.json": json.dumps({"name": "x", "adapter": {"digest": "old"}})}, lambda *_: None)(
        world, tmp_path / "adapter"
    )

    done = repaired(world, tmp_path / "adapter")

    assert done.report.ok, done.report
    assert len(done.did) == 3
    assert json.loads((tmp_path / "fixed" / "manifest.json").read_text()) == {"name": "x", "repaired": list(done.did)}


def test_what_no_repair_can_change_is_said_again_after_it(world: World, tmp_path: Path) -> None:
    with_fields(trained_as_auto_model, use_qalora=True)(world, tmp_path / "adapter")

    done = repaired(world, tmp_path / "adapter")

    assert len(done.did) == 1
    assert {fault.code for fault in done.report.faults} == {"qalora"}


def test_a_sound_adapter_is_left_alone(world: World, tmp_path: Path) -> None:
    lora()(world, tmp_path / "adapter")

    done = repaired(world, tmp_path / "adapter")

    assert done.did == ()
    assert done.report.ok
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_nothing_is_written_over(world: World, tmp_path: Path) -> None:
    trained_as_auto_model(world, tmp_path / "adapter")
    (tmp_path / "fixed").mkdir()
    with pytest.raises(RepairRefused, match="exists"):
        repaired(world, tmp_path / "adapter")
    assert list((tmp_path / "fixed").iterdir()) == []


def test_a_pattern_that_means_the_old_names_keeps_them_from_being_changed(world: World, tmp_path: Path) -> None:
    saved(
        adapted(world, model=world.model().model, task_type=None, alpha_pattern={r"^layers\.0\.self_attn\.q_proj": 64}),
        tmp_path / "adapter",
    )

    done = repaired(world, tmp_path / "adapter")

    assert done.did == ()
    assert "unknown_module" in {fault.code for fault in done.report.faults}
    assert json.loads((tmp_path / "adapter" / CONFIG_FILE).read_text())["alpha_pattern"]
