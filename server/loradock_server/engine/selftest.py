"""The engine's test of itself before it says ready: a base row must not feel the adapters beside it, and they must act.

vLLM 0.32 on CPU answers a base row that shares a batch with an adapter's by the last slot's weights. Our kernels do
not, as long as they are in place and right; a server where that is not so must stop before its first answer. Knows no
vLLM: it asks through a `Prober` and loads through a residency.Loader.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from loradock_adapters.base_model import BaseModel
from loradock_adapters.peft_folder import CONFIG_FILE, WEIGHTS_FILE, tensor_name

from .residency import Loader, ResidencyError

# What rounding alone may move a logprob by, at least: one batch does not show all of it. Measured on SmolLM2-135M on
# CPU: float32 5e-5, bfloat16 0.23. A multiple of what this very engine shows is allowed too, up to a limit.
FLOORS = {"float32": 1e-3, "float16": 0.1, "bfloat16": 0.5}
NOISE_FACTOR = 4.0
TOLERANCE_LIMIT = 1.5
# An adapter must move a logprob by this, more than noise is ever allowed to. Measured: 3.7 and more. Small models, and
# those that norm what each layer adds (Gemma 3: 1.4), are moved less: where noise is small, a multiple of it is enough.
EFFECT = 2.0
EFFECT_FACTOR = 4.0

RANK = 4
TOKENS = 4
# Above and below the number of rows at which the CPU kernels change their way of computing.
PROMPT_LENGTHS = (36, 12)
MOST_ADAPTER_ROWS = 8


@dataclass(frozen=True, slots=True)
class Numbers:
    """What answers are made of: its name, and the limits above for it."""

    name: str
    floors: Mapping[str, float]
    tolerance_limit: float
    effect: float

    def least_effect(self, tolerance: float) -> float:
        """By what an adapter must move them at least, where company may move them by `tolerance`."""
        return min(self.effect, max(self.effect / 8, EFFECT_FACTOR * tolerance))


LOGPROBS = Numbers("logprob", FLOORS, TOLERANCE_LIMIT, EFFECT)
# An embedding's numbers over their root mean square. Measured on a BERT of two layers in float32: 0 beside others, 2.9
# by the loud adapter, which layer norms hold down; so the least is far below that of logprobs.
EMBEDDINGS = Numbers("number of an embedding", {"float32": 1e-3, "float16": 0.02, "bfloat16": 0.1}, 0.2, 0.25)


PASSED = (
    "self-test passed in %.1f s: a base %s moves by %.2g beside other requests and by %.2g beside adapters, "
    "which move theirs by %.2g"
)
"""What the log says; `make gpu-check` reads it: seconds, Numbers.name, then Findings in their order."""


class SelfTestFailed(Exception):
    """The engine would give wrong answers; the message says what was seen."""


@dataclass(frozen=True, slots=True)
class Row:
    """A prompt of token ids for an adapter id, or None for the base."""

    prompt: tuple[int, ...]
    adapter: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a row gave: the logprob of each prompt token but the first, the tokens, the likeliest at each of them.

    Of a model for embeddings: the embedding's numbers instead of those logprobs, and no tokens.
    """

    prompt_logprobs: tuple[float, ...]
    tokens: tuple[int, ...]
    likeliest: tuple[dict[int, float], ...]


class Prober(Protocol):
    """Puts questions to the engine."""

    async def answers(self, rows: Sequence[Row], tokens: int) -> list[Answer]:
        """Greedy answers of `tokens` tokens each, to rows that are computed at the same time."""


@dataclass(frozen=True, slots=True)
class Findings:
    """Largest differences of a logprob. `noise`: a base row alone and beside other base rows; `moved`: beside adapter
    rows; `effect`: an adapter row and the same row of the base, the smallest over the adapters.
    """

    noise: float
    moved: float
    effect: float


async def self_test(
    prober: Prober,
    loader: Loader,
    base: BaseModel,
    *,
    slots: int,
    dtype: str,
    max_model_len: int,
    numbers: Numbers = LOGPROBS,
) -> Findings:
    """Prove that base rows beside adapters in every slot stay what they are alone, and that the adapters act.

    `slots`: distinct adapters in one batch; all are filled, since the fault is in one of them. `numbers`: what
    answers are made of. Raises SelfTestFailed.
    """
    rows = make_rows(base, slots, max_model_len)
    plain = [Row(row.prompt) for row in rows]
    # Before any adapter is there.
    alone = {i: (await prober.answers([row], TOKENS))[0] for i, row in enumerate(rows) if row.adapter is None}
    company = await prober.answers(plain, TOKENS)
    mixed = await _beside_adapters(prober, loader, base, rows, slots)
    findings = Findings(
        noise=max(distance(answer, company[i]) for i, answer in alone.items()),
        moved=max(distance(answer, mixed[i]) for i, answer in alone.items()),
        effect=min(distance(company[i], mixed[i]) for i, row in enumerate(rows) if row.adapter is not None),
    )
    judge(findings, dtype, numbers)
    return findings


