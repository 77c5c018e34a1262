"""The self-test at start against a tiny engine that computes with our kernels, sound and broken in several ways."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("safetensors")

import torch
from safetensors.torch import load_file

from loradock_adapters.base_model import BaseModel, LinearShape
from loradock_adapters.check import Limits, check_adapter
from loradock_server.engine import selftest
from loradock_server.engine.kernels import gemm
from loradock_server.engine.kernels.segments import Segment, find_segments
from loradock_server.engine.kernels.slots import LayerSlots, pack
from loradock_server.engine.residency import AdapterUnfit, Prepared
from loradock_server.engine.selftest import Answer, Findings, Row, SelfTestFailed, judge, self_test

WIDTH, VOCAB, SLOTS = 32, 64, 4
LAYER = "model.layers.0.mlp.up_proj"


@dataclass
class Tensors:
    folder: Path
    size_bytes: int = 1
    closed: bool = False

    def close(self) -> None:
        self.closed = True


class TinyEngine:
    """One linear layer between an embedding and its transpose; every row's prompt is one step with all other rows'."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self.embedding = torch.tensor(random.normal(0, 1, (VOCAB, WIDTH)), dtype=torch.float32)
        self.weight = torch.tensor(random.normal(0, WIDTH**-0.5, (WIDTH, WIDTH)), dtype=torch.float32)
        self.layer = LayerSlots(SLOTS, WIDTH, [WIDTH])
        self.in_slot: list[int | None] = [None] * SLOTS
        self.numbers: dict[str, int] = {}
        self.ever_full = False
        self.refuse: str | None = None
        self.prepared: list[Tensors] = []

    # residency.Loader

    async def prepare(self, adapter_id: str, folder: Path) -> Tensors:
        self.prepared.append(Tensors(folder))
        return self.prepared[-1]

    async def load(self, adapter_id: str, prepared: Prepared) -> int:
        if self.refuse:
            raise AdapterUnfit(self.refuse)
        assert isinstance(prepared, Tensors)
        folder = prepared.folder
        tensors = load_file(folder / "adapter_model.safetensors")
        a, b = (tensors[f"base_model.model.{LAYER}.lora_{half}.weight"] for half in "AB")
        slot = self.in_slot.index(None)
        self.layer.put(slot, pack([a], [b]))
        self.numbers[adapter_id] = self.in_slot[slot] = 1000 + slot
        self.ever_full = self.ever_full or None not in self.in_slot
        return self.numbers[adapter_id]

    async def unload(self, adapter_id: str, number: int) -> None:
        del self.numbers[adapter_id]
        slot = self.in_slot.index(number)
        self.layer.put(slot, None)
        self.in_slot[slot] = None

    # selftest.Prober

    async def answers(self, rows: Sequence[Row], tokens: int) -> list[Answer]:
        prompts = [list(row.prompt) for row in rows]
        seen: list[list[dict[int, float]]] = [[] for _ in rows]
        for _ in range(tokens):
            logprobs = self.step(prompts, [self.numbers[row.adapter] if row.adapter else 0 for row in rows])
            for prompt, given, at in zip(prompts, logprobs, seen, strict=True):
                at.append({token: float(value) for token, value in enumerate(given[-1])})
                prompt.append(int(given[-1].argmax()))
        return [
            Answer(
                tuple(float(given[i, token]) for i, token in enumerate(row.prompt[1:])),
                tuple(prompt[len(row.prompt) :]),
                tuple(at),
            )
            for row, prompt, given, at in zip(rows, prompts, logprobs, seen, strict=True)
        ]

    def step(self, prompts: list[list[int]], ids: list[int]) -> list[torch.Tensor]:
        """Logprobs (tokens, vocabulary) of each prompt, computed in one batch."""
        x = self.embedding[torch.tensor([token for prompt in prompts for token in prompt])]
        y = x @ self.weight.T
        row_ids = [number for number, prompt in zip(ids, prompts, strict=True) for _ in prompt]
        gemm.add_segments(y, x, self.layer, self.segments(row_ids))
        logprobs = torch.log_softmax(y @ self.embedding.T, dim=1)
        return list(logprobs.split([len(prompt) for prompt in prompts]))

    def segments(self, row_ids: list[int]) -> list[Segment]:
        return find_segments(row_ids, self.in_slot)


