"""Adapters in and out of vLLM: what is left behind by a load that fails, and what its client is told.

Needs vLLM (the cpu or cuda extra); a scripted engine client stands in for the running engine.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm")

from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.request import RequestStatus

from loradock_server.engine import vllm_compat
from loradock_server.engine.context import RequestContext, current_request
from loradock_server.engine.residency import AdapterGone, AdapterUnfit, EngineGone, NoRoom, ResidencyError

FOLDER = vllm_compat.PreparedFolder(Path("/b/d1"), 100)
WRAPPED = (
    "Call to add_lora method failed: Worker failed with error '{}', please check the stack trace above for the root "
    "cause"
)


class ScriptedClient:
    """vLLM's engine client, as far as adapters go. `failures` are raised by the next calls, None lets one through."""

    def __init__(self, *failures: Exception | None) -> None:
        self.failures = list(failures)
        self.inside: set[int] = set()
        self.removed: list[int] = []

    async def add_lora(self, request: Any) -> bool:
        self.inside.add(request.lora_int_id)  # as vLLM does: marked before the weights are there
        self._fail()
        return True

    async def remove_lora(self, number: int) -> bool:
        self.removed.append(number)
        self._fail()
        self.inside.discard(number)
        return True

    def _fail(self) -> None:
        if self.failures and (failure := self.failures.pop(0)):
            raise failure


def make_loader(client: ScriptedClient) -> tuple[vllm_compat.AdapterLoader, dict[str, Any]]:
    published: dict[str, Any] = {}
    state = SimpleNamespace(openai_serving_models=SimpleNamespace(lora_requests=published))
    engine: Any = SimpleNamespace(client=client, app=SimpleNamespace(state=state))
    return vllm_compat.AdapterLoader(engine), published


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
            await loader.load("a@1", FOLDER)
        assert told in str(caught.value)
        assert "please check the stack trace" not in str(caught.value)
        assert (client.inside, published) == (set(), {})
        first = client.removed[0]
        assert await loader.load("a@1", FOLDER) != first  # a number is never used twice

    asyncio.run(main())


@pytest.mark.parametrize("failures", [[EngineDeadError()], [Exception("bad"), EngineDeadError()]])
def test_an_engine_that_dies_under_a_load_is_no_fault_of_the_adapter(failures: list[Exception]) -> None:
    async def main() -> None:
        loader, published = make_loader(ScriptedClient(*failures))
        with pytest.raises(ResidencyError) as caught:
            await loader.load("a@1", FOLDER)
        assert isinstance(caught.value, EngineGone) or "bad" in str(caught.value)
        assert published == {}

    asyncio.run(main())


def test_an_unloaded_adapter_is_withdrawn_before_the_engine_is_asked() -> None:
    async def main() -> None:
        client = ScriptedClient(None, EngineDeadError())
        loader, published = make_loader(client)
        number = await loader.load("a@1", FOLDER)
        assert published["a@1"].lora_path == "/b/d1"
        with pytest.raises(EngineGone):
            await loader.unload("a@1", number)
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
