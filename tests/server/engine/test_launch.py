"""From settings to vLLM's flags and the engine's environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from loradock_adapters.adapter_settings import MAX_STOPS
from loradock_adapters.base_model import BaseModel
from loradock_server.base import ServedBase
from loradock_server.engine.launch import LaunchOrder, launch_order, process_environment, trace_endpoint, vllm_rank
from loradock_server.settings import load_settings
from tests.adapters.making import write_base


@pytest.mark.parametrize(("wanted", "size"), [(1, 1), (2, 8), (16, 16), (65, 128), (512, 512)])
def test_any_rank_fits_into_the_next_size_that_vllm_has(wanted: int, size: int) -> None:
    assert vllm_rank(wanted) == size


def test_a_rank_above_vllms_largest_is_refused() -> None:
    with pytest.raises(ValueError, match="513 is above vLLM's limit of 512"):
        vllm_rank(513)


@pytest.mark.parametrize(
    ("env", "url"),
    [
        ({}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/"}, "http://c:4318/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/t"}, "http://c:4318/t"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "true"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, None),
    ],
)
def test_traces_go_where_the_standard_variables_say(env: dict[str, str], url: str | None) -> None:
    assert trace_endpoint(env) == url


def test_vllms_own_unsafe_adapter_loading_is_never_switched_on() -> None:
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" not in process_environment(
        "/cache", {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
    )


@pytest.mark.parametrize(
    ("plugins", "loaded"),
    [(None, None), ("", "loradock"), ("other", "other,loradock"), ("loradock,other", "loradock,other")],
)
def test_our_plugin_is_loaded_whatever_list_of_plugins_the_operator_has_set(
    plugins: str | None, loaded: str | None
) -> None:
    env = {} if plugins is None else {"VLLM_PLUGINS": plugins}
    assert process_environment("/cache", env).get("VLLM_PLUGINS") == loaded


def test_requests_may_have_as_many_stop_strings_as_adapters_unless_the_operator_says_otherwise() -> None:
    assert process_environment("/cache", {})["VLLM_MAX_STOP_STRINGS"] == str(MAX_STOPS)
    assert process_environment("/cache", {})["VLLM_MAX_N_SEQUENCES"] == "128"
    assert process_environment("/cache", {"VLLM_MAX_STOP_STRINGS": "3"})["VLLM_MAX_STOP_STRINGS"] == "3"


def test_an_engine_is_told_whose_signatures_it_is_to_demand(tmp_path: Path) -> None:
    key = f"trainer={'A' * 43}="
    settings = load_settings(home=tmp_path, require_signature=True, trusted_keys=key)
    order = launch_order(settings, ServedBase(BaseModel.read(write_base(tmp_path)), "tiny"), "token")
    arrived = LaunchOrder.from_json(order.to_json())
    assert arrived == order
    assert (arrived.require_signature, arrived.trusted_keys) == (True, (key,))
