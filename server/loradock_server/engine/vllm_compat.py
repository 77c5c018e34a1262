"""Every private name of vLLM that we lean on, in one place; where its versions differ, `vllm_versions` knows.

Three groups: building vLLM's application without its command line; hooks that let us see what a request costs and
which adapter it used; loading and unloading adapters. Where vLLM moves something, tests/server/engine/
test_vllm_compat.py says which name, before a server fails on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import re
import shutil
import sysconfig
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.trace import Span
from prometheus_client import REGISTRY
from vllm.config import CompilationMode
from vllm.engine.protocol import EngineClient
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.api_server.entry import build_async_engine_client
from vllm.entrypoints.launchers.app import build_app
from vllm.exceptions import VLLMValidationError
from vllm.inputs.engine import tokens_input
from vllm.lora.layers.base_linear import BaseLinearLayerWithLoRA
from vllm.lora.lora_model import LoRAModel
from vllm.lora.model_manager import LoRAModelManager
from vllm.lora.peft_helper import PEFTHelper
from vllm.lora.request import LoRARequest
from vllm.lora.utils import is_supported_lora_module, parse_fine_tuned_lora_name
from vllm.platforms import current_platform
from vllm.pooling_params import PoolingParams
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine.core import EngineCoreProc
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.engine.output_processor import OutputProcessor
from vllm.v1.request import RequestStatus
from vllm.v1.worker.lora_model_runner_mixin import LoRAModelRunnerMixin

from loradock_adapters.base_model import BaseModel
from loradock_adapters.names import AdapterRef
from loradock_adapters.peft_folder import WEIGHTS_FILE, tensor_name
from loradock_adapters.processor import Processor
from loradock_server.telemetry import attributes

if TYPE_CHECKING:
    from .kernels.choice import Choice
    from .kernels.slots import LayerSlots, Packed

from .context import Generation, RequestContext, current_request
from .residency import AdapterGone, AdapterUnfit, EngineGone, NoRoom, Prepared, ResidencyError
from .selftest import Answer, Row
from .staging import Layer, Plan, Slice, unstage
from .vllm_versions import moved

log = logging.getLogger(__name__)

make_arg_parser = moved("make_arg_parser")
validate_parsed_serve_args = moved("validate_parsed_serve_args")
cli_env_setup = moved("cli_env_setup")

# vLLM's warm-up uses the ids 1 … max_loras for its dummies; ours start far above and are never used twice.
FIRST_ADAPTER_NUMBER = 100_000
VLLMS_OWN = "vLLM's own"
"""The kernel that computes LoRA where ours is not."""


def on_cpu() -> bool:
    return bool(current_platform.is_cpu())


def missing_for_compiling() -> str | None:
    """What torch needs to compile a model and does not find here, or None."""
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        return "a C++ compiler (g++, or CXX)"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "Python's headers (python3-dev)"
    return None


# --- Building vLLM's application -------------------------------------------------------------------------------


class Engine:
    """vLLM's engine client and its web application, built and ready to be served."""

    def __init__(self, client: EngineClient, app: Any, tasks: Sequence[str]) -> None:
        self.client = client
        self.app = app
        self.generates = "generate" in tasks  # else it is a model for embeddings and the like
        self.embeds = next((task for task in ("embed", "token_embed") if task in tasks), None)

    @property
    def errored(self) -> bool:
        """True once the engine core or a worker has died; it never recovers."""
        return bool(self.client.errored)

    @property
    def routes(self) -> frozenset[str]:
        """The paths of vLLM's application: which there are depends on what the model can do."""
        return frozenset(path for route in self.app.routes if (path := getattr(route, "path", None)))

    @property
    def max_num_seqs(self) -> int:
        """How many sequences the engine computes in one step."""
        return int(self.client.vllm_config.scheduler_config.max_num_seqs)

    @property
    def dtype(self) -> str:
        """What it computes in: float32, bfloat16, float16."""
        return str(self.client.model_config.dtype).removeprefix("torch.")

    @property
    def max_loras(self) -> int:
        """How many distinct adapters it computes in one step."""
        return int(self.client.vllm_config.lora_config.max_loras)

    @property
    def max_model_len(self) -> int:
        """The longest prompt and answer together, tokens."""
        return int(self.client.model_config.max_model_len)

    async def round_trip(self) -> None:
        """Return when a question has gone through the engine core and every worker, and back."""
        await self.client.list_loras()


