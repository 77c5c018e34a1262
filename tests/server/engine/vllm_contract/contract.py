"""What we lean on in vLLM: every name, parameter, field and text, each with who needs it where that is not plain.

`test_contract` compares the list with our own code, and each item with the sources of each version. Keep it by topic.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loradock_server import wire
from loradock_server.engine.launch import TOOL_PARSER, VLLM_RANKS, process_environment, vllm_flags
from loradock_server.engine.vllm_versions import MOVED

from .sources import Sources

ROOT = Path(__file__).parents[4]


@dataclass(frozen=True, slots=True)
class Has:
    """A name that is there, whatever it is."""

    name: str

    @property
    def key(self) -> str:
        return self.name

    def fact(self, sources: Sources) -> Any:
        return sources.kind(self.name)

    def fault(self, fact: Any) -> str | None:
        return None if fact else "is not there"


@dataclass(frozen=True, slots=True)
class Takes:
    """A callable with these parameters: `first` in this place and order, `named` anywhere, `exactly` and no others."""

    name: str
    first: tuple[str, ...] = ()
    named: tuple[str, ...] = ()
    exactly: tuple[str, ...] | None = None

    @property
    def key(self) -> str:
        return f"{self.name}()"

    def fact(self, sources: Sources) -> Any:
        return sources.parameters(self.name)

    def fault(self, fact: Any) -> str | None:
        if fact is None:
            return "is not there"
        wanted = self.exactly if self.exactly is not None else self.first
        if list(wanted) != (fact if self.exactly is not None else fact[: len(wanted)]):
            return f"takes {fact}, we give {list(wanted)}"
        missing = [name for name in self.named if name not in fact]
        return f"takes {fact}, without {missing}" if missing else None


@dataclass(frozen=True, slots=True)
class Says:
    """A text in a module's strings or code; `vllm.entrypoints.*` is any module below."""

    where: str
    text: str

    @property
    def key(self) -> str:
        return f"{self.where} says {self.text}"

    def fact(self, sources: Sources) -> Any:
        return sources.says(self.where, self.text)

    def fault(self, fact: Any) -> str | None:
        return None if fact else "is not there"


Item = Has | Takes | Says


def members(owner: str, *names: str) -> list[Item]:
    return [Has(f"{owner}.{name}") for name in names]


_CLIENT = "vllm.v1.engine.async_llm:AsyncLLM"
_PROCESSOR = "vllm.v1.engine.output_processor:OutputProcessor"
_MANAGER = "vllm.lora.model_manager:LoRAModelManager"
_LAYER = "vllm.lora.layers.base_linear:BaseLinearLayerWithLoRA"
_MERGED = "vllm.lora.layers.column_parallel_linear:MergedColumnParallelLinearWithLoRA"
_PUNICA = "vllm.lora.punica_wrapper.punica_cpu:PunicaWrapperCPU"
_CORE = "vllm.v1.engine.core:EngineCoreProc"
_STATE = "vllm.entrypoints.launchers.api_server.app_state"
_DECORATORS = "vllm.compilation.decorators"

APPLICATION: list[Item] = [
    Takes("vllm.entrypoints.launchers.app:build_app", first=("args", "supported_tasks", "model_config")),
    Takes(f"{_STATE}:init_app_state", first=("engine_client", "state", "args", "supported_tasks")),
    Takes("vllm.entrypoints.launchers.api_server.entry:build_async_engine_client", first=("args",)),
    Takes("vllm.entrypoints.launchers.api_server.entry:run_server", first=("args",)),  # loadtest
    Says(_STATE, "state.openai_serving_models = "),
    Has("vllm.entrypoints.openai.models.serving:OpenAIServingModels.lora_requests"),
    # Where we put something that its error handler may stop.
    Says("vllm.entrypoints.serve.exception_handling.handlers.vllm_error", "app.state.server"),
    Says("vllm.entrypoints.launchers.launcher", "server.should_exit = True"),
    Has("vllm.utils.argparse_utils:FlexibleArgumentParser"),
]

