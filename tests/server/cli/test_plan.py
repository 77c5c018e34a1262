"""`loradock plan` as a person and as a script see it: offline, from a config, or from a hub's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from loradock_adapters.processor import Processor
from tests.adapters.planning.test_shape import LLAMA_3_8B
from tests.adapters.tiny_models import config_of
from tests.fakes.hub import publish
from tests.fakes.web import running_web

Run = Callable[..., Result]


@pytest.fixture
def llama(tmp_path: Path) -> str:
    folder = tmp_path / "llama-3-8b"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA_3_8B))
    return str(folder)


def test_people_see_methods_side_by_side_the_arithmetic_and_a_recommendation(loradock: Run, llama: str) -> None:
    result = loradock("plan", llama, "--targets", "q_proj,v_proj", "--device", "rtx-4090")

    assert result.exit_code == 0, result.output
    assert "q_proj: 16·(4096 + 4096) = 131,072 of 16,777,216 numbers (128× fewer)" in result.stdout
    rows = {
        line.split()[0]: line for line in result.stdout.splitlines() if line.startswith(("full ", "lora ", "qlora "))
    }
    assert rows.keys() == {"full", "lora", "qlora"}
    assert "  no  " in rows["full"]
    assert "Recommended: " in result.stdout
    assert "16 streams × 2048 tokens × 131,072 bytes" in result.stdout


def test_scripts_get_every_term_and_the_terms_add_up(loradock: Run, llama: str) -> None:
    result = loradock("plan", llama, "--device", "h100", "--json")

    found = json.loads(result.stdout)
    assert found["model"]["parameters"] == 8_030_261_248
    for way in (*found["training"], found["recommended"]):
        assert way["peak"]["bytes"] == sum(term["bytes"] for term in way["peak"]["terms"]) < way["needs_bytes"]
        assert way["fits"] == (way["needs_bytes"] <= found["device"]["memory_bytes"])
        assert way["seconds"] > 0
    assert found["recommended"]["fits"]


def test_where_nothing_fits_the_exit_code_is_1_and_the_least_is_named(loradock: Run, llama: str) -> None:
    result = loradock("plan", llama, "--device", "gpu", "--memory", "4 GiB")

    assert result.exit_code == 1
    assert "no way to train fits into 4.3 GB: the least, qlora, batches of 1" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--targets", "query"), "no linear module 'query'"),
        (("--device", "rtx-4091"), "did you mean rtx-4090"),
        (("--device", "gpu"), "nothing says how much memory"),
        (("--memory", "much"), "--memory much is no size"),
    ],
)
def test_what_cannot_be_planned_is_said(loradock: Run, llama: str, arguments: tuple[str, ...], said: str) -> None:
    result = loradock("plan", llama, *arguments)

    assert result.exit_code != 0
    assert said in result.stderr.replace("'much'", "much")


def test_a_hub_id_needs_its_config_only(loradock: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with running_web() as web:
        publish(web, "org/llama", {"config.json": json.dumps(LLAMA_3_8B).encode()})
        monkeypatch.setenv("HF_ENDPOINT", web.url)

        found = loradock("plan", "org/llama", "--memory", "64GiB", "--json")
        missing = loradock("plan", "org/other", "--memory", "64GiB")

    assert json.loads(found.stdout)["model"]["name"] == "llama", found.output
    assert missing.exit_code == 1
    assert "org/other cannot be had from the hub" in missing.stderr


def test_what_is_computed_in_is_said_with_the_reason(
    loradock: Run, llama: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = json.loads((Path(llama) / "config.json").read_text()) | {"num_hidden_layers": 1, "vocab_size": 1000}
    (Path(llama) / "config.json").write_text(json.dumps(small))
    features = frozenset({"avx2", "fma", "f16c"})
    monkeypatch.setattr(Processor, "here", lambda: Processor("Old", features))

    roomy = json.loads(loradock("plan", llama, "--memory", "64GiB", "--json").stdout)
    people = loradock("plan", llama, "--memory", "64GiB")
    monkeypatch.setenv("LORADOCK_DTYPE", "bfloat16")
    forced = json.loads(loradock("plan", llama, "--memory", "64GiB", "--json").stdout)

    for dtype in (roomy["training_dtype"], roomy["serving"]):
        assert (dtype["dtype"], "Old (avx2) has no instructions for bfloat16" in dtype["reason"]) == ("float32", True)
    assert {way["dtype"] for way in roomy["training"]} == {"float32"}
    assert people.stdout.count("Old (avx2) has no instructions for bfloat16: float32 is") == 2
    assert (forced["serving"]["dtype"], forced["serving"]["reason"]) == ("bfloat16", "LORADOCK_DTYPE says so")
    assert 2 * forced["serving"]["terms"][0]["bytes"] == roomy["serving"]["terms"][0]["bytes"]


def test_fused_projections_and_experts_are_counted_and_what_cannot_be_served_is_said(
    loradock: Run, tmp_path: Path
) -> None:
    for kind, architecture in (("phi3", "Phi3ForCausalLM"), ("qwen3_moe", "Qwen3MoeForCausalLM")):
        config = config_of(kind)
        config.architectures = [architecture]
        config.save_pretrained(tmp_path / kind)

    fused = json.loads(loradock("plan", str(tmp_path / "phi3"), "--memory", "8GiB", "--json").stdout)
    mixed = loradock("plan", str(tmp_path / "qwen3_moe"), "--memory", "8GiB")

    assert fused["adapter"]["target_modules"] == ["o_proj", "qkv_proj", "gate_up_proj", "down_proj"]
    assert fused["serving"]["obstacle"] is None
    assert "no adapter is on them here" in mixed.stdout
    assert "not here: a mixture of experts (4 of them)" in " ".join(mixed.stdout.split())
