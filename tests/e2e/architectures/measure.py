"""Each architecture's base, an adapter on its attention and one on all linear layers, in one batch of vLLM with our
plugin and kernels, against PEFT. One process, one engine after the other; a JSON line for each on standard output.

Run as a script, since our plugin changes vLLM's classes and vLLM asks for the environment early.
"""

from __future__ import annotations

import gc
import itertools
import json
import math
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

os.environ.update(
    VLLM_ENABLE_V1_MULTIPROCESSING="0",  # engine core and worker in this process
    VLLM_NO_USAGE_STATS="1",
    VLLM_LOGGING_LEVEL=os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),
    VLLM_PLUGINS="loradock",
)

import torch
from peft import LoraConfig, get_peft_model
from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform

from loradock_adapters.base_model import BaseModel
from loradock_adapters.check import check_adapter
from loradock_adapters.check.adapter import judge
from loradock_adapters.peft_folder import WEIGHTS_FILE
from loradock_server.engine.launch import target_modules
from loradock_server.engine.staging import Plan, stage
from tests.e2e.architectures.bases import POOLING, VOCABULARY, attention, make_base

PROMPT = 24
TOKENS = 6
ROWS = 2  # of the base and of each adapter
# Names that no module has in its own: PEFT looks for the names of adapters in the paths of modules when it saves them.
ADAPTERS = ("narrow", "wide")


def measure(name: str, folder: Path) -> dict[str, Any]:
    """The worst difference of a logprob, or of a number of an embedding; what the check says; how adapters come in."""
    model = make_base(name, folder / "base")
    base = BaseModel.read(folder / "base")
    peft = adapted(model, name, folder)
    faults = {kind: [f.message for f in check_adapter(folder / kind, base).faults] for kind in ADAPTERS}
    pools = name in POOLING
    llm = LLM(
        str(folder / "base"),
        dtype="float32",
        enforce_eager=True,
        skip_tokenizer_init=not pools,
        max_model_len=64,
        max_num_seqs=8,
        max_num_batched_tokens=256,
        kv_cache_memory_bytes=16 << 20,
        enable_lora=True,
        max_loras=2,
        max_lora_rank=8,
        lora_target_modules=list(target_modules(base)),
        language_model_only=bool(base.others) and not pools,
        worker_extension_cls="loradock_server.engine.vllm_compat.WorkerExtension",
        **({"runner": "pooling", "pooler_config": {"pooling_type": "CLS"}} if pools else {}),
    )
    try:
        plain = llm.collective_rpc("loradock_plan", args=(list(base.modules), list(base.others)))[0]
        requests = {None: None} | {kind: load(llm, kind, folder, base, plain) for kind in ADAPTERS}
        random = torch.Generator().manual_seed(3)
        rows = [
            (kind, torch.randint(3, 140, (PROMPT + 5 * number,), generator=random).tolist())
            for number, kind in enumerate([*requests] * ROWS)
        ]
        asked = [{"prompt_token_ids": tokens} for _, tokens in rows]
        loras = [requests[kind] for kind, _ in rows]
        if pools:
            vectors = [out.outputs.embedding for out in llm.embed(asked, lora_request=loras, use_tqdm=False)]
            worst = max(
                gap_of_vectors(peft, kind, tokens, vector) for (kind, tokens), vector in zip(rows, vectors, strict=True)
            )
        else:
            greedy = SamplingParams(temperature=0, max_tokens=TOKENS, logprobs=0, prompt_logprobs=0, ignore_eos=True)
            answers = llm.generate(asked, greedy, lora_request=loras, use_tqdm=False)
            worst = max(gap(peft, kind, tokens, out) for (kind, tokens), out in zip(rows, answers, strict=True))
    finally:
        llm.llm_engine.engine_core.shutdown()
        # Done once for a process; vLLM starts one engine in each and stumbles over a second.
        type(current_platform).register_triton_kernel_overrides = classmethod(lambda cls: None)
        del llm
        gc.collect()
    covered = set() if plain is None else set(Plan.from_plain(plain).modules)
    return {
        "worst": worst,
        "effect": effect(peft, rows[0][1], pools),
        "faults": faults,
        "staged": plain is not None,
        "unserved": sorted(base.modules.keys() - covered) if plain else [],
    }