CLIENT: list[Item] = [
    *members(_CLIENT, "errored", "vllm_config", "model_config", "output_processor"),
    *members(_CLIENT, "list_loras", "get_supported_tasks"),
    Takes(f"{_CLIENT}.generate", first=("self", "prompt", "sampling_params", "request_id"), named=("lora_request",)),
    Takes(f"{_CLIENT}.generate", named=("trace_headers",)),
    Takes(f"{_CLIENT}.abort", exactly=("self", "request_id", "internal")),
    Takes(f"{_CLIENT}.add_lora", exactly=("self", "lora_request")),
    Takes(f"{_CLIENT}.remove_lora", exactly=("self", "lora_id")),
    Takes(f"{_CLIENT}.collective_rpc", first=("self", "method"), named=("args",)),
    Takes(f"{_CLIENT}.is_tracing_enabled", exactly=("self",)),
    *members("vllm.config:VllmConfig", "scheduler_config", "lora_config", "model_config", "compilation_config"),
    Has("vllm.config:SchedulerConfig.max_num_seqs"),
    *members("vllm.config:LoRAConfig", "max_loras", "lora_dtype"),
    *members("vllm.config:ModelConfig", "dtype", "max_model_len", "max_logprobs", "served_model_name"),
    Has("vllm.config:CompilationConfig.mode"),
    *members("vllm.config:CompilationMode", "VLLM_COMPILE", "DYNAMO_TRACE_ONCE"),
]

REQUESTS: list[Item] = [
    Takes(f"{_PROCESSOR}.add_request", first=("self", "request")),
    Takes(
        f"{_PROCESSOR}._update_stats_from_finished",
        exactly=("self", "req_state", "finish_reason", "iteration_stats"),
    ),
    Takes(f"{_PROCESSOR}.do_tracing", exactly=("self", "engine_core_output", "req_state", "iteration_stats")),
    Has(f"{_PROCESSOR}.request_states"),
    *members("vllm.v1.engine:EngineCoreRequest", "request_id", "lora_request"),
    *members(
        "vllm.v1.engine.output_processor:RequestState",
        *("stats", "request_index", "prompt_len", "num_cached_tokens", "lora_request"),
    ),
    *members(
        "vllm.v1.metrics.stats:RequestStateStats",
        *("scheduled_ts", "queued_ts", "num_generation_tokens", "first_token_latency"),
    ),
    *members("vllm.outputs:RequestOutput", "outputs", "prompt_logprobs"),
    *members("vllm.outputs:CompletionOutput", "finish_reason", "token_ids", "logprobs"),
    Has("vllm.logprobs:Logprob.logprob"),
    Has("vllm.v1.engine:FinishReason.ERROR"),
    Says("vllm.v1.engine", '("stop", "length", "abort", "error"'),  # as words, in this order
    Says("vllm.v1.engine.output_processor", 'span_name="llm_request"'),
    Takes("vllm.inputs.engine:tokens_input", first=("prompt_token_ids",)),
    Takes(
        "vllm.sampling_params:SamplingParams",
        named=(
            *("temperature", "max_tokens", "ignore_eos", "logprobs", "prompt_logprobs", "detokenize"),
            *("skip_reading_prefix_cache", "output_kind", "structured_outputs"),
        ),
    ),
    Has("vllm.sampling_params:RequestOutputKind.FINAL_ONLY"),
    *members("vllm.pooling_params:PoolingParams", "task", "skip_reading_prefix_cache"),
    Takes(f"{_CLIENT}.encode", first=("self", "prompt", "pooling_params", "request_id"), named=("lora_request",)),
    Has("vllm.outputs:PoolingOutput.data"),
]

REMOVAL: list[Item] = [
    Takes(f"{_CORE}.remove_lora", exactly=("self", "lora_id")),
    Takes(f"{_CORE}._send_abort_outputs", exactly=("self", "aborted_reqs")),
    Has(f"{_CORE}.scheduler"),
    Has("vllm.v1.core.sched.scheduler:Scheduler.requests"),
    Takes("vllm.v1.core.sched.scheduler:Scheduler.finish_requests", exactly=("self", "request_ids", "finished_status")),
    *members("vllm.v1.request:Request", "lora_request", "request_id"),
    Has("vllm.v1.request:RequestStatus.FINISHED_ABORTED"),
]