@asynccontextmanager
async def running_engine(flags: Sequence[str]) -> AsyncIterator[Engine]:
    """Start the engine processes and build vLLM's FastAPI application over them. Raises what vLLM raises."""
    cli_env_setup()
    parser = make_arg_parser(FlexibleArgumentParser(description="vLLM inside LoRADock"))
    args = parser.parse_args(list(flags))
    validate_parsed_serve_args(args)
    async with build_async_engine_client(args) as client:
        tasks = await client.get_supported_tasks()
        app = build_app(args, tasks, client.model_config)
        await init_app_state(client, app.state, args, tasks)
        app.state.server = _NoServer()
        yield Engine(client, app, tasks)


class _NoServer:
    """Stands where vLLM's error handler looks for its uvicorn server to stop; our supervisor decides that."""

    should_exit = False


# --- What a request costs --------------------------------------------------------------------------------------


def track_requests(client: Any) -> None:
    """Let every generation report into the RequestContext it was started under.

    Hooks OutputProcessor.add_request: it runs inside the request's own task, and the RequestState that it makes is
    kept up to date by vLLM for finished, failed and aborted generations alike.
    """
    processor: OutputProcessor = client.output_processor
    add_request = processor.add_request
    note_finished = processor._update_stats_from_finished

    def tracked_add(request: Any, *args: Any, **kwargs: Any) -> None:
        context = current_request.get()
        if context is None:
            add_request(request, *args, **kwargs)
            return
        _refuse_what_no_lease_covers(request, context)
        add_request(request, *args, **kwargs)
        context.ends.append(_ender(client, request.request_id))
        if state := processor.request_states.get(request.request_id):
            context.generations.append(_reader(state))

    def tracked_finish(req_state: Any, finish_reason: Any, iteration_stats: Any) -> None:
        req_state.loradock_finish_reason = str(finish_reason)
        note_finished(req_state, finish_reason, iteration_stats)

    processor.add_request = tracked_add
    processor._update_stats_from_finished = tracked_finish


def _refuse_what_no_lease_covers(request: Any, context: RequestContext) -> None:
    """Only the adapter that the guard holds in memory for this HTTP request, and only while it does, may answer it."""
    adapter = request.lora_request.lora_name if request.lora_request else None
    if adapter != context.adapter:
        raise ValueError(f"model is {adapter or 'the base model'}, but the request is for {context.adapter}")
    if context.over:
        raise ValueError(f"request {context.request_id} is over")


def _ender(client: Any, request_id: str) -> Callable[[], Awaitable[None]]:
    async def end() -> None:
        # vLLM aborts what its client left, but sometimes only when the garbage collector gets there.
        if request_id in client.output_processor.request_states and not client.errored:
            await client.abort(request_id, internal=True)

    return end


def _reader(state: Any) -> Callable[[], Generation]:
    def read() -> Generation:
        stats = state.stats
        # The prompt of n=2 is computed once: only the first of its sequences counts it.
        first = state.request_index == 0
        scheduled = stats.scheduled_ts > 0
        return Generation(
            input_tokens=state.prompt_len if first else 0,
            output_tokens=stats.num_generation_tokens,
            cached_tokens=state.num_cached_tokens if first else 0,
            finish_reason=getattr(state, "loradock_finish_reason", None),
            queue_seconds=stats.scheduled_ts - stats.queued_ts if scheduled else None,
            time_to_first_token_seconds=stats.first_token_latency or None,
        )

    return read


