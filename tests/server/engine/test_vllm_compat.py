"""The private names of vLLM that we lean on, once imported; `vllm_contract` reads those of all versions.

Needs vLLM (the cpu or cuda extra) but starts no engine.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Gauge

pytest.importorskip("vllm")

from loradock_server.engine import vllm_compat as compat_module
from loradock_server.engine.launch import LaunchOrder, vllm_flags

vllm_compat: Any = compat_module  # its imported names are looked at here, which it does not export


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_the_launcher_functions_take_what_we_give_them() -> None:
    assert parameters(vllm_compat.build_app)[:3] == ["args", "supported_tasks", "model_config"]
    assert parameters(vllm_compat.init_app_state)[:4] == ["engine_client", "state", "args", "supported_tasks"]
    assert parameters(vllm_compat.build_async_engine_client)[0] == "args"


def test_the_hooks_we_replace_have_the_shape_we_know() -> None:
    processor = vllm_compat.OutputProcessor
    assert parameters(processor.add_request)[:2] == ["self", "request"]
    assert parameters(processor._update_stats_from_finished) == [
        "self",
        "req_state",
        "finish_reason",
        "iteration_stats",
    ]
    assert parameters(processor.do_tracing) == ["self", "engine_core_output", "req_state", "iteration_stats"]
    assert parameters(vllm_compat.LoRAModelManager.activate_adapter)[:2] == ["self", "lora_id"]


def test_the_core_ends_requests_by_the_names_we_use() -> None:
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.engine.async_llm import AsyncLLM

    core = vllm_compat.EngineCoreProc
    assert parameters(core.remove_lora) == ["self", "lora_id"]
    assert parameters(core._send_abort_outputs) == ["self", "aborted_reqs"]
    assert parameters(Scheduler.finish_requests) == ["self", "request_ids", "finished_status"]
    assert parameters(AsyncLLM.abort) == ["self", "request_id", "internal"]
    assert parameters(AsyncLLM.add_lora) == ["self", "lora_request"]
    assert parameters(AsyncLLM.remove_lora) == ["self", "lora_id"]


def test_the_self_test_asks_by_the_names_we_use() -> None:
    from vllm.v1.engine.async_llm import AsyncLLM

    names = parameters(AsyncLLM.generate)
    assert names[1:4] == ["prompt", "sampling_params", "request_id"]
    assert {"lora_request", "trace_headers"} <= set(names)
    assert parameters(AsyncLLM.is_tracing_enabled) == ["self"]
    assert vllm_compat.tokens_input([1, 2]) == {"type": "token", "prompt_token_ids": [1, 2]}
    assert {"prompt_logprobs", "skip_reading_prefix_cache", "detokenize"} <= set(parameters(vllm_compat.SamplingParams))


def test_the_wrapper_that_we_replace_has_the_methods_we_override() -> None:
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

    from loradock_server.engine.kernels.punica import SegmentedPunica

    ours = {name for name in vars(SegmentedPunica) if name.startswith(("add_", "update_", "apply_"))}
    assert ours <= set(dir(PunicaWrapperCPU))
    assert parameters(PunicaWrapperCPU.add_lora_linear)[1:7] == [
        "y",
        "x",
        "lora_a_stacked",
        "lora_b_stacked",
        "scale",
        "output_slices",
    ]


def test_the_worker_takes_our_extension_and_has_what_it_reads() -> None:
    from vllm.v1.worker.cpu_worker import CPUWorker
    from vllm.v1.worker.lora_model_runner_mixin import LoRAModelRunnerMixin

    extension = vllm_compat.WorkerExtension
    mine = {name for name in dir(extension) if not name.startswith("__")}
    assert {"loradock_plan", "loradock_take_in"} <= mine
    assert not mine & set(dir(CPUWorker))  # vLLM refuses a clash
    assert "lora_manager" in LoRAModelRunnerMixin.load_lora_model.__code__.co_names
    assert parameters(vllm_compat.LoRAModel.__init__)[1:4] == ["lora_model_id", "rank", "loras"]
    assert parameters(vllm_compat.PEFTHelper.from_local_dir)[:2] == ["lora_path", "max_position_embeddings"]
    assert parameters(vllm_compat.PEFTHelper.get_rank_and_scaling) == ["self", "module_name"]


def test_the_plugin_puts_our_kernels_in_place_on_cpu_and_steps_aside_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from loradock_server.engine.plugin import register

    called: list[str] = []
    monkeypatch.setattr(vllm_compat, "use_segmented_kernels", lambda: called.append("kernels"))
    monkeypatch.setattr(vllm_compat, "end_requests_of_removed_adapters", lambda: called.append("removal"))
    monkeypatch.setattr(vllm_compat, "on_cpu", lambda: False)
    register()
    assert called == ["removal"]
    monkeypatch.setattr(vllm_compat, "on_cpu", lambda: True)
    register()
    assert called == ["removal", "removal", "kernels"]


def test_every_flag_we_pass_is_one_that_vllms_parser_knows(order: LaunchOrder) -> None:
    parser = vllm_compat.make_arg_parser(vllm_compat.FlexibleArgumentParser())
    args = parser.parse_args(list(vllm_flags(order, on_cpu=True, trace_endpoint="http://c:4318/v1/traces")))
    assert args.enable_lora
    assert args.lora_target_modules == ["q_proj", "up_proj"]
    assert args.max_lora_rank == 16
    assert args.max_cpu_loras == 4 + 4  # vLLM's own LRU never comes to its limit
    assert args.kv_cache_memory_bytes == 1 << 20
    assert args.otlp_traces_endpoint == "http://c:4318/v1/traces"
    assert args.served_model_name == ["base"]


def test_the_compiler_is_left_out_when_the_operator_says_so_and_never_touched_on_a_gpu(order: LaunchOrder) -> None:
    off = replace(order, compile=False)
    assert "--enforce-eager" not in vllm_flags(order, on_cpu=True, trace_endpoint=None)
    assert "--enforce-eager" in vllm_flags(off, on_cpu=True, trace_endpoint=None)
    assert "--enforce-eager" not in vllm_flags(off, on_cpu=False, trace_endpoint=None)


def test_what_lets_a_model_with_lora_be_compiled_has_the_shape_we_know() -> None:
    from vllm.platforms.cpu import CpuPlatform

    assert parameters(vllm_compat.BaseLinearLayerWithLoRA._apply_lora_to_output) == ["self", "x", "output"]
    assert parameters(CpuPlatform.check_and_update_config.__func__)[0] == "cls"
    assert "maybe_dummy_run_with_lora" in vars(vllm_compat.LoRAModelRunnerMixin)
    assert {"VLLM_COMPILE", "DYNAMO_TRACE_ONCE"} <= set(vllm_compat.CompilationMode.__members__)


def test_a_compiled_model_that_was_kept_is_loaded_by_the_calls_we_complete() -> None:
    from vllm.compilation import decorators

    source = inspect.getsource(decorators)
    assert "torch.compiler.load_compiled_function(" in source
    # Of the object on which we put one, since what vLLM keeps for CPU has none.
    assert "loaded_fn._artifacts.compiled_fn.finalize_loading(model.vllm_config)" in source


def test_vllms_queue_counts_who_waits_before_it_and_its_endless_family_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry = CollectorRegistry()
    monkeypatch.setattr(vllm_compat, "REGISTRY", registry)
    Gauge("vllm:num_requests_waiting", "in line", ["engine"], registry=registry).labels("0").set(2)
    Gauge("vllm:num_requests_running", "in the batch", registry=registry).set(8)
    Gauge("vllm:lora_requests_info", "adapters", registry=registry)
    Gauge("process_of_its_own", "clashes with a gateway's", registry=registry)
    values = {family.name: family.samples[0].value for family in vllm_compat.vllm_families(waiting=5)}
    assert values == {"vllm:num_requests_waiting": 7, "vllm:num_requests_running": 8}


def test_what_is_missing_for_compiling_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert vllm_compat.missing_for_compiling() == "a C++ compiler (g++, or CXX)"
    monkeypatch.setenv("CXX", "true")  # a program that is there
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    assert vllm_compat.missing_for_compiling() == "Python's headers (python3-dev)"
    (tmp_path / "Python.h").touch()
    assert vllm_compat.missing_for_compiling() is None


def test_further_flags_of_the_operator_come_last_and_win(order: LaunchOrder) -> None:
    parser = vllm_compat.make_arg_parser(vllm_compat.FlexibleArgumentParser())
    args = parser.parse_args(list(vllm_flags(order, on_cpu=True, trace_endpoint=None)))
    assert args.seed == 7


@pytest.fixture
def order() -> LaunchOrder:
    return LaunchOrder(
        address="unix:/s",
        token="t",
        generation="g",
        restarts=0,
        model="/m",
        served_name="base",
        base_digest="d",
        target_modules=("q_proj", "up_proj"),
        artifacts="/store",
        artifacts_cache="/cache",
        artifacts_cache_bytes=0,
        max_loras=4,
        max_cpu_loras=2,
        adapter_memory_bytes=1 << 30,
        max_rank=12,
        max_adapter_bytes=1,
        max_model_len=64,
        dtype="auto",
        kv_cache_bytes=1 << 20,
        drain_timeout=1,
        metrics_adapter_limit=1,
        log_level="info",
        engine_args=("--seed=7",),
        compile=True,
        cache_root="/cache",
    )
