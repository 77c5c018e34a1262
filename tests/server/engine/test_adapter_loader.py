"""Adapters in and out of vLLM: what is left behind by a load that fails, and what its client is told.

Needs vLLM (the cpu or cuda extra); a scripted engine client stands in for the running engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm")

import torch
from safetensors.torch import save_file
from vllm.config.lora import LoRAConfig
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.request import RequestStatus

from loradock_server.engine import vllm_compat
from loradock_server.engine.context import RequestContext, current_request
from loradock_server.engine.kernels.slots import Packed
from loradock_server.engine.residency import AdapterGone, AdapterUnfit, EngineGone, NoRoom, ResidencyError
from loradock_server.engine.staging import Layer, Plan, Slice, Staged, stage, unstage

WRAPPED = (
    "Call to add_lora method failed: Worker failed with error '{}', please check the stack trace above for the root "
    "cause"
)

UNSTAGED = vllm_compat.Unstaged(Path("/b/d1"), 1)


class Here:
    """Lays adapters out in this process."""

    def stage(self, folder: Path, plan: Mapping[str, Any], scales: Mapping[str, float]) -> Staged:
        return stage(folder / "adapter_model.safetensors", Plan.from_plain(plan), scales.__getitem__)


class ScriptedClient:
    """vLLM's engine client, as far as adapters go. `failures` are raised by the next calls, None lets one through."""

    def __init__(self, *failures: Exception | None) -> None:
        self.failures = list(failures)
        self.inside: set[int] = set()
        self.removed: list[int] = []
        self.taken: dict[int, dict[str, Packed]] = {}
        self.vllm_config = SimpleNamespace(
            model_config=SimpleNamespace(max_model_len=64),
            lora_config=LoRAConfig(max_lora_rank=8, lora_dtype=torch.bfloat16),
        )

    async def add_lora(self, request: Any) -> bool:
        self.inside.add(request.lora_int_id)  # as vLLM does: marked before the weights are there
        self._fail()
        return True

    async def collective_rpc(self, method: str, args: tuple[int, str]) -> list[None]:
        assert method == "loradock_take_in"
        number, path = args
        self.inside.add(number)
        self._fail()
        self.taken[number] = unstage(Path(path))
        return [None]

    async def remove_lora(self, number: int) -> bool:
        self.removed.append(number)
        self._fail()
        self.inside.discard(number)
        return True

    def _fail(self) -> None:
        if self.failures and (failure := self.failures.pop(0)):
            raise failure


def make_loader(client: ScriptedClient, plan: Plan | None = None) -> tuple[vllm_compat.AdapterLoader, dict[str, Any]]:
    published: dict[str, Any] = {}
    state = SimpleNamespace(openai_serving_models=SimpleNamespace(lora_requests=published))
    engine: Any = SimpleNamespace(client=client, app=SimpleNamespace(state=state))
    return vllm_compat.AdapterLoader(engine, Here(), plan), published


@pytest.mark.parametrize(
    ("said", "error", "told"),
    [
        (WRAPPED.format("q_proj: A (8, 64) and B (64, 9) do not fit"), AdapterUnfit, "A (8, 64) and B (64, 9)"),
        (WRAPPED.format("LoRA rank 128 is greater than max_lora_rank 64."), AdapterUnfit, "rank 128 is greater"),
        (WRAPPED.format("While loading /b/d1, expected target modules"), AdapterUnfit, "While loading its folder"),
        (WRAPPED.format("Loading lora a@1 failed: No adapter found for /b/d1"), AdapterGone, "files went away"),
        (WRAPPED.format("DefaultCPUAllocator: can't allocate memory: 9 bytes"), NoRoom, "no memory for adapter a@1"),
        (WRAPPED.format("CUDA out of memory. Tried to allocate 2 GiB"), NoRoom, "Tried to allocate 2 GiB"),
        (WRAPPED.format(""), AdapterUnfit, "see the engine's log"),
        ("Call to add_lora method failed: plain", AdapterUnfit, "plain"),
    ],
)
def test_a_failed_load_leaves_nothing_inside_and_its_client_hears_the_cause(
    said: str, error: type[ResidencyError], told: str
) -> None:
    async def main() -> None:
        client = ScriptedClient(Exception(said))
        loader, published = make_loader(client)
        with pytest.raises(error) as caught:
            await loader.load("a@1", UNSTAGED)
        assert told in str(caught.value)
        assert "please check the stack trace" not in str(caught.value)
        assert (client.inside, published) == (set(), {})
        first = client.removed[0]
        assert await loader.load("a@1", UNSTAGED) != first  # a number is never used twice

    asyncio.run(main())


