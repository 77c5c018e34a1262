"""The corpus: every adapter gets exactly the verdict it should, and those let through act as in PEFT."""

from __future__ import annotations

import dataclasses
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")
pytest.importorskip("transformers")

import peft
import torch

from loradock_adapters.base_config import read_from_config
from loradock_adapters.check import Code, NoteCode, check_adapter
from loradock_adapters.check.adapter import judge
from loradock_adapters.check.fields import KNOWN_FIELDS
from loradock_adapters.errors import BaseModelError
from loradock_adapters.peft_folder import WEIGHTS_FILE
from tests.adapters.corpus.case import Case
from tests.adapters.corpus.damaged import DAMAGED
from tests.adapters.corpus.delta import served_delta, weights
from tests.adapters.corpus.good import GOOD
from tests.adapters.corpus.other_methods import OTHER_METHODS
from tests.adapters.corpus.signed import SIGNED
from tests.adapters.corpus.world import World, build_world

CORPUS = (*GOOD, *OTHER_METHODS, *DAMAGED, *SIGNED)

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's, about what these adapters are


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield build_world(tmp_path_factory.mktemp("base") / "tiny-llama")


@pytest.mark.parametrize("case", CORPUS, ids=str)
def test_the_verdict_is_exactly_what_the_adapter_deserves(case: Case, world: World, tmp_path: Path) -> None:
    case.build(world, tmp_path / "adapter")

    report = check_adapter(tmp_path / "adapter", world.base, case.limits)

    assert {fault.code for fault in report.faults} == case.faults, report.faults
    assert {note.code for note in report.notes} == case.notes, report.notes
    for fault in report.faults:
        assert "" not in (fault.where, fault.value, fault.limit, fault.fix)
        assert fault.message.isprintable()


@pytest.mark.parametrize("case", GOOD, ids=str)
def test_what_is_let_through_changes_the_weights_as_it_does_in_peft(case: Case, world: World, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    case.build(world, folder)

    merged = weights(peft.PeftModel.from_pretrained(world.model(), folder).merge_and_unload())

    served = served_delta(folder / WEIGHTS_FILE, world.base, judge(folder, world.base, case.limits).facts.scale_of)
    for name, before in weights(world.pristine).items():
        expected = merged[name] - before
        got = served.pop(name.removesuffix(".weight"), torch.zeros_like(before))
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")
    assert not served


def test_every_code_there_is_has_an_adapter_that_gets_it() -> None:
    # Not those that are a base model's doing: see test_servable.py and test_check.py.
    assert set().union(*(case.faults for case in CORPUS)) == set(Code) - {Code.BASE_NOT_SERVED}
    assert set().union(*(case.notes for case in CORPUS)) == set(NoteCode) - {NoteCode.NO_BASE, NoteCode.NOT_APPLIED}


def test_the_corpus_is_as_large_as_promised_and_no_name_stands_twice() -> None:
    assert len({case.name for case in CORPUS}) == len(CORPUS) >= 60


def test_the_scales_are_those_that_vllm_takes_too(world: World, tmp_path: Path) -> None:
    peft_helper = pytest.importorskip("vllm.lora.peft_helper")
    compared = 0
    for case in GOOD:
        folder = tmp_path / case.name
        case.build(world, folder)
        facts = judge(folder, world.base, case.limits).facts
        theirs = peft_helper.PEFTHelper.from_local_dir(str(folder), None)
        for module in filter(facts.targets.selects, world.base.modules):
            assert theirs.get_rank_and_scaling(module) == (facts.rank_of(module), facts.scale_of(module)), case
            compared += 1
    assert compared > 4 * len(GOOD)


def test_every_field_of_pefts_configuration_is_known() -> None:
    assert {field.name for field in dataclasses.fields(peft.LoraConfig)} <= KNOWN_FIELDS


def test_the_configuration_alone_gives_the_modules_that_the_weights_have(world: World, tmp_path: Path) -> None:
    for name in ("config.json", "loradock-base.json"):
        shutil.copy(world.base.folder / name, tmp_path)

    base = read_from_config(tmp_path)

    assert dict(base.modules) == dict(world.base.modules)
    assert (base.name, base.hub_id, base.digest) == (world.base.name, world.base.hub_id, world.base.digest)
    (tmp_path / "loradock-base.json").unlink()
    assert read_from_config(tmp_path).digest == ""
    (tmp_path / "config.json").write_text('{"model_type": "nothing-known"}')
    with pytest.raises(BaseModelError, match="cannot build"):
        read_from_config(tmp_path)
