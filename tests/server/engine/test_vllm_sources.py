"""The table of classes without LoRA against the vLLM that is installed here."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from loradock_adapters.servable import without_lora
from loradock_server.engine.vllm_sources import classes_without_lora, version_of

if find_spec("vllm") is None:
    pytest.skip("no vLLM here", allow_module_level=True)


@pytest.fixture(scope="module")
def vllm() -> Path:
    found = find_spec("vllm")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent


@pytest.mark.slow
def test_the_table_is_what_the_installed_vllms_sources_say(vllm: Path) -> None:
    # To mend it: python -m loradock_server.engine.vllm_sources FOLDER… (one for each version) writes the table.
    assert set(classes_without_lora(vllm)) == without_lora(version_of(vllm))


ASKED = """
import sys
from vllm.model_executor.models import ModelRegistry, supports_lora
for name in sys.argv[1:]:
    print(name, supports_lora(ModelRegistry.models[name].load_model_cls()))
"""


@pytest.mark.slow
def test_vllm_itself_says_the_same_of_some() -> None:
    without = ["GPT2LMHeadModel", "FalconForCausalLM", "StableLmForCausalLM", "MambaForCausalLM", "BertForMaskedLM"]
    takes = ["LlamaForCausalLM", "BertModel", "OPTForCausalLM", "GPTNeoXForCausalLM", "LlamaBidirectionalModel"]
    done = subprocess.run(
        [sys.executable, "-c", ASKED, *without, *takes], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = dict(line.split() for line in done.stdout.splitlines() if line.count(" ") == 1)
    assert said == {name: str(name in takes) for name in [*without, *takes]}
    assert {name for name in said if name in without_lora("0.32")} == set(without)
