"""What an engine process is told when it starts, and the vLLM flags that follow from it.

The order comes as one JSON line on standard input: nothing secret shows in the process list or the environment, and
the closing of that pipe tells the engine that its supervisor is gone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from loradock_adapters.adapter_settings import MAX_STOPS
from loradock_adapters.base_model import BaseModel
from loradock_server.base import ServedBase
from loradock_server.settings import Settings

from .admission import Rules

KERNEL_VARIABLE = "LORADOCK_CPU_KERNEL"
PLUGIN = "loradock"  # our entry point in vllm.general_plugins
# The format that most open models were taught, of those whose parser takes any tokenizer. Another one: in engine_args.
TOOL_PARSER = "hermes"
# vLLM sizes its slots by one of these (LoRAConfig.max_lora_rank); an adapter may have any rank up to it.
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


@dataclass(frozen=True, slots=True)
class LaunchOrder:
    """Everything an engine process needs. Paths are absolute; `address` is unix:/path or http://host:port."""

    address: str
    token: str
    generation: str
    restarts: int
    model: str
    served_name: str
    base_digest: str
    target_modules: tuple[str, ...]
    artifacts: str  # a folder, or s3://bucket/prefix
    artifacts_cache: str
    artifacts_cache_bytes: int
    max_loras: int
    max_cpu_loras: int
    adapter_memory_bytes: int
    max_rank: int
    max_adapter_bytes: int
    max_model_len: int
    dtype: str
    kv_cache_bytes: int
    drain_timeout: float
    metrics_adapter_limit: int
    log_level: str
    engine_args: tuple[str, ...]
    compile: bool
    cache_root: str
    cpu_kernel: str = "auto"
    text_only: bool = False  # a multimodal base, whose towers stay out
    start_timeout: float = 600.0
    hang_timeout: float = 30.0
    require_signature: bool = False
    trusted_keys: tuple[str, ...] = ()
    admission: Rules = Rules()

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> LaunchOrder:
        fields = json.loads(text)
        for name in ("target_modules", "engine_args", "trusted_keys"):
            fields[name] = tuple(fields[name])
        fields["admission"] = Rules(**fields["admission"])
        return cls(**fields)


def vllm_rank(max_rank: int) -> int:
    """The smallest size of vLLM's that holds `max_rank`. Raises ValueError above its largest."""
    for rank in VLLM_RANKS:
        if rank >= max_rank:
            return rank
    raise ValueError(f"max_rank {max_rank} is above vLLM's limit of {VLLM_RANKS[-1]}")


def vllm_flags(order: LaunchOrder, *, on_cpu: bool, trace_endpoint: str | None) -> Sequence[str]:
    """Command-line flags for vLLM's own parser; `engine_args` come last and win."""
    flags = [
        f"--model={order.model}",
        f"--served-model-name={order.served_name}",
        "--enable-lora",
        f"--max-loras={order.max_loras}",
        # More than we ever load: which adapter leaves is decided by our residency, never by vLLM's own LRU.
        f"--max-cpu-loras={max(order.max_loras, order.max_cpu_loras) + order.max_loras}",
        f"--max-lora-rank={vllm_rank(order.max_rank)}",
        # Leaves embeddings and lm_head unwrapped: less work each step, and no crash on prompt_logprobs (map: H8).
        "--lora-target-modules",
        *order.target_modules,
        f"--max-model-len={order.max_model_len}",
        f"--dtype={order.dtype}",
        "--enable-prompt-tokens-details",
        # Without a parser vLLM refuses `tools`, even where the answer's grammar is fixed and there is nothing to parse.
        "--enable-auto-tool-choice",
        f"--tool-call-parser={TOOL_PARSER}",
        "--disable-fastapi-docs",
        "--disable-uvicorn-access-log",
    ]
    if order.text_only:
        # No tower is loaded and no picture taken. Adapters act on the language model alone.
        flags.append("--language-model-only")
    if on_cpu:
        flags += [
            f"--kv-cache-memory-bytes={order.kv_cache_bytes}",
            "--worker-extension-cls=loradock_server.engine.vllm_compat.WorkerExtension",
        ]
        if not order.compile:
            flags.append("--enforce-eager")
    if trace_endpoint:
        flags.append(f"--otlp-traces-endpoint={trace_endpoint}")
    return [*flags, *order.engine_args]


