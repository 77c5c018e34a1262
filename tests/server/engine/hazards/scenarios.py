"""The hazards of vLLM's LoRA runtime played through, on plain vLLM or under our engine's rules.

`python -m tests.server.engine.hazards.scenarios plain|ours` prints one JSON object, scenario name to what was seen.
A process of its own each, since our changes patch vLLM's classes. The tests beside this file judge what was seen.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from vllm.lora.request import LoRARequest
from vllm.v1.core.kv_cache_utils import _gen_lora_extra_hash_keys

from loradock_server.engine import vllm_compat
from loradock_server.engine.residency import ResidencyError
from tests.server.engine.hazards.world import Side, World, make_world, start_vllm

Seen = dict[str, Any]


def widen(folder: Path) -> Path:
    """Give one tensor of an adapter a shape that fits no layer; everything else stays sound."""
    from safetensors.torch import load_file, save_file

    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    last = sorted(name for name in tensors if "lora_B" in name)[-1]
    tensors[last] = torch.cat([tensors[last], tensors[last]])
    save_file(tensors, path, metadata={"format": "pt"})
    return folder


def remove(folder: Path) -> None:
    folder.chmod(0o755)
    shutil.rmtree(folder)


async def ask(side: Side, adapter_id: str, digest: str, use: Callable[[LoRARequest], Any]) -> Any:
    """One request through our residency: what `use` returns while the lease lasts, or the error that is answered."""
    try:
        async with side.residency.lease(adapter_id, digest):
            return use(side.published[adapter_id])
    except ResidencyError as error:
        return f"{error.status} {error}"


# --- Plain vLLM ------------------------------------------------------------------------------------------------


def plain_h2(folder: Path) -> Seen:
    """An adapter leaves vLLM's LRU, its files leave the disk, and a request for it comes."""
    with make_world(folder, max_loras=2, max_cpu_loras=2) as world:
        requests = [LoRARequest(f"a{n}@1", n, str(world.adapter(f"a{n}", n))) for n in (1, 2, 3)]
        for request in requests:
            world.manager.add_adapter(request)
        remove(Path(requests[0].lora_path))
        return {"evicted": 1 not in world.inside, "step": world.fate_of_step([requests[0]])}


def plain_h4(folder: Path) -> Seen:
    """A load fails on a shape; the same number is tried again."""
    with make_world(folder, max_loras=2, max_cpu_loras=2) as world:
        request = LoRARequest("bad@1", 7, str(widen(world.adapter("bad", 1))))
        first = "accepted"
        try:
            world.manager.add_adapter(request)
        except RuntimeError as error:
            first = str(error)
        return {
            "first": first,
            "again": bool(world.manager.add_adapter(request)),
            "step": world.fate_of_step([request]),
        }


def plain_h5(folder: Path) -> Seen:
    """One of two slots is pinned; the scheduler still hands out batches of two other adapters."""
    with make_world(folder, max_loras=2, max_cpu_loras=3) as world:
        requests = [LoRARequest(f"a{n}@1", n, str(world.adapter(f"a{n}", n))) for n in (1, 2, 3)]
        for request in requests:
            world.manager.add_adapter(request)
        before = world.fate_of_step(requests[1:])
        world.manager.add_adapter(requests[0])
        world.manager.pin_adapter(1)
        return {"unpinned": before, "pinned": world.fate_of_step(requests[1:])}


def plain_h6(folder: Path) -> Seen:
    """Two versions under one name in one batch."""
    with make_world(folder, max_loras=2, max_cpu_loras=4) as world:
        old = LoRARequest("bot", 1, str(world.adapter("old", 1)))
        new = LoRARequest("bot", 2, str(world.adapter("new", 2)))
        return {"distinct": len({old, new}), "step": world.fate_of_step([old, new])}


def plain_h8(folder: Path) -> Seen:
    """Logits for five prompt rows (prompt_logprobs) while two rows are sampled, with lm_head wrapped."""
    with make_world(folder, max_loras=2, max_cpu_loras=2, wrap_everything=True) as world:
        return logits_for_prompt_rows(world)


