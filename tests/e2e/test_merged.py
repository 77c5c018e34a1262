"""A folder made by `loradock merge` is a model like any other: transformers loads it, vLLM without LoRA and without our
plugin loads it, both say the same, and that is what the adapter says on this server.

In float32. Between the two runtimes only sums in another order differ; from the adapter the merged weights differ by
their rounding to bf16, which moves logprobs a little and must not move an answer.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("peft")

from tokenizers import Tokenizer

from loadtest.correctness.asking import Reply, Tokens, ask, gap
from loradock_adapters.base_model import BaseModel
from tests.e2e.reporting import report
from tests.e2e.server import EXAMPLES, LORADOCK, ROOT, Server

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

ADAPTER = EXAMPLES / "home-commands/adapter"
COMMANDS = ("turn on the kitchen lights", "set the garage volume to 55 percent", "start the robot vacuum")
ANSWER = 12  # tokens: no command's answer is shorter
SAME = 1e-4  # of a logprob: another order of sums
ROUNDED = 0.1  # of a logprob: 135 million weights rounded to bf16; 0.017 when this was written

# Stock vLLM in a process of its own; questions come in as token ids, tokens and their logprobs go out.
VLLM = """
import json, sys
from vllm import LLM, SamplingParams
if __name__ == "__main__":
    folder, length, *prompts = json.load(sys.stdin)
    model = LLM(folder, dtype="float32", enforce_eager=True, max_model_len=256, kv_cache_memory_bytes=1 << 28)
    greedy = SamplingParams(temperature=0, max_tokens=length, logprobs=0, ignore_eos=True)
    done = model.generate([{"prompt_token_ids": prompt} for prompt in prompts], greedy, use_tqdm=False)
    answers = [one.outputs[0] for one in done]
    print(json.dumps([
        [list(a.token_ids), [at[token].logprob for token, at in zip(a.token_ids, a.logprobs)]] for a in answers
    ]))
"""


@pytest.fixture(scope="module")
def merged(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The adapter in its base, by the command that users have."""
    out: Path = tmp_path_factory.mktemp("merged") / "home-commands"
    command = [str(LORADOCK), "merge", str(ADAPTER), "--base", str(base.folder), "--onto", "bf16", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def prompts(base: BaseModel) -> list[Tokens]:
    """The commands as the chat template puts them."""
    tokenizer = Tokenizer.from_file(str(base.folder / "tokenizer.json"))
    system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    texts = [
        f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{command}<|im_end|>\n<|im_start|>assistant\n"
        for command in COMMANDS
    ]
    return [tuple(tokenizer.encode(text, add_special_tokens=False).ids) for text in texts]


def test_a_merged_folder_answers_in_vllm_and_in_transformers_as_its_adapter_does_here(
    exact: Server, merged: Path, prompts: list[Tokens]
) -> None:
    exact.register("merged-twin", ADAPTER)
    adapter = asyncio.run(of_adapter(exact, "merged-twin", prompts))
    in_vllm = of_vllm(merged, prompts)

    truth = of_transformers(merged, prompts, [tokens for tokens, _ in in_vllm])
    between = max(gap(logprobs, likely) for (_, logprobs), (likely, _) in zip(in_vllm, truth, strict=True))
    torn = max(short for _, short in truth)
    rounding = max(gap(logprobs, reply.logprobs) for (_, logprobs), reply in zip(in_vllm, adapter, strict=True))
    report(f"merged: vLLM {between:.2g} from transformers, {rounding:.2g} from the adapter, torn by {torn:.2g}")
    assert [tokens for tokens, _ in in_vllm] == [reply.tokens for reply in adapter]
    assert between <= SAME
    assert torn <= SAME, "vLLM took a token that transformers would not have taken"
    assert rounding <= ROUNDED
    # The base alone says other things: what is compared is the adapter's doing.
    base = asyncio.run(of_adapter(exact, exact.get("/v1/models").json()["data"][0]["id"], prompts))
    assert not {reply.tokens for reply in base} & {reply.tokens for reply in adapter}


async def of_adapter(server: Server, model: str, prompts: Sequence[Tokens]) -> list[Reply]:
    async with server.async_client() as client:
        return list(await asyncio.gather(*(ask(client, model, prompt, ANSWER) for prompt in prompts)))


def of_vllm(folder: Path, prompts: Sequence[Tokens]) -> list[tuple[Tokens, list[float]]]:
    """Greedy tokens and their logprobs."""
    env = {**os.environ, "VLLM_PLUGINS": "none", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    script = folder.parent / "in_vllm.py"
    script.write_text(VLLM)
    asked = json.dumps([str(folder), ANSWER, *prompts])
    done = subprocess.run(
        [sys.executable, str(script)], input=asked, env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [(tuple(tokens), logprobs) for tokens, logprobs in json.loads(done.stdout.splitlines()[-1])]


def of_transformers(
    folder: Path, prompts: Sequence[Tokens], answers: Sequence[Tokens]
) -> list[tuple[list[float], float]]:
    """Logprobs of the given answers, and by how much another token than one of them was likelier, at most."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    found = []
    for prompt, answer in zip(prompts, answers, strict=True):
        with torch.inference_mode():
            logits = model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
        logprobs = torch.log_softmax(logits, dim=-1).numpy()
        likely = logprobs[np.arange(len(answer)), list(answer)]
        found.append((likely.tolist(), float((logprobs.max(axis=1) - likely).max())))
    return found