ADAPTERS: list[Item] = [
    Takes("vllm.lora.request:LoRARequest", first=("lora_name", "lora_int_id", "lora_path")),
    *members("vllm.lora.request:LoRARequest", "lora_name", "lora_int_id", "lora_path"),
    Takes("vllm.lora.peft_helper:PEFTHelper.from_local_dir", first=("cls", "lora_path", "max_position_embeddings")),
    Takes("vllm.lora.peft_helper:PEFTHelper.validate_legal", exactly=("self", "lora_config")),
    Takes("vllm.lora.peft_helper:PEFTHelper.get_rank_and_scaling", exactly=("self", "module_name")),
    Takes("vllm.lora.lora_model:LoRAModel", first=("self", "lora_model_id", "rank", "loras")),
    *members("vllm.lora.lora_model:LoRAModel", "id", "loras"),
    *members("vllm.lora.lora_weights:LoRALayerWeights", "lora_a", "lora_b"),
    # What it said of an adapter that it would not load (`refusal`).
    Says("vllm.v1.executor.multiproc_executor", "Worker failed with error '"),
    Says("vllm.v1.executor.multiproc_executor", "', please check"),
    Says("vllm.exceptions", "failed: No adapter found for"),
    Says("vllm.config.lora", f"Literal[{', '.join(map(str, VLLM_RANKS))}]"),
]

ARITHMETIC: list[Item] = [
    Has("vllm.platforms:current_platform"),
    Has("vllm.platforms.cpu:CpuPlatform.is_cpu"),
    Takes("vllm.platforms.cpu:CpuPlatform.get_punica_wrapper", exactly=("cls",)),
    Takes("vllm.platforms.cpu:CpuPlatform.check_and_update_config", exactly=("cls", "vllm_config")),
    Takes(f"{_MANAGER}._create_lora_modules", exactly=("self",)),
    Takes(f"{_MANAGER}._add_adapter", exactly=("self", "lora")),
    Takes(f"{_MANAGER}._deactivate_adapter", exactly=("self", "lora_id")),
    Takes(f"{_MANAGER}.activate_adapter", exactly=("self", "lora_id")),
    Takes(f"{_MANAGER}.add_adapter", first=("self", "adapter")),
    Takes(f"{_MANAGER}._get_lora_layer_weights", exactly=("self", "lora_model", "module_name")),
    *members(_MANAGER, "modules", "lora_config", "punica_wrapper_mapping", "packed_modules"),
    *members(_MANAGER, "model", "is_pooling_model", "supported_lora_modules"),
    Takes(f"{_MANAGER}._match_target_modules", exactly=("self", "module_name")),
    Takes("vllm.lora.utils:is_supported_lora_module", exactly=("module_name", "module", "supported_lora_modules")),
    Takes("vllm.lora.utils:parse_fine_tuned_lora_name", first=("name", "weights_mapper")),
    Takes("vllm.model_executor.models.utils:WeightsMapper.get_rename_mapper", exactly=("self",)),
    *members(_MANAGER, "_registered_adapters", "_active_adapters", "lora_index_to_id"),
    Takes(f"{_LAYER}._apply_lora_to_output", exactly=("self", "x", "output")),
    *members(_LAYER, "lora_a_stacked", "lora_b_stacked", "output_slices", "n_slices", "tp_size"),
    *members(_LAYER, "punica_wrapper", "slice_lora_a", "slice_lora_b"),
    Takes(f"{_MERGED}.expand_packed_lora", exactly=("self", "lora_a", "lora_b")),
    Has("vllm.v1.worker.lora_model_runner_mixin:LoRAModelRunnerMixin.maybe_dummy_run_with_lora"),
    Has("vllm.v1.worker.lora_model_runner_mixin:LoRAModelRunnerMixin.lora_manager"),
    Has("vllm.lora.worker_manager:WorkerLoRAManager._adapter_manager"),
    Has("vllm.v1.worker.cpu_worker:CPUWorker.model_runner"),
    Takes(
        f"{_PUNICA}.add_lora_linear",
        first=("self", "y", "x", "lora_a_stacked", "lora_b_stacked", "scale", "output_slices"),
    ),
    Takes(f"{_PUNICA}.update_metadata", first=("self", "mapping", "lora_index_to_id", "max_loras", "vocab_size")),
    *members(_PUNICA, "add_lora_embedding", "add_lora_logits", "no_lora"),
    Has("vllm.lora.layers:LoRAMapping.index_mapping"),
    # What lets a compiled model be kept from one start to the next.
    Says(_DECORATORS, "torch.compiler.load_compiled_function("),
    Says(_DECORATORS, "loaded_fn._artifacts.compiled_fn.finalize_loading(model.vllm_config)"),
]