def explain_failed_grammars(client: Any) -> None:
    """Make what a request's grammar failed by the request's fault, which vLLM calls an internal error of its own.

    Most grammars are tried when the request comes; some fail only when they are compiled for the model's tokens, in the
    core, which tells its front end nothing but that the request is over.
    """
    generate = client.generate

    def explained(prompt: Any, sampling_params: Any, request_id: str, *args: Any, **kwargs: Any) -> Any:
        parts = generate(prompt, sampling_params, request_id, *args, **kwargs)
        # The others pass as they are: this is each token's way.
        return parts if getattr(sampling_params, "structured_outputs", None) is None else _explained(parts)

    client.generate = explained


async def _explained(parts: Any) -> AsyncIterator[Any]:
    async with aclosing(parts):
        async for part in parts:
            if any(answer.finish_reason == "error" for answer in part.outputs):
                raise VLLMValidationError(
                    "what the answer must fit (response_format, structured_outputs, text or tools) cannot be compiled "
                    "for this model; known to fail are repetitions of more than a hundred in a schema's `pattern`, "
                    "such as {1,200}: use maxLength instead, or a shorter pattern. The engine's log has the reason"
                )
            yield part


# --- Which adapter a span belongs to ---------------------------------------------------------------------------

_traced_adapter: ContextVar[LoRARequest | None] = ContextVar("loradock_traced_adapter", default=None)


def trace_adapters(client: Any) -> None:
    """Put the adapter's attributes on vLLM's `llm_request` spans, which know neither model nor adapter."""
    provider = trace.get_tracer_provider()
    if not isinstance(provider, TracerProvider):
        return
    processor: OutputProcessor = client.output_processor
    do_tracing = processor.do_tracing

    def traced(engine_core_output: Any, req_state: Any, iteration_stats: Any) -> None:
        token = _traced_adapter.set(req_state.lora_request)
        try:
            do_tracing(engine_core_output, req_state, iteration_stats)
        finally:
            _traced_adapter.reset(token)

    processor.do_tracing = traced
    provider.add_span_processor(_AdapterAttributes(str(client.vllm_config.model_config.served_model_name)))


class _AdapterAttributes(SpanProcessor):
    def __init__(self, base_name: str) -> None:
        self._base_name = base_name

    def on_start(self, span: Span, parent_context: Any = None) -> None:
        if getattr(span, "name", "") != "llm_request":
            return
        span.set_attribute(attributes.BASE_MODEL, self._base_name)
        request = _traced_adapter.get()
        if request is None:
            span.set_attribute(attributes.RESPONSE_MODEL, self._base_name)
            return
        ref = AdapterRef.parse(request.lora_name)
        span.set_attributes(
            {
                attributes.ADAPTER_ID: ref.id,
                attributes.ADAPTER_NAME: ref.name,
                attributes.ADAPTER_VERSION: ref.version,
                attributes.ADAPTER_DIGEST: Path(request.lora_path).name,
                attributes.RESPONSE_MODEL: ref.id,
            }
        )


# --- Adapters in and out ---------------------------------------------------------------------------------------


class Laid(Protocol):
    """An adapter laid out in memory (staging.Staged)."""

    @property
    def path(self) -> Path: ...
    @property
    def size_bytes(self) -> int: ...
    def close(self) -> None: ...


class Stages(Protocol):
    """Who lays adapters out (stager.Stager). Called in a thread; raises a ResidencyError."""

    def stage(self, folder: Path, plan: Mapping[str, Any], scales: Mapping[str, float]) -> Laid: ...