def adapted(model: Any, name: str, folder: Path) -> Any:
    """PEFT around the base with both adapters, random and strong; written to a folder for each."""
    for module in model.modules():
        module.do_not_compile = (
            True  # where vLLM runs transformers' own class (GPT-NeoX), it changes how that is called
        )
    peft: Any = None
    for seed, kind in enumerate(ADAPTERS):
        targets = attention(name) if kind == "narrow" else "all-linear"
        task = "FEATURE_EXTRACTION" if name in POOLING else "CAUSAL_LM"
        config = LoraConfig(r=8 if seed else 3, lora_alpha=12, target_modules=targets, task_type=task)
        if peft is None:
            peft = get_peft_model(model, config, adapter_name=kind)
        else:
            peft.add_adapter(kind, config)
        random = torch.Generator().manual_seed(seed)
        for module in peft.modules():
            if kind in getattr(module, "lora_B", {}):
                a, b = module.lora_A[kind].weight, module.lora_B[kind].weight
                a.data.normal_(0, 1 / math.sqrt(a.shape[1]), generator=random)
                b.data.normal_(0, 0.3 / (module.scaling[kind] * math.sqrt(b.shape[1])), generator=random)
    peft.save_pretrained(folder, save_embedding_layers=False)
    return peft.eval()


_numbers = itertools.count(100_000)


def load(llm: Any, kind: str, folder: Path, base: BaseModel, plain: Any) -> LoRARequest:
    """As vllm_compat.AdapterLoader does it: staged where the worker takes that, else read by vLLM."""
    request = LoRARequest(kind, next(_numbers), str(folder / kind))
    if plain is None:
        llm.llm_engine.add_lora(request)
        return request
    facts = judge(folder / kind, base).facts
    staged = stage(folder / kind / WEIGHTS_FILE, Plan.from_plain(plain), facts.scale_of)
    llm.collective_rpc("loradock_take_in", args=(request.lora_int_id, str(staged.path)))
    staged.close()
    return request


def _of(peft: Any, kind: str | None, tokens: list[int]) -> Any:
    with torch.inference_mode():
        if kind is None:
            with peft.disable_adapter():
                return peft(torch.tensor([tokens]))
        peft.set_adapter(kind)
        return peft(torch.tensor([tokens]))


def gap(peft: Any, kind: str | None, tokens: list[int], out: Any) -> float:
    """How far the logprobs of a prompt and its greedy answer are from PEFT's, at most."""
    answer = list(out.outputs[0].token_ids)
    whole = [*tokens, *answer]
    truth = torch.log_softmax(_of(peft, kind, whole).logits[0].float(), dim=-1)
    ours = [*out.prompt_logprobs[1:], *out.outputs[0].logprobs]
    gaps = [
        abs(at[token].logprob - float(truth[place, token]))
        for place, (token, at) in enumerate(zip(whole[1:], ours, strict=True))
    ]
    short = truth[len(tokens) - 1 : -1].max(dim=-1).values - truth[range(len(tokens) - 1, len(whole) - 1), answer]
    return float(max(*gaps, short.max()))  # another token was likelier than the greedy one


def gap_of_vectors(peft: Any, kind: str | None, tokens: list[int], vector: list[float]) -> float:
    """The same for a normalised embedding of the first token."""
    truth = torch.nn.functional.normalize(_of(peft, kind, tokens).last_hidden_state[0, 0], dim=0)
    return float((truth - torch.tensor(vector)).abs().max())


def effect(peft: Any, tokens: list[int], pools: bool) -> float:
    """How far the adapters move the base, at least: what is compared must be there."""
    field = "last_hidden_state" if pools else "logits"
    base = getattr(_of(peft, None, tokens), field)
    return min(float((getattr(_of(peft, kind, tokens), field) - base).abs().max()) for kind in ADAPTERS)


def main() -> None:
    assert VOCABULARY > 140
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for name in sys.argv[1:]:
        began = time.process_time()
        with tempfile.TemporaryDirectory() as scratch:
            try:
                found = measure(name, Path(scratch))
            except Exception:  # noqa: BLE001  # the boundary of a process: the others are measured all the same
                found = {"error": traceback.format_exc()[-3000:]}
        answers.write(
            json.dumps({"name": name, "processor_seconds": round(time.process_time() - began, 1), **found}) + "\n"
        )
        answers.flush()


if __name__ == "__main__":
    main()