def plain_h10(folder: Path) -> Seen:
    """The prefix cache's key for an adapter before and after its weights change under the same path."""
    path = folder / "adapter"
    keys = []
    for content in (b"old", b"new"):
        path.mkdir(exist_ok=True)
        (path / "adapter_model.safetensors").write_bytes(content)
        keys.append(_gen_lora_extra_hash_keys(request_of(LoRARequest("bot", 1, str(path)))))
    return {"keys": keys}


# --- Under our rules -------------------------------------------------------------------------------------------


def ours_h2(folder: Path) -> Seen:
    """Adapters come and go in a small residency while files vanish and rot; vLLM reads only when residency loads."""

    async def play(world: World) -> Seen:
        side = Side(world, capacity=2)
        folders = {f"a{n}@1": world.adapter(f"a{n}", n) for n in (1, 2, 3)}
        digests = {adapter: side.register(path) for adapter, path in folders.items()}

        async def step(adapter: str) -> Any:
            return await ask(side, adapter, digests[adapter], lambda request: world.fate_of_step([request, None]))

        seen: Seen = {"loaded": [await step(adapter) for adapter in digests]}
        seen["resident"] = [resident.adapter_id for resident in side.residency.residents()]
        for adapter in ("a1@1", "a2@1"):
            remove(side.store.path(digests[adapter]))
        weights = side.store.path(digests["a3@1"]) / "adapter_model.safetensors"
        weights.chmod(0o644)
        weights.write_bytes(weights.read_bytes()[:-8])
        seen["evicted and gone"] = await step("a1@1")
        seen["resident and gone"] = await step("a2@1")
        seen["resident and truncated"] = await step("a3@1")
        seen["reads"] = list(world.loads)
        await side.residency.unload("a3@1")
        seen["unloaded and truncated"] = await step("a3@1")
        side.register(folders["a1@1"])
        side.register(folders["a3@1"])
        seen["registered again"] = [await step("a1@1"), await step("a3@1")]
        seen["base"] = world.fate_of_step([None])
        return seen

    with make_world(folder, max_loras=2, max_cpu_loras=4) as world:
        return asyncio.run(play(world))


def h4_through_residency(folder: Path) -> Seen:
    """A load fails inside vLLM although the checks let it pass; the same adapter is asked for again.

    Played with vLLM's own kernels too, as on a GPU: there it is our loader alone that leaves nothing behind.
    """

    async def play(world: World) -> Seen:
        side = Side(world, capacity=2)
        good = side.register(world.adapter("good", 1))
        bad = side.register(widen(world.adapter("bad", 2)))
        by_the_check = await ask(side, "bad@1", bad, world.fate_of_one)
        # Past the check, to see what the engine itself makes of it.
        side.residency._artifacts = SimpleNamespace(fetch=side.store.path)
        return {
            "by the check": by_the_check,
            "tries": [await ask(side, "bad@1", bad, world.fate_of_one) for _ in range(3)],
            "left inside": sorted(world.inside),
            "left in slots": [n for n in world.manager._adapter_manager.lora_index_to_id if n],
            "good": await ask(side, "good@1", good, world.fate_of_one),
        }

    with make_world(folder, max_loras=2, max_cpu_loras=4) as world:
        return asyncio.run(play(world))


def ours_h4(folder: Path) -> Seen:
    """As plain_h4, with our slots."""
    with make_world(folder, max_loras=2, max_cpu_loras=2) as world:
        request = LoRARequest("bad@1", 7, str(widen(world.adapter("bad", 1))))
        refusals = []
        for _ in range(2):
            try:
                world.manager.add_adapter(request)
            except ValueError as error:
                refusals.append(str(error))
        return {"refusals": refusals, "left inside": sorted(world.inside)}