class LastSlotForBaseRows(TinyEngine):
    """vLLM's own fault: index -1 is the last slot, as soon as any row of the batch has an adapter."""

    def segments(self, row_ids: list[int]) -> list[Segment]:
        if not any(row_ids):
            return []
        return [
            Segment(row, row + 1, self.in_slot.index(number) if number else SLOTS - 1)
            for row, number in enumerate(row_ids)
        ]


class NeighbourLeaks(TinyEngine):
    """Each segment reaches one row too far."""

    def segments(self, row_ids: list[int]) -> list[Segment]:
        found = super().segments(row_ids)
        return [Segment(s.start, min(s.end + 1, len(row_ids)), s.slot) for s in found]


class AdaptersDoNothing(TinyEngine):
    def segments(self, row_ids: list[int]) -> list[Segment]:
        return []


class OneSlotDoesNothing(TinyEngine):
    def segments(self, row_ids: list[int]) -> list[Segment]:
        return [s for s in super().segments(row_ids) if s.slot != 2]


class BatchesSpoilTheBase(TinyEngine):
    def step(self, prompts: list[list[int]], ids: list[int]) -> list[torch.Tensor]:
        return [part / len(prompts) for part in super().step(prompts, ids)]


def embedding(broken: type[TinyEngine]) -> type[TinyEngine]:
    """The same engine, answering with the state of the last token, as models for embeddings do."""

    class Embedding(broken):  # type: ignore[misc,valid-type]
        async def answers(self, rows: Sequence[Row], tokens: int) -> list[Answer]:
            ids = [self.numbers[row.adapter] if row.adapter else 0 for row in rows]
            found = [given[-1] for given in self.step([list(row.prompt) for row in rows], ids)]
            return [Answer(tuple((one / one.square().mean().sqrt()).tolist()), (), ()) for one in found]

    return Embedding


@pytest.fixture
def base(tmp_path: Path) -> BaseModel:
    modules = MappingProxyType({LAYER: LinearShape(WIDTH, WIDTH)})
    return BaseModel(tmp_path, "tiny", "d", "float32", "LlamaForCausalLM", VOCAB, modules)


def run(
    engine: TinyEngine, base: BaseModel, *, max_model_len: int = 64, numbers: selftest.Numbers = selftest.LOGPROBS
) -> Findings:
    test = self_test(engine, engine, base, slots=SLOTS, dtype="float32", max_model_len=max_model_len, numbers=numbers)
    return asyncio.run(test)


def test_a_sound_engine_passes_with_every_slot_filled_and_nothing_left_behind(base: BaseModel) -> None:
    engine = TinyEngine()
    found = run(engine, base)
    assert found.moved < 1e-4
    assert found.effect > selftest.EFFECT
    assert engine.ever_full
    assert engine.in_slot == [None] * SLOTS
    assert {prepared.closed for prepared in engine.prepared} == {True}


def test_it_fits_into_the_shortest_context_that_can_be_set(base: BaseModel) -> None:
    rows = selftest.make_rows(base, SLOTS, 16)
    assert max(len(row.prompt) for row in rows) + selftest.TOKENS <= 16
    run(TinyEngine(), base, max_model_len=16)


def test_of_many_slots_the_first_and_the_last_are_asked(base: BaseModel) -> None:
    asked = {row.adapter for row in selftest.make_rows(base, 100, 64) if row.adapter}
    assert {selftest.adapter_id(0), selftest.adapter_id(99)} <= asked
    assert len(asked) == selftest.MOST_ADAPTER_ROWS