class AdapterLoader:
    """Loads adapters into the running engine and publishes them to vLLM's routes (residency.Loader).

    On CPU an adapter is staged in another process, and the worker takes it in between two steps in a moment; `plan` is
    the worker's, for that. Without it vLLM reads the adapter's files itself, and all decoding waits for it.
    """

    def __init__(self, engine: Engine, stager: Stages, plan: Plan | None = None, *, kernel: str = VLLMS_OWN) -> None:
        self._client = engine.client
        self._models = engine.app.state.openai_serving_models
        self._numbers: Iterator[int] = itertools.count(FIRST_ADAPTER_NUMBER)
        self._stager = stager
        self._plan = plan
        self.kernel = kernel
        """Which way LoRA deltas are computed, and why."""
        self._plain = {} if plan is None else plan.to_plain()  # once: some hundred layers

    @classmethod
    async def of(cls, engine: Engine, stager: Stages, base: BaseModel) -> AdapterLoader:
        """A loader that stages, where the engine's worker can take that."""
        if not on_cpu():
            return cls(engine, stager)
        arguments = (list(base.modules), list(base.others))
        plain = (await engine.client.collective_rpc("loradock_plan", args=arguments))[0]
        kernel = (await engine.client.collective_rpc("loradock_kernel"))[0]
        if plain is None:
            log.info("adapters are read by vLLM itself, between two steps")
            return cls(engine, stager, kernel=kernel)
        plan = Plan.from_plain(plain)
        if missing := sorted(base.modules.keys() - plan.modules):
            log.warning("%d layers of the base take no adapters in vLLM, such as %s", len(missing), missing[0])
        return cls(engine, stager, plan, kernel=kernel)

    async def prepare(self, adapter_id: str, folder: Path) -> Unstaged | StagedFolder:
        """All that can be done before the engine is asked. Raises a ResidencyError."""
        if self._plan is None:
            return Unstaged(folder, (folder / WEIGHTS_FILE).stat().st_size)
        try:
            return StagedFolder(folder, await asyncio.to_thread(self._stage, folder, self._plan))
        except ResidencyError:
            raise
        except Exception as error:
            raise refusal(adapter_id, str(error).replace(str(folder), "its folder")) from error

    def _stage(self, folder: Path, plan: Plan) -> Laid:
        config = self._client.vllm_config
        helper = PEFTHelper.from_local_dir(str(folder), config.model_config.max_model_len)
        helper.validate_legal(config.lora_config)
        scales = {module: float(helper.get_rank_and_scaling(module)[1]) for module in plan.modules}
        return self._stager.stage(folder, self._plain, scales)

    async def load(self, adapter_id: str, prepared: Prepared) -> int:
        """Load and publish under this id. Raises a ResidencyError; then nothing of it is left in the engine."""
        assert isinstance(prepared, Unstaged | StagedFolder)
        folder = prepared.folder
        # Not the staged file's path: name and path make the key under which vLLM caches prefixes.
        request = LoRARequest(adapter_id, next(self._numbers), str(folder))
        try:
            if isinstance(prepared, StagedFolder):
                arguments = (request.lora_int_id, str(prepared.staged.path))
                await self._client.collective_rpc("loradock_take_in", args=arguments)
            else:
                await self._client.add_lora(request)
        except EngineDeadError as error:
            raise EngineGone(f"the engine died while it loaded {adapter_id}; retry") from error
        except Exception as error:
            # A load that fails half way leaves its slot marked as in use with half the weights (map: H4).
            with contextlib.suppress(EngineDeadError):
                await self._client.remove_lora(request.lora_int_id)
            raise refusal(adapter_id, str(error).replace(str(folder), "its folder")) from error
        self._models.lora_requests[adapter_id] = request
        return int(request.lora_int_id)

    async def unload(self, adapter_id: str, number: int) -> None:
        self._models.lora_requests.pop(adapter_id, None)
        try:
            await self._client.remove_lora(number)
        except EngineDeadError as error:
            raise EngineGone(f"the engine died while it unloaded {adapter_id}") from error


@dataclass(frozen=True, slots=True)
class Unstaged:
    """An adapter that vLLM reads itself (residency.Prepared); the size is that of its file."""

    folder: Path
    size_bytes: int

    def close(self) -> None:
        """There is nothing to give back."""


@dataclass(frozen=True, slots=True)
class StagedFolder:
    """An adapter of which the worker needs to read no file (residency.Prepared)."""

    folder: Path
    staged: Laid

    @property
    def size_bytes(self) -> int:
        return self.staged.size_bytes

    def close(self) -> None:
        self.staged.close()