@pytest.mark.parametrize("failures", [[EngineDeadError()], [Exception("bad"), EngineDeadError()]])
def test_an_engine_that_dies_under_a_load_is_no_fault_of_the_adapter(failures: list[Exception]) -> None:
    async def main() -> None:
        loader, published = make_loader(ScriptedClient(*failures))
        with pytest.raises(ResidencyError) as caught:
            await loader.load("a@1", UNSTAGED)
        assert isinstance(caught.value, EngineGone) or "bad" in str(caught.value)
        assert published == {}

    asyncio.run(main())


def test_an_unloaded_adapter_is_withdrawn_before_the_engine_is_asked() -> None:
    async def main() -> None:
        client = ScriptedClient(None, EngineDeadError())
        loader, published = make_loader(client)
        number = await loader.load("a@1", UNSTAGED)
        assert published["a@1"].lora_path == "/b/d1"
        with pytest.raises(EngineGone):
            await loader.unload("a@1", number)
        assert published == {}

    asyncio.run(main())


PLAN = Plan((Layer("qkv", 4, (Slice("q", 6), Slice("k", 2))),), torch.bfloat16, "plain")


def make_folder(folder: Path) -> Path:
    numbers = torch.arange(48, dtype=torch.float32)
    save_file(
        {
            "base_model.model.q.lora_A.weight": numbers[:8].view(2, 4).clone(),
            "base_model.model.q.lora_B.weight": numbers[:12].view(6, 2).clone(),
        },
        folder / "adapter_model.safetensors",
    )
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 3, "target_modules": ["q"], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def test_a_staged_adapter_is_taken_in_by_the_worker_with_peft_s_scale_and_published_under_its_own_folder(
    tmp_path: Path,
) -> None:
    folder = make_folder(tmp_path)

    async def main() -> None:
        client = ScriptedClient()
        loader, published = make_loader(client, PLAN)
        with contextlib.closing(await loader.prepare("a@1", folder)) as prepared:
            number = await loader.load("a@1", prepared)
        taken = client.taken[number]["qkv"]
        assert torch.equal(taken.a, torch.arange(8.0, dtype=torch.bfloat16).view(2, 4))
        assert taken.b[0] is not None
        assert torch.equal(taken.b[0], (torch.arange(12.0).view(6, 2).T * 1.5).bfloat16())  # alpha / r
        assert taken.b[1] is None
        assert published["a@1"].lora_path == str(folder)
        assert published["a@1"].lora_int_id == number

    asyncio.run(main())


def test_a_folder_that_cannot_be_staged_is_refused_before_the_engine_is_asked(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)

    async def main() -> None:
        client = ScriptedClient()
        loader, _ = make_loader(client, replace(PLAN, layers=(Layer("qkv", 5, PLAN.layers[0].slices),)))
        with pytest.raises(AdapterUnfit, match=r"q: lora_A has shape \(2, 4\), \(rank, 5\) fits"):
            await loader.prepare("a@1", folder)
        (folder / "adapter_config.json").write_text('{"r": 2, "lora_alpha": 3, "target_modules": [], "use_dora": true}')
        with pytest.raises(AdapterUnfit, match=r"DoRA"):
            await loader.prepare("a@1", folder)
        assert client.inside == set()

    asyncio.run(main())