def ours_h6(folder: Path) -> Seen:
    """Many requests, loads, evictions and unloads at random; a step with everything in flight after each change.

    Five names over three places, where the bytes behind a name change whenever it is idle: a new version is a new id.
    """
    choices = random.Random(6)

    async def play(world: World) -> Seen:
        side = Side(world, capacity=3)
        digests = {f"a{n}@{v}": side.register(world.adapter(f"a{n}-{v}", 10 * n + v)) for n in range(4) for v in (1, 2)}
        in_flight: list[LoRARequest] = []
        fates: set[str] = set()
        collisions = steps = 0

        async def request() -> None:
            nonlocal collisions, steps
            adapter = choices.choice(sorted(digests))
            try:
                async with AsyncExitStack() as held:
                    await held.enter_async_context(side.residency.lease(adapter, digests[adapter]))
                    mine = side.published[adapter]
                    in_flight.append(mine)
                    held.callback(in_flight.remove, mine)
                    for _ in range(choices.randrange(1, 4)):
                        steps += 1
                        collisions += len(set(in_flight)) != len({r.lora_int_id for r in in_flight})
                        fates.add(world.fate_of_step(in_flight))
                        await asyncio.sleep(0)
            except ResidencyError as error:
                fates.add(str(error.status))

        async def unload() -> None:
            await side.residency.unload(choices.choice(sorted(digests)))

        jobs: list[Awaitable[None]] = [unload() if n % 5 == 0 else request() for n in range(400)]
        waves = [jobs[start : start + 20] for start in range(0, len(jobs), 20)]
        for wave in waves:
            await asyncio.gather(*wave)
        inside = sorted(world.inside)
        numbers = sorted(resident.number for resident in side.residency.residents())
        return {"fates": sorted(fates), "collisions": collisions, "steps": steps, "same": inside == numbers}

    with make_world(folder, max_loras=3, max_cpu_loras=6) as world:
        return asyncio.run(play(world))


def ours_h8(folder: Path) -> Seen:
    """As plain_h8, with the modules that our flags let vLLM wrap."""
    with make_world(folder, max_loras=2, max_cpu_loras=2) as world:
        return logits_for_prompt_rows(world)


def ours_h10(folder: Path) -> Seen:
    """The prefix cache's keys of two versions of a name, and of one id that is asked for with other bytes."""

    async def play(world: World) -> Seen:
        side = Side(world, capacity=3)
        digests = [side.register(world.adapter(f"v{n}", n)) for n in (1, 2)]
        keys = [
            await ask(side, f"bot@{n}", digest, lambda request: _gen_lora_extra_hash_keys(request_of(request)))
            for n, digest in enumerate(digests, 1)
        ]
        return {
            "keys": keys,
            "digests": digests,
            "other bytes, resident": await ask(side, "bot@1", digests[1], world.fate_of_one),
        }

    with make_world(folder, max_loras=3, max_cpu_loras=6) as world:
        return asyncio.run(play(world))


def logits_for_prompt_rows(world: World) -> Seen:
    adapter = LoRARequest("a@1", 1, str(world.adapter("a", 1)))
    world.step([adapter, adapter])
    wrapped = sorted({name.rpartition(".")[2] for name in world.manager._adapter_manager.modules})
    try:
        logits = world.model.compute_logits(torch.zeros(5, 64))
    except Exception as error:  # noqa: BLE001  # inside a step, any of them ends the engine
        return {"wrapped": wrapped, "logits": f"{type(error).__name__}: {error}"[:200]}
    return {"wrapped": wrapped, "logits": list(logits.shape)}


def request_of(adapter: LoRARequest) -> Any:
    return SimpleNamespace(lora_request=adapter)


SCENARIOS: dict[str, dict[str, Callable[[Path], Seen]]] = {
    "plain": {
        "h2": plain_h2,
        "h4": plain_h4,
        "h4 through residency": h4_through_residency,
        "h5": plain_h5,
        "h6": plain_h6,
        "h8": plain_h8,
        "h10": plain_h10,
    },
    "ours": {
        "h2": ours_h2,
        "h4": ours_h4,
        "h4 through residency": h4_through_residency,
        "h6": ours_h6,
        "h8": ours_h8,
        "h10": ours_h10,
    },
}


def main(mode: str) -> None:
    torch.set_num_threads(1)
    if mode == "ours":
        vllm_compat.use_segmented_kernels()
    start_vllm()
    seen = {}
    for name, play in SCENARIOS[mode].items():
        with tempfile.TemporaryDirectory(prefix="loradock-hazard-") as folder:
            seen[name] = play(Path(folder))
            for path in Path(folder).rglob("*"):
                if path.is_dir():
                    path.chmod(0o755)  # blobs are read-only
    sys.stdout.write(json.dumps(seen))


if __name__ == "__main__":
    main(sys.argv[1])
