"""vLLM's own LoRA manager around a tiny Llama, in this process, with or without our changes to it.

Stands where the worker stands: what its `step` raises would end a real engine. Imports vLLM; run it in a process of
its own (see scenarios.py), since our changes patch vLLM's classes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM
from vllm.config import set_current_vllm_config
from vllm.distributed import ensure_model_parallel_initialized, init_distributed_environment
from vllm.engine.arg_utils import EngineArgs
from vllm.lora.layers import LoRAMapping
from vllm.lora.request import LoRARequest
from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager
from vllm.model_executor.model_loader import get_model

from loadtest.correctness.loud import make_loud
from loradock_adapters.base_model import BaseModel
from loradock_adapters.check import Limits
from loradock_adapters.store import FolderStore
from loradock_server.engine import vllm_compat
from loradock_server.engine.artifacts import StoredArtifacts
from loradock_server.engine.launch import target_modules
from loradock_server.engine.limits import MemoryLimits
from loradock_server.engine.residency import Residency
from loradock_server.engine.stager import Stager, StagerOrder

FILES = ("adapter_config.json", "adapter_model.safetensors")


def make_base(folder: Path) -> BaseModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        dtype="float32",
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return BaseModel.read(folder)


@dataclass
class World:
    """One worker's LoRA state. `loads` counts reads of adapter files by vLLM, whoever caused them."""

    base: BaseModel
    folder: Path
    manager: LRUCacheWorkerLoRAManager
    model: Any
    loads: list[str] = field(default_factory=list)

    def adapter(self, name: str, seed: int, **options: Any) -> Path:
        return make_loud(self.folder / name, self.base, seed, **options)

    def step(self, requests: Sequence[LoRARequest | None]) -> None:
        """What vLLM does with its adapters before each forward pass: one row per request, None for the base."""
        ids = tuple(0 if request is None else request.lora_int_id for request in requests)
        self.manager.set_active_adapters({r for r in requests if r is not None}, LoRAMapping(ids, ids, is_prefill=True))

    def fate_of_step(self, requests: Sequence[LoRARequest | None]) -> str:
        """ "fine", or the exception that would have ended the engine."""
        try:
            self.step(requests)
        except Exception as error:  # noqa: BLE001  # whatever it is, the engine would be dead
            return f"{type(error).__name__}: {error}"[:200]
        return "fine"

    def fate_of_one(self, request: LoRARequest) -> str:
        return self.fate_of_step([request])

    @property
    def inside(self) -> set[int]:
        return set(self.manager.list_adapters())


class Client:
    """AsyncLLM's adapter calls onto the manager, with the wrapping that errors get on their way from a worker."""

    errored = False

    def __init__(self, world: World) -> None:
        self._world = world

    async def add_lora(self, request: LoRARequest) -> bool:
        try:
            return bool(self._world.manager.add_adapter(request))
        except Exception as error:
            raise Exception(
                f"Call to add_lora method failed: Worker failed with error '{error}', please check the stack trace "
                "above for the root cause"
            ) from error

    async def remove_lora(self, number: int) -> bool:
        return bool(self._world.manager.remove_adapter(number))


class NoMetrics:
    def loaded(self, adapter_id: str, seconds: float, *, ok: bool) -> None: ...
    def evicted(self, adapter_id: str, *, for_room: bool) -> None: ...


class Side:
    """Our side of the engine over a World: store, residency, loader, and the names published to vLLM's routes."""

    def __init__(self, world: World, *, capacity: int) -> None:
        self.store = FolderStore(world.folder / "store")
        self.published: dict[str, LoRARequest] = {}
        state = SimpleNamespace(openai_serving_models=SimpleNamespace(lora_requests=self.published))
        engine: Any = SimpleNamespace(client=Client(world), app=SimpleNamespace(state=state))
        artifacts = StoredArtifacts(self.store, world.base, Limits(max_rank=8, max_bytes=1 << 24))
        unused = Stager(StagerOrder("", "", 0, 0))  # vLLM reads these itself
        limits = MemoryLimits(adapters=capacity, size_bytes=1 << 30)
        self.residency = Residency(vllm_compat.AdapterLoader(engine, unused), artifacts, NoMetrics(), limits=limits)

    def register(self, folder: Path) -> str:
        return self.store.put(folder, FILES).digest


def start_vllm() -> None:
    """Once per process: a "distributed" group of one."""
    # As vLLM's CPU model runner does: there is no accelerator whose cache could be emptied.
    torch.accelerator.empty_cache = lambda: None
    meeting = Path(tempfile.mkdtemp()) / "meet"
    init_distributed_environment(
        world_size=1, rank=0, local_rank=0, distributed_init_method=f"file://{meeting}", backend="gloo"
    )


@contextmanager
def make_world(folder: Path, *, max_loras: int, max_cpu_loras: int, wrap_everything: bool = False) -> Iterator[World]:
    """A fresh model and manager. LoRA wraps what `launch_order` names, or everything, which is vLLM's default."""
    base = make_base(folder / "base")
    args = EngineArgs(
        model=str(base.folder),
        skip_tokenizer_init=True,
        dtype="float32",
        enforce_eager=True,
        enable_lora=True,
        max_loras=max_loras,
        max_cpu_loras=max_cpu_loras,
        max_lora_rank=8,
        lora_target_modules=None if wrap_everything else list(target_modules(base)),
        max_model_len=64,
        kv_cache_memory_bytes=1 << 20,
    )
    config = args.create_engine_config()
    with set_current_vllm_config(config):
        ensure_model_parallel_initialized(1, 1)
        model = get_model(vllm_config=config)
        manager = LRUCacheWorkerLoRAManager(config, torch.device("cpu"), model.embedding_modules)
        manager.create_lora_manager(model, config)
        world = World(base, folder, manager, model)
        load = manager._load_adapter

        def counted(request: LoRARequest) -> Any:
            world.loads.append(request.lora_name)
            return load(request)

        manager._load_adapter = counted
        yield world