def test_a_staged_load_that_fails_leaves_nothing_inside(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)

    async def main() -> None:
        client = ScriptedClient(Exception(WRAPPED.format("no memory left: can't allocate memory")))
        loader, published = make_loader(client, PLAN)
        prepared = await loader.prepare("a@1", folder)
        with pytest.raises(NoRoom):
            await loader.load("a@1", prepared)
        assert client.inside == set()
        assert published == {}

    asyncio.run(main())


def tracked() -> tuple[Any, list[str], list[tuple[str, bool]]]:
    """An engine client with the request hooks in place; what it added, what was aborted."""
    added: list[str] = []
    aborted: list[tuple[str, bool]] = []

    def add_request(request: Any) -> None:
        added.append(request.request_id)
        processor.request_states[request.request_id] = SimpleNamespace()

    async def abort(request_id: str, internal: bool) -> None:
        aborted.append((request_id, internal))
        del processor.request_states[request_id]

    processor = SimpleNamespace(
        add_request=add_request, request_states={}, _update_stats_from_finished=lambda *args: None
    )
    client = SimpleNamespace(output_processor=processor, abort=abort, errored=False)
    vllm_compat.track_requests(client)
    return client, added, aborted


def request_for(adapter: str | None, request_id: str = "r") -> Any:
    lora = None if adapter is None else SimpleNamespace(lora_name=adapter, lora_int_id=1)
    return SimpleNamespace(request_id=request_id, lora_request=lora)


@pytest.mark.parametrize(("leased", "asked"), [("a@1", "a@2"), ("a@1", None), (None, "a@1")])
def test_no_generation_starts_with_another_adapter_than_the_one_that_is_held_for_it(
    leased: str | None, asked: str | None
) -> None:
    client, added, _ = tracked()
    current_request.set(RequestContext("r", "g", leased, None))
    with pytest.raises(ValueError, match="but the request is for"):
        client.output_processor.add_request(request_for(asked))
    assert added == []


def test_generations_that_their_client_left_are_ended_and_none_starts_afterwards() -> None:
    async def main() -> None:
        client, _, aborted = tracked()
        context = RequestContext("r", "g", "a@1", "d")
        current_request.set(context)
        for number in range(3):
            client.output_processor.add_request(request_for("a@1", f"r-{number}"))
        del client.output_processor.request_states["r-1"]  # finished by itself
        await context.end()
        assert aborted == [("r-0", True), ("r-2", True)]
        with pytest.raises(ValueError, match="is over"):
            client.output_processor.add_request(request_for("a@1", "r-3"))

    asyncio.run(main())


def test_the_core_ends_the_requests_of_an_adapter_before_it_removes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Any] = []

    class Core:
        def __init__(self) -> None:
            requests = [request_for("a@1", "mine"), request_for("b@1", "other"), request_for(None, "base")]
            requests[1].lora_request.lora_int_id = 2
            self.scheduler = SimpleNamespace(requests={r.request_id: r for r in requests}, finish_requests=self._finish)

        def _finish(self, ids: list[str], status: RequestStatus) -> list[str]:
            events.append((ids, status))
            return ids

        def _send_abort_outputs(self, requests: list[str]) -> None:
            events.append(("told", requests))

        def remove_lora(self, lora_id: int) -> bool:
            events.append(("removed", lora_id))
            return True

    monkeypatch.setattr(vllm_compat, "EngineCoreProc", Core)
    vllm_compat.end_requests_of_removed_adapters()
    vllm_compat.end_requests_of_removed_adapters()
    assert Core().remove_lora(1)
    assert events == [
        (["mine"], RequestStatus.FINISHED_ABORTED),
        ("told", ["mine"]),
        ("removed", 1),
    ]
    events.clear()
    Core().remove_lora(9)
    assert events == [("removed", 9)]