ENTRANCES: list[Item] = [
    Says("vllm.plugins", "vllm.general_plugins"),
    Says("vllm.tool_parsers", f'"{TOOL_PARSER}"'),
    Says("vllm.entrypoints.*", '"/v1/models"'),
    *(Says("vllm.entrypoints.*", f'"{path}"') for path in sorted(wire.COMPUTING | wire.READING)),
    # In Prometheus a counter has `_total` at its end.
    *(
        Says("vllm.v1.metrics.*", f'"vllm:{name}"')
        for name in (
            *("generation_tokens", "kv_cache_usage_perc", "lora_requests_info"),
            *("num_requests_running", "num_requests_waiting"),
        )
    ),
    # What gateway/engine_words finds in its errors.
    Says("vllm.v1.engine.input_processor", "longer than the maximum model length"),
    Says("vllm.exceptions", "parameter={}"),
    Says("vllm.renderers.online_renderer", "tool choice requires --enable-auto-tool-choice and --tool-call-parser"),
]

MOVED_NAMES: Mapping[str, tuple[str, ...]] = {
    "make_arg_parser": ("parser",),
    "validate_parsed_serve_args": ("args",),
    "cli_env_setup": (),
}


@functools.cache
def contract(version: str) -> tuple[Item, ...]:
    """All that we lean on in this version of vLLM (0.32)."""
    items = [*APPLICATION, *CLIENT, *REQUESTS, *REMOVAL, *ADAPTERS, *ARITHMETIC, *ENTRANCES]
    items += [Has(name) for name in imported()]
    items += [Takes(f"{MOVED[name][version]}:{name}", exactly=taken) for name, taken in MOVED_NAMES.items()]
    return (*items, *flags(version), *environment())


def facts(version: str, sources: Sources) -> dict[str, Any]:
    """What this version has of it, by the items' keys."""
    return {item.key: item.fact(sources) for item in contract(version)}


@functools.cache
def imported() -> list[str]:
    """Every name that our code, tools and tests import from vLLM: `vllm.lora.request:LoRARequest`."""
    found: set[str] = set()
    for folder in ("server", "loadtest", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            found.update(_imported(ast.parse(path.read_text())))
    return sorted(found)


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").startswith("vllm."):
            yield from (f"{node.module}:{alias.name}" for alias in node.names)


def flags(version: str) -> Iterable[Item]:
    """Every flag that an engine is started with, as a field of vLLM's arguments."""
    arguments = f"{MOVED['make_arg_parser'][version]}:FrontendArgs"
    for flag in sorted(set(re.findall(r"--([a-z][a-z-]+)", inspect.getsource(vllm_flags)))):
        name = flag.replace("-", "_")
        yield Has(f"{arguments if name in OF_THE_APPLICATION else 'vllm.engine.arg_utils:AsyncEngineArgs'}.{name}")


# Flags of vLLM's web application; all others are its engine's.
OF_THE_APPLICATION = {
    *("enable_prompt_tokens_details", "enable_auto_tool_choice", "tool_call_parser", "disable_fastapi_docs"),
    "disable_uvicorn_access_log",
}


def environment() -> Iterable[Item]:
    """Every variable of vLLM's that an engine is started with or without."""
    given = process_environment("/cache", {"VLLM_PLUGINS": "", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"})
    names = {name for name in given if name.startswith("VLLM_")} | {"VLLM_ALLOW_RUNTIME_LORA_UPDATING"}
    return [Says("vllm.envs", f'"{name}"') for name in sorted(names)]
