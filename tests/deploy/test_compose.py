"""The compose stack: sound by the specification, safe by default, and in step with the settings it sets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

from loradock_server.settings import load_settings
from tests.deploy import compose

FILLED = {
    "LORADOCK_ADMIN_KEY": "ld-made-up-for-this-test-0123456789abcdef",
    "LORADOCK_ENGINE_TOKEN": "0123456789abcdef0123456789abcdef",
    "GRAFANA_ADMIN_PASSWORD": "made-up-for-this-test",
}
OUR_SERVICES = ("gateway", "engine", "base")


@pytest.fixture
def stack() -> dict[str, Any]:
    services = compose.load(FILLED)["services"]
    assert isinstance(services, dict)
    return services


def test_the_file_follows_the_compose_specification_once_filled_in(stack: dict[str, Any]) -> None:
    assert set(stack) == {"base", "engine", "gateway", "prometheus", "grafana", "otel-collector"}


def test_a_misspelt_key_would_be_noticed() -> None:
    broken = compose.load(FILLED)
    broken["services"]["gateway"]["helthcheck"] = broken["services"]["gateway"].pop("healthcheck")
    with pytest.raises(ValueError, match="helthcheck"):
        PyCompose.from_yaml(yaml.safe_dump(broken))


@pytest.mark.parametrize("name", sorted(FILLED))
def test_a_missing_secret_stops_the_start_with_a_hint(name: str) -> None:
    with pytest.raises(compose.VariableMissing, match=rf"{name}: set it in deploy/\.env"):
        compose.load({**FILLED, name: ""})


def test_the_example_file_names_every_required_variable_and_gives_none_a_value() -> None:
    assert compose.required_variables() == set(FILLED)
    lines = (compose.DEPLOY / ".env.example").read_text(encoding="utf-8").splitlines()
    assert {line for line in lines if line and not line.startswith("#")} == {f"{name}=" for name in FILLED}


def test_secrets_files_are_ignored_by_git() -> None:
    assert {".env", "loradock.env"} <= set((compose.DEPLOY / ".gitignore").read_text().split())


@pytest.mark.parametrize("name", ["gateway", "engine", "base"])
def test_every_setting_it_gives_is_one_that_loradock_has(
    name: str, stack: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)  # no loradock.toml of a checkout
    for variable, value in stack[name]["environment"].items():
        monkeypatch.setenv(variable, value)
    settings = load_settings()  # refuses unknown LORADOCK_* names
    assert str(settings.home) == "/var/lib/loradock"


def test_the_gateway_calls_the_address_the_engine_listens_on(stack: dict[str, Any]) -> None:
    listens = stack["engine"]["environment"]["LORADOCK_ENGINE_URL"].rsplit(":", 1)[1]
    assert stack["gateway"]["environment"]["LORADOCK_ENGINE_URL"] == f"http://engine:{listens}"
    assert f":{listens}/livez" in str(stack["engine"]["healthcheck"]["test"])


def test_gateway_and_engine_share_token_and_home(stack: dict[str, Any]) -> None:
    gateway, engine = stack["gateway"], stack["engine"]
    assert gateway["environment"]["LORADOCK_ENGINE_TOKEN"] == FILLED["LORADOCK_ENGINE_TOKEN"]
    assert engine["environment"]["LORADOCK_ENGINE_TOKEN"] == FILLED["LORADOCK_ENGINE_TOKEN"]
    for name in OUR_SERVICES:
        (volume,) = stack[name]["volumes"]
        assert (volume["type"], volume["source"], volume["target"]) == ("volume", "home", "/var/lib/loradock")


def test_the_engine_never_sees_the_admin_key(stack: dict[str, Any]) -> None:
    assert FILLED["LORADOCK_ADMIN_KEY"] not in str(stack["engine"])
    assert FILLED["LORADOCK_ADMIN_KEY"] in str(stack["gateway"])


def test_only_gateway_and_grafana_are_published_and_only_to_this_machine(stack: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in stack.items() if "ports" in service}
    assert published == {"gateway": ["127.0.0.1:8000:8000"], "grafana": ["127.0.0.1:3000:3000"]}


def test_the_engine_has_no_way_out() -> None:
    whole = compose.load(FILLED)
    assert whole["services"]["engine"]["networks"] == ["inner"]
    assert whole["networks"]["inner"]["internal"] is True


def test_every_service_that_stays_is_watched_but_the_collector(stack: dict[str, Any]) -> None:
    unwatched = {name for name, service in stack.items() if "healthcheck" not in service}
    assert unwatched == {
        "base",
        "otel-collector",
    }  # one ends by itself, the other's image has no command to ask


def test_every_service_drops_what_it_does_not_need(stack: dict[str, Any]) -> None:
    for name, service in stack.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name


def test_images_are_pinned_to_a_version(stack: dict[str, Any]) -> None:
    for name, service in stack.items():
        if "build" not in service:
            assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", service["image"]), name


def test_every_mounted_folder_exists(stack: dict[str, Any]) -> None:
    bound = [v for s in stack.values() for v in s.get("volumes", ()) if v["type"] == "bind"]
    assert len(bound) == 4
    for volume in bound:
        assert (compose.DEPLOY / volume["source"]).is_dir(), volume
        assert volume["read_only"] is True


def test_a_stopping_container_gets_longer_than_the_drain_needs(
    stack: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("gateway", "engine"):
        assert float(stack[name]["stop_grace_period"].removesuffix("s")) > load_settings().drain_timeout


def test_the_commands_are_ones_the_cli_has(stack: dict[str, Any]) -> None:
    assert [stack[name]["command"] for name in OUR_SERVICES] == [["gateway"], ["engine"], ["base", "fetch"]]


def test_telemetry_goes_to_the_collectors_receiver(stack: dict[str, Any]) -> None:
    receiver = yaml.safe_load((compose.DEPLOY / "otel-collector/config.yaml").read_text())["receivers"]["otlp"]
    port = receiver["protocols"]["http"]["endpoint"].rsplit(":", 1)[1]
    for name in ("gateway", "engine"):
        environment = stack[name]["environment"]
        assert environment["OTEL_EXPORTER_OTLP_ENDPOINT"] == f"http://otel-collector:{port}"
        assert environment["OTEL_EXPORTER_OTLP_PROTOCOL"] == "http/protobuf"


@pytest.mark.parametrize("traces_to", ["log", "otlp"])
def test_the_collector_pipeline_uses_exactly_what_is_defined(traces_to: str) -> None:
    folder = compose.DEPLOY / "otel-collector"
    defined: dict[str, Any] = yaml.safe_load((folder / "config.yaml").read_text())
    overlay: dict[str, Any] = yaml.safe_load((folder / f"traces-{traces_to}.yaml").read_text())
    pipeline = overlay["service"]["pipelines"]["traces"]
    for kind in ("receivers", "processors", "exporters"):
        assert set(pipeline[kind]) == set(defined[kind]) | set(overlay.get(kind, {})), kind
    assert pipeline["processors"][0] == "memory_limiter"
    assert pipeline["processors"][-1] == "batch"
    assert set(defined["service"]["extensions"]) == set(defined["extensions"])


def test_the_collector_reads_the_files_that_exist(stack: dict[str, Any]) -> None:
    for argument in stack["otel-collector"]["command"]:
        assert (compose.DEPLOY / "otel-collector" / Path(argument.partition("=")[2]).name).is_file()