class Prober:
    """Puts the questions of self-test and probe to the engine (selftest.Prober); `purpose` names their requests."""

    # A parent that is not sampled: these questions are in nobody's trace.
    UNTRACED: ClassVar = {"traceparent": f"00-{'1' * 32}-{'1' * 16}-00"}

    def __init__(self, engine: Engine, purpose: str = "self-test") -> None:
        self._client = engine.client
        self._purpose = purpose
        self._models = engine.app.state.openai_serving_models
        self._likeliest = min(5, engine.client.model_config.max_logprobs)
        self._asked = itertools.count()

    async def answers(self, rows: Sequence[Row], tokens: int) -> list[Answer]:
        return await asyncio.gather(*(self._answer(row, tokens) for row in rows))

    async def _answer(self, row: Row, tokens: int) -> Answer:
        params = SamplingParams(
            temperature=0,
            max_tokens=tokens,
            ignore_eos=True,
            logprobs=self._likeliest,
            prompt_logprobs=0,
            detokenize=False,
            skip_reading_prefix_cache=True,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        adapter = self._models.lora_requests[row.adapter] if row.adapter else None
        generated = self._client.generate(
            tokens_input(list(row.prompt)),
            params,
            f"{self._purpose}-{next(self._asked)}",
            lora_request=adapter,
            trace_headers=self.UNTRACED if await self._client.is_tracing_enabled() else None,
        )
        output = [part async for part in generated][-1]
        given = zip(row.prompt[1:], output.prompt_logprobs[1:], strict=True)
        answer = output.outputs[0]
        return Answer(
            tuple(logprobs[token].logprob for token, logprobs in given),
            tuple(answer.token_ids),
            tuple({token: one.logprob for token, one in logprobs.items()} for logprobs in answer.logprobs),
        )


class EmbeddingProber:
    """The same for a model that gives embeddings. An answer's numbers are the embedding's, over their root mean square,
    where a prober of text has logprobs: about 1 whatever the model's width and scale.
    """

    def __init__(self, engine: Engine, purpose: str = "self-test") -> None:
        self._client = engine.client
        self._params = PoolingParams(task=engine.embeds, skip_reading_prefix_cache=True)
        self._purpose = purpose
        self._models = engine.app.state.openai_serving_models
        self._asked = itertools.count()

    async def answers(self, rows: Sequence[Row], tokens: int) -> list[Answer]:
        return await asyncio.gather(*map(self._answer, rows))

    async def _answer(self, row: Row) -> Answer:
        encoded = self._client.encode(
            tokens_input(list(row.prompt)),
            self._params,
            f"{self._purpose}-{next(self._asked)}",
            lora_request=self._models.lora_requests[row.adapter] if row.adapter else None,
            trace_headers=Prober.UNTRACED if await self._client.is_tracing_enabled() else None,
        )
        numbers = [part async for part in encoded][-1].outputs.data.flatten().double()
        return Answer(tuple((numbers / numbers.square().mean().sqrt()).tolist()), (), ())


def prober_of(engine: Engine, purpose: str = "self-test") -> Prober | EmbeddingProber | None:
    """Who can ask this engine, None where its answers are neither text nor embeddings."""
    if engine.generates:
        return Prober(engine, purpose)
    return EmbeddingProber(engine, purpose) if engine.embeds else None


def refusal(adapter_id: str, text: str) -> ResidencyError:
    """What to tell the client of an adapter that vLLM would not load, from what vLLM said."""
    # Every layer that the worker's message passes wraps it; the cause is in the middle.
    if found := re.search(r"Worker failed with error '(.*)', please check", text, re.DOTALL):
        text = found[1]
    cause = text.strip().rsplit("\n", 1)[-1][:500] or "no reason given, see the engine's log"
    if "No adapter found for" in cause:
        return AdapterGone(f"adapter {adapter_id}: its files went away while the engine read them")
    if re.search(r"out of memory|allocate memory|MemoryError", cause, re.IGNORECASE):
        return NoRoom(f"the engine has no memory for adapter {adapter_id}: {cause}")
    return AdapterUnfit(f"the engine refused adapter {adapter_id}: {cause}")


def end_requests_of_removed_adapters() -> None:
    """Make vLLM's core end the requests that still use an adapter before it removes it. Idempotent.

    Stock vLLM would read the removed adapter's files again inside the next step; a fault in them, or their absence,
    then ends the engine (map: H2). Residency removes only what nobody uses, so this is the second lock on that door.
    """
    remove = EngineCoreProc.remove_lora
    if hasattr(remove, "loradock_orderly"):
        return

    def remove_orderly(self: Any, lora_id: int) -> bool:
        users = [
            r for r in self.scheduler.requests.values() if r.lora_request and r.lora_request.lora_int_id == lora_id
        ]
        if users:
            log.warning("adapter number %d is removed under %d requests, which are ended", lora_id, len(users))
            ids = [request.request_id for request in users]
            self._send_abort_outputs(self.scheduler.finish_requests(ids, RequestStatus.FINISHED_ABORTED))
        return bool(remove(self, lora_id))

    remove_orderly.loradock_orderly = True  # type: ignore[attr-defined]
    EngineCoreProc.remove_lora = remove_orderly


# --- LoRA arithmetic on CPU ------------------------------------------------------------------------------------

KERNELS = "loradock_server.engine.kernels.punica.SegmentedPunica"


def use_segmented_kernels() -> None:
    """Put our LoRA storage and arithmetic in place of vLLM's CPU ones, in this process. Idempotent.

    vLLM's manager goes on deciding which adapter is in which slot. What changes: weights are packed once, when an
    adapter is added; entering a slot is a reference to them; leaving it drops the reference.
    """
    platform = type(current_platform)
    if platform.get_punica_wrapper() == KERNELS:
        return
    from .kernels import operator

    platform.get_punica_wrapper = classmethod(lambda cls: KERNELS)
    manager = LoRAModelManager
    create_modules, add_adapter, leave_slot = (
        manager._create_lora_modules,
        manager._add_adapter,
        manager._deactivate_adapter,
    )

    def create_and_adopt(self: Any) -> None:
        create_modules(self)
        self.loradock_layers = {name: layer for name, module in self.modules.items() if (layer := _adopt(module))}
        self.loradock_choice = _connect_operator(self.lora_config.lora_dtype)

    def add_packed(self: Any, lora: Any) -> None:
        if hasattr(lora, "loradock_packed"):
            self._registered_adapters[lora.id] = lora
            return
        add_adapter(self, lora)
        try:
            lora.loradock_packed = _pack_adapter(self, lora)
        except BaseException:
            # Nothing half done stays registered, or the next request with this number would be served from it (H4).
            self._registered_adapters.pop(lora.id, None)
            raise
        lora.loras = {}  # the packed copy is the only one

    def enter_slot(self: Any, lora_id: int) -> bool:
        if lora_id in self._active_adapters:
            return False
        slot = self.lora_index_to_id.index(None)  # the LRU manager has made room before
        packed = self._registered_adapters[lora_id].loradock_packed
        for name, layer in self.loradock_layers.items():
            layer.put(slot, packed.get(name))
        self._active_adapters[lora_id] = None
        self.lora_index_to_id[slot] = lora_id
        return True

    def leave_and_drop(self: Any, lora_id: int) -> None:
        if lora_id in self.lora_index_to_id:
            slot = self.lora_index_to_id.index(lora_id)
            for layer in self.loradock_layers.values():
                layer.put(slot, None)
        leave_slot(self, lora_id)

    manager._create_lora_modules = create_and_adopt
    manager._add_adapter = add_packed
    manager.activate_adapter = enter_slot
    manager._deactivate_adapter = leave_and_drop
    # Compiled or not, a layer adds its deltas by our operator; adapters of zeros to warm it up with tell us nothing.
    BaseLinearLayerWithLoRA._apply_lora_to_output = operator.apply_lora_to_output
    LoRAModelRunnerMixin.maybe_dummy_run_with_lora = lambda *_, **__: contextlib.nullcontext()
    _compile_with_lora(platform)


def _compile_with_lora(platform: Any) -> None:
    """Let vLLM compile the model on CPU, which it does with LoRA off only; --enforce-eager still has its way."""
    check = platform.check_and_update_config.__func__
    load_compiled = torch.compiler.load_compiled_function

    def check_and_compile(cls: Any, config: Any) -> None:
        wanted = config.compilation_config.mode
        check(cls, config)
        if config.lora_config is None or wanted != CompilationMode.VLLM_COMPILE:
            return
        if missing := missing_for_compiling():
            log.warning("%s is not there: the model is not compiled, about a fifth slower", missing)
        else:
            config.compilation_config.mode = CompilationMode.DYNAMO_TRACE_ONCE

    def load_and_complete(*args: Any, **kwargs: Any) -> Any:
        loaded = load_compiled(*args, **kwargs)
        # vLLM 0.32 asks of what it kept in an earlier start to finish loading; what it keeps for CPU needs no such
        # thing and has no such method, so vLLM would throw it away and compile again in each start.
        function = loaded._artifacts.compiled_fn
        if not hasattr(function, "finalize_loading"):
            function.finalize_loading = lambda config: None
        return loaded

    platform.check_and_update_config = classmethod(check_and_compile)
    torch.compiler.load_compiled_function = load_and_complete


def adapt_linear_layers_only() -> None:
    """Let vLLM adapt, of the layers with a targeted name, only those that it can. Idempotent.

    Where layers are chosen by name vLLM stops at any other thing of that name, such as an encoder's pooler or "0".
    """
    matches = LoRAModelManager._match_target_modules
    if hasattr(matches, "loradock_linear"):
        return

    def matches_linear(self: Any, name: str) -> bool:
        module = self.model.get_submodule(name)
        return bool(matches(self, name) and is_supported_lora_module(name, module, self.supported_lora_modules))

    matches_linear.loradock_linear = True  # type: ignore[attr-defined]
    LoRAModelManager._match_target_modules = matches_linear


def _adopt(module: Any) -> LayerSlots | None:
    """Give a wrapped linear layer our slots instead of its padded buffers, whose shapes it keeps without memory."""
    from .kernels import operator
    from .kernels.punica import SegmentedPunica
    from .kernels.slots import LayerSlots

    if not isinstance(module, BaseLinearLayerWithLoRA):
        return None
    slots, _, _, features = module.lora_a_stacked[0].shape
    layer = LayerSlots(slots, features, module.output_slices)
    module.lora_a_stacked = tuple(a.new_empty(slots, 1, 0, features) for a in module.lora_a_stacked)
    module.lora_b_stacked = tuple(b.new_empty(slots, 1, b.shape[2], 0) for b in module.lora_b_stacked)
    SegmentedPunica.layers[id(module.lora_a_stacked)] = layer
    operator.adopt(module)
    return layer


def _connect_operator(dtype: torch.dtype) -> Choice:
    """Put a kernel behind the operator, once all layers are adopted. Raises KernelUnfit."""
    from .kernels import operator
    from .kernels.choice import choose, wanted_way
    from .kernels.compiled import connect
    from .kernels.punica import SegmentedPunica

    layers = [(SegmentedPunica.layers[id(layer.lora_a_stacked)], layer.punica_wrapper) for layer in operator.layers]
    choice = choose([layer for layer, _ in layers], dtype, Processor.here(), wanted_way())
    connect(choice.way, dtype, layers)
    return choice


class WorkerExtension:
    """Methods that the worker answers (vLLM's --worker-extension-cls). On CPU, with our kernels."""

    model_runner: Any

    def loradock_plan(self, modules: Sequence[str], others: Sequence[str]) -> dict[str, Any] | None:
        """How the layers want adapters, for `staging`; None where this worker has only a part of each.

        `modules` and `others` are the base's layers by PEFT's names (BaseModel); vLLM's own mapping says which of its
        layers each one is.
        """
        manager = self._loradock_manager()
        peft = {self._loradock_name(manager, module): module for module in modules}
        if manager.is_pooling_model:  # vLLM puts the model whose parts PEFT named below `model.`
            peft = {f"model.{name}": module for name, module in peft.items()} | peft
        found = []
        for name, layer in manager.loradock_layers.items():
            parts = [peft.get(part, part) for part in manager.packed_modules.get(name, [name])]
            if manager.modules[name].tp_size > 1 or len(parts) not in (1, len(layer.widths)):
                return None
            # One module for all of a layer's slices: they share its A, and B is divided between them.
            starts = [0] * len(parts) if len(parts) > 1 else [0, *itertools.accumulate(map(int, layer.widths[:-1]))]
            parts = parts * (len(layer.widths) // len(parts))
            slices = map(Slice, parts, map(int, layer.widths), starts)
            found.append(Layer(name, layer.in_features, tuple(slices)))
        lora_dtype, layout = manager.lora_config.lora_dtype, manager.loradock_choice.layout
        return Plan(tuple(found), lora_dtype, layout, tuple(others)).to_plain()

    def loradock_kernel(self) -> str:
        """Which way LoRA deltas are computed, and why."""
        return str(self._loradock_manager().loradock_choice.reason)

    @staticmethod
    def _loradock_name(manager: Any, module: str) -> str:
        """What vLLM calls the layer that PEFT calls `module`, by the mapping with which it reads adapters."""
        mapper = getattr(manager.model, "hf_to_vllm_mapper", None)
        rename = None if mapper is None else mapper.get_rename_mapper()
        return str(parse_fine_tuned_lora_name(tensor_name(module, "A"), rename)[0])

    def loradock_take_in(self, number: int, path: str) -> None:
        """Register a staged adapter. It enters a slot in the first step that needs it."""
        manager = self._loradock_manager()
        lora = LoRAModel(number, rank=0, loras={})
        lora.loradock_packed = unstage(Path(path))
        manager.add_adapter(lora)

    def _loradock_manager(self) -> Any:
        return self.model_runner.lora_manager._adapter_manager


def _pack_adapter(manager: Any, lora: Any) -> dict[str, Packed]:
    """Pack an adapter's weights for every layer that it touches. Raises ValueError for a shape that does not fit."""
    from .kernels.slots import pack

    result = {}
    for name, layer in manager.loradock_layers.items():
        weights = manager._get_lora_layer_weights(lora, name)
        if weights is None:
            continue
        a, b = _slices(manager.modules[name], weights.lora_a, weights.lora_b)
        for x, y, width in zip(a, b, layer.widths, strict=True):
            if (x is None) != (y is None):
                raise ValueError(f"{name}: one half of an A/B pair is missing")
            if x is not None and (x.shape[1], y.shape[0], x.shape[0]) != (layer.in_features, width, y.shape[1]):
                raise ValueError(f"{name}: A {tuple(x.shape)} and B {tuple(y.shape)} do not fit this layer")
        packed = pack(a, b, layout=manager.loradock_choice.layout)
        if packed is not None:
            result[name] = packed
    return result


def _slices(module: Any, a: Any, b: Any) -> tuple[list[Any], list[Any]]:
    """A and B of each output slice, as the layer's own set_lora would divide them."""
    if not isinstance(a, list):
        # One pair for the whole layer; where that has several slices, they share A and divide B.
        a, b = [a] * module.n_slices, list(b.split(list(module.output_slices))) if module.n_slices > 1 else [b]
    elif len(b) != module.n_slices:
        a, b = module.expand_packed_lora(a, b)
    if module.tp_size > 1:
        single = module.n_slices == 1
        a, b = module.slice_lora_a(a[0] if single else a), module.slice_lora_b(b[0] if single else b)
        a, b = ([a], [b]) if single else (a, b)
    return a, b


# --- Metrics ---------------------------------------------------------------------------------------------------


def vllm_families(waiting: int) -> Iterator[Any]:
    """The process-wide metrics of vLLM without what would clash with a gateway's own or grow without bound.

    `waiting`: requests that wait before vLLM knows of them. They are added to its own, so that a balancer or an
    autoscaler that looks there sees the whole queue.
    """
    for family in REGISTRY.collect():
        # Its lora_requests_info keeps a series for every combination of names there ever was, and calls all of them
        # running that have any request. Ours is in telemetry.
        if not family.name.startswith("vllm:") or family.name == "vllm:lora_requests_info":
            continue
        if family.name == "vllm:num_requests_waiting" and family.samples:
            first = family.samples[0]
            family.samples[0] = first._replace(value=first.value + waiting)
        yield family