def test_a_sound_engine_for_embeddings_passes(base: BaseModel) -> None:
    found = run(embedding(TinyEngine)(), base, numbers=selftest.EMBEDDINGS)
    assert found.moved < 1e-4
    assert found.effect > selftest.EMBEDDINGS.effect


@pytest.mark.parametrize("broken", [LastSlotForBaseRows, NeighbourLeaks, embedding(LastSlotForBaseRows)])
def test_base_rows_that_feel_an_adapter_are_a_failure(base: BaseModel, broken: type[TinyEngine]) -> None:
    engine = broken()
    with pytest.raises(SelfTestFailed, match="base requests would be answered by adapters"):
        run(engine, base)
    assert engine.in_slot == [None] * SLOTS


@pytest.mark.parametrize("broken", [AdaptersDoNothing, OneSlotDoesNothing, embedding(OneSlotDoesNothing)])
def test_an_adapter_without_effect_is_a_failure(base: BaseModel, broken: type[TinyEngine]) -> None:
    with pytest.raises(SelfTestFailed, match="would be answered by the base model"):
        run(broken(), base, numbers=selftest.EMBEDDINGS)


def test_a_base_that_differs_from_itself_is_not_taken_for_noise(base: BaseModel) -> None:
    with pytest.raises(SelfTestFailed, match="no adapter had a part in it"):
        run(BatchesSpoilTheBase(), base)


def test_an_adapter_that_cannot_be_loaded_is_a_failure_with_its_reason(base: BaseModel) -> None:
    engine = TinyEngine()
    engine.refuse = "no such module"
    with pytest.raises(SelfTestFailed, match="cannot be loaded: no such module"):
        run(engine, base)
    assert [prepared.closed for prepared in engine.prepared] == [True]


def test_its_adapter_is_one_that_the_adapter_check_accepts(base: BaseModel, tmp_path: Path) -> None:
    folder = tmp_path / "loud"
    folder.mkdir()
    selftest.write_loud_adapter(folder, base)
    assert check_adapter(folder, base, Limits(max_rank=64, max_bytes=1 << 20)).ok


def test_noise_of_the_base_widens_the_tolerance_and_nothing_else_does() -> None:
    judge(Findings(noise=0.2, moved=0.7, effect=9), "bfloat16")
    with pytest.raises(SelfTestFailed):
        judge(Findings(noise=0.01, moved=0.7, effect=9), "bfloat16")
    with pytest.raises(SelfTestFailed):
        judge(Findings(noise=1e-5, moved=2e-3, effect=9), "float32")
    with pytest.raises(SelfTestFailed):
        judge(Findings(noise=0.2, moved=float("nan"), effect=9), "bfloat16")


@pytest.mark.parametrize(
    ("dtype", "noise", "least"), [("float32", 1e-5, 0.25), ("float32", 0.02, 0.32), ("bfloat16", 0.1, 2)]
)
def test_an_adapters_effect_must_stand_out_from_noise(dtype: str, noise: float, least: float) -> None:
    judge(Findings(noise=noise, moved=0, effect=least * 1.01), dtype)
    for effect in (least * 0.99, 0, float("nan")):
        with pytest.raises(SelfTestFailed, match=f"least {least}"):
            judge(Findings(noise=noise, moved=0, effect=effect), dtype)


def test_answers_that_part_are_compared_up_to_there_and_are_infinitely_apart_when_the_tokens_were_not_close() -> None:
    likeliest = ({1: -0.7, 2: -0.71}, {3: -0.1})
    one = Answer((-1.0,), (1, 3), likeliest)
    near = Answer((-1.0,), (2, 4), ({2: -0.7, 1: -0.71}, {4: -9.0}))
    assert selftest.distance(one, near) == pytest.approx(0.01)
    far = Answer((-1.0,), (2, 4), ({2: -0.7}, {4: -9.0}))
    assert selftest.distance(one, far) == float("inf")
    broken = Answer((float("nan"),), (1, 3), likeliest)
    assert selftest.distance(one, broken) == float("inf")