def judge(findings: Findings, dtype: str, numbers: Numbers = LOGPROBS) -> None:
    """Raises SelfTestFailed when these findings show a fault."""
    if not findings.noise <= numbers.tolerance_limit:
        raise SelfTestFailed(
            f"the base model beside other base requests differs from itself alone by {findings.noise:.3g} in a "
            f"{numbers.name}, limit {numbers.tolerance_limit}; no adapter had a part in it, so look at vLLM and --dtype"
        )
    floor = numbers.floors.get(dtype, numbers.floors["bfloat16"])
    tolerance = min(max(floor, NOISE_FACTOR * findings.noise), numbers.tolerance_limit)
    if not findings.moved <= tolerance:
        raise SelfTestFailed(
            f"the base model beside an adapter differs from itself alone by {findings.moved:.3g} in a {numbers.name}, "
            f"tolerance {tolerance:.3g} in {dtype}: base requests would be answered by adapters; "
            "are LoRADock's kernels in place and is this vLLM known good?"
        )
    least = numbers.least_effect(tolerance)
    if not findings.effect >= least:
        raise SelfTestFailed(
            f"an adapter of loud random weights moved no {numbers.name} by more than {findings.effect:.3g}, "
            f"least {least:.2g}: adapter requests would be answered by the base model"
        )


def make_rows(base: BaseModel, slots: int, max_model_len: int) -> list[Row]:
    """Rows for the first slots and the last, with a row of the base after each of the first three."""
    random = np.random.default_rng(0)
    used = sorted({*range(min(slots, MOST_ADAPTER_ROWS - 1)), slots - 1})

    def prompt(number: int) -> tuple[int, ...]:
        length = min(PROMPT_LENGTHS[number % 2], max_model_len - TOKENS)
        # Out of the middle of the vocabulary, where no special tokens are.
        ids = random.integers(base.vocab_size // 8, base.vocab_size // 2, length)
        return tuple(int(i) for i in ids)

    rows: list[Row] = []
    for number, slot in enumerate(used):
        rows.append(Row(prompt(number), adapter_id(slot)))
        if number < 3:
            rows.append(Row(prompt(number)))
    return rows


def adapter_id(slot: int) -> str:
    return f"loradock-self-test@{slot + 1}"


async def _beside_adapters(
    prober: Prober, loader: Loader, base: BaseModel, rows: Sequence[Row], slots: int
) -> list[Answer]:
    loaded: dict[str, int] = {}
    with tempfile.TemporaryDirectory(prefix="loradock-self-test-") as scratch:
        folder = Path(scratch)
        write_loud_adapter(folder, base)
        try:
            with closing(await loader.prepare(adapter_id(0), folder)) as prepared:
                for slot in range(slots):
                    loaded[adapter_id(slot)] = await loader.load(adapter_id(slot), prepared)
            return await prober.answers(rows, TOKENS)
        except ResidencyError as error:
            raise SelfTestFailed(f"the self-test's adapter cannot be loaded: {error}") from error
        finally:
            for name, number in loaded.items():
                await loader.unload(name, number)


def write_loud_adapter(folder: Path, base: BaseModel) -> None:
    """A PEFT folder with random A and B for every linear layer of `base`, strong enough to garble any answer."""
    random = np.random.default_rng(1)
    tensors: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]] = {}
    for name, shape in base.modules.items():
        a = random.standard_normal((RANK, shape.in_features), dtype=np.float32) / math.sqrt(shape.in_features)
        b = random.standard_normal((shape.out_features, RANK), dtype=np.float32) / math.sqrt(RANK)
        tensors[tensor_name(name, "A")], tensors[tensor_name(name, "B")] = a, b
    from safetensors.numpy import save_file  # a light module else, which the gateway's side may import

    save_file(tensors, folder / WEIGHTS_FILE)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.name,
        "r": RANK,
        "lora_alpha": RANK,
        "target_modules": sorted({name.rpartition(".")[2] for name in base.modules}),
        "inference_mode": True,
    }
    (folder / CONFIG_FILE).write_text(json.dumps(config))


def distance(one: Answer, other: Answer) -> float:
    """The largest difference of a logprob, up to where the answers part; infinite where one is not a number, or where
    they part at tokens that were not near each other.
    """
    gaps = [abs(x - y) for x, y in zip(one.prompt_logprobs, other.prompt_logprobs, strict=True)]
    for step, (mine, yours) in enumerate(zip(one.tokens, other.tokens, strict=True)):
        gaps.append(abs(one.likeliest[step][mine] - other.likeliest[step].get(mine, -math.inf)))
        if mine != yours:
            break
    return math.inf if any(math.isnan(gap) for gap in gaps) else max(gaps)