def trace_endpoint(env: Mapping[str, str]) -> str | None:
    """The OTLP/HTTP traces URL that the standard variables ask for, None when traces go nowhere."""
    if env.get("OTEL_SDK_DISABLED", "").lower() == "true" or env.get("OTEL_TRACES_EXPORTER", "otlp") == "none":
        return None
    if url := env.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        return url
    if url := env.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        return url.rstrip("/") + "/v1/traces"
    return None


def process_environment(
    cache_root: str, env: Mapping[str, str] = os.environ, *, cpu_kernel: str = "auto"
) -> dict[str, str]:
    """The environment of an engine process: ours, made safe for serving. Compiled models are kept in `cache_root`."""
    result = dict(env)
    result[KERNEL_VARIABLE] = cpu_kernel  # the worker, a process of vLLM's, knows no settings
    # vLLM's own way to load adapters at run time is unauthenticated and takes any path: never, whatever is set.
    result.pop("VLLM_ALLOW_RUNTIME_LORA_UPDATING", None)
    # Where this names the plugins to load, ours must be among them, or base rows are answered by adapters (map: H1).
    if (plugins := result.get("VLLM_PLUGINS")) is not None and PLUGIN not in plugins.split(","):
        result["VLLM_PLUGINS"] = ",".join(filter(None, (plugins, PLUGIN)))
    result.setdefault("VLLM_CACHE_ROOT", f"{cache_root}/vllm")
    result.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{cache_root}/inductor")
    result.setdefault("VLLM_NO_USAGE_STATS", "1")
    # As many as an adapter's settings may have: vLLM's own limit is 4, and would refuse every request of such a one.
    result.setdefault("VLLM_MAX_STOP_STRINGS", str(MAX_STOPS))
    # OpenAI's limit of `n`; vLLM's own is 16384, which is a way to fill an engine with one request.
    result.setdefault("VLLM_MAX_N_SEQUENCES", "128")
    result.setdefault("OTEL_SERVICE_NAME", "loradock-engine")
    # OTLP over HTTP, as in our gateway; vLLM's own default would be gRPC.
    result.setdefault("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf")
    return result


def target_modules(base: BaseModel) -> tuple[str, ...]:
    """The last names of the modules that adapters may target: the language model's linear layers, without lm_head.

    vLLM takes last names, or full ones as it calls its own layers, which only it knows. What else has such a last name
    is left alone: a tower's layers by vLLM, what is no linear layer by vllm_compat.adapt_linear_layers_only.
    """
    return tuple(sorted({name.rpartition(".")[2] for name in base.modules}))


def launch_order(settings: Settings, base: ServedBase, token: str) -> LaunchOrder:
    """The order that `settings` amount to. Generation and restarts are the supervisor's to fill in."""
    return LaunchOrder(
        address=settings.engine,
        token=token,
        generation="",
        restarts=0,
        model=str(base.model.folder),
        served_name=base.served_name,
        base_digest=base.model.digest,
        target_modules=target_modules(base.model),
        text_only=any(name.partition(".")[0] != "pooler" for name in base.model.others),
        artifacts=settings.store,
        artifacts_cache=str(settings.store_cache),
        artifacts_cache_bytes=settings.artifacts_cache_bytes,
        max_loras=settings.max_loras,
        max_cpu_loras=settings.max_cpu_loras,
        adapter_memory_bytes=settings.adapter_memory_bytes,
        max_rank=settings.max_rank,
        max_adapter_bytes=settings.max_adapter_bytes,
        max_model_len=settings.max_model_len,
        dtype=settings.dtype,
        kv_cache_bytes=settings.kv_cache_bytes,
        drain_timeout=settings.drain_timeout,
        metrics_adapter_limit=settings.metrics_adapter_limit,
        log_level=settings.log_level,
        engine_args=settings.engine_args,
        compile=settings.compile,
        cache_root=str(settings.home.absolute() / "cache"),
        cpu_kernel=settings.cpu_kernel,
        start_timeout=settings.engine_start_timeout,
        hang_timeout=settings.hang_timeout,
        require_signature=settings.require_signature,
        trusted_keys=tuple(key.text for key in settings.trusted_keys),
        admission=Rules(
            max_waiting=settings.max_waiting,
            max_waiting_per_adapter=settings.max_waiting_per_adapter,
            quantum_tokens=settings.fair_quantum_tokens,
            quantum_seconds=settings.fair_quantum_seconds,
            patience=settings.fair_patience,
        ),
    )
