"""One adapter merged into its base model: a folder that any runtime serves, with no adapter left to load.

An adapter that learned on an NF4 base makes good for that base's rounding, so it may fit the dequantised NF4 base
better than the original; which one is measured on held-out text. Sums are made in fp32 and rounded to bf16 once.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers.utils.logging as transformers_logging
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from loradock_adapters.base_model import BaseModel
from loradock_adapters.digest import folder_digest
from loradock_adapters.merging.errors import MergeError
from loradock_adapters.merging.gap import Gap, answer_logprobs, gap
from loradock_adapters.merging.servable import require_servable
from loradock_adapters.peft_folder import CONFIG_FILE, WEIGHTS_FILE, PeftFolder
from loradock_adapters.training.data import Tokens, read_examples, tokenize
from loradock_adapters.training.errors import RecipeError
from loradock_adapters.training.recipe import parse_recipe

Onto = Literal["bf16", "nf4"]
RECORD_FILE = "merge.json"
_LONGEST = 2048
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Merged:
    """A base with the adapter in it. `as_served`: how far from the adapter beside the bf16 base, which is what a server
    answers with; `as_trained`: from the adapter beside the NF4 base it learned on, None where it did not.
    """

    onto: Onto
    as_served: Gap | None
    as_trained: Gap | None

    def as_dict(self) -> dict[str, Any]:
        return {
            "onto": self.onto,
            "as_served": None if self.as_served is None else self.as_served.as_dict(),
            "as_trained": None if self.as_trained is None else self.as_trained.as_dict(),
        }


@dataclass(frozen=True, slots=True)
class MergeResult:
    """Where the model lies, which way it was made, and what else was tried. `trained_on` as the manifest says."""

    folder: Path
    chosen: Merged
    tried: tuple[Merged, ...]
    trained_on: Onto


def merge_into_base(
    adapter: Path,
    base_folder: Path,
    out: Path,
    *,
    onto: Onto | None = None,
    data: Path | None = None,
    examples: int = 32,
    say: Say = lambda text: None,
) -> MergeResult:
    """Write the merged model to the new folder `out`, complete or not at all.

    Without `onto` an adapter of an NF4 base is merged both ways and the one nearer to it as it was trained is kept,
    which takes `data`; any other goes onto bf16. Raises MergeError, AdapterRejected, AdapterUnreadable, BaseModelError,
    DataError.
    """
    if out.exists():
        raise MergeError(f"{out} exists; move it away or choose another --out")
    base = BaseModel.read(base_folder)
    require_servable(adapter, base)
    trained_on = _trained_on(PeftFolder.read(adapter).manifest)
    ways = _ways(onto, trained_on, measured=data is not None)
    tokenizer = AutoTokenizer.from_pretrained(base_folder, local_files_only=True)
    texts = () if data is None else _texts(tokenizer, data, examples)
    out.parent.mkdir(parents=True, exist_ok=True)
    with _quiet(), tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        unmerged = {}
        if texts:
            for kind in dict.fromkeys(("bf16", trained_on)):
                say(f"asking the adapter beside the {kind} base")
                unmerged[kind] = answer_logprobs(_with_adapter(_base(base_folder, kind), adapter), texts)
        tried = []
        for way in ways:
            say(f"merging onto the {way} base")
            made = Path(scratch) / way
            answers = _merge(base_folder, adapter, way, made, texts)
            gaps = {kind: gap(answers, logprobs) for kind, logprobs in unmerged.items() if answers is not None}
            tried.append(Merged(way, gaps.get("bf16"), gaps.get("nf4") if trained_on == "nf4" else None))
        chosen = min(tried, key=_nearness)
        made = Path(scratch) / chosen.onto
        _finish(made, base_folder, tokenizer, base, adapter, chosen, tried)
        made.replace(out)
    return MergeResult(out, chosen, tuple(tried), trained_on)


def _ways(onto: Onto | None, trained_on: Onto, *, measured: bool) -> tuple[Onto, ...]:
    if onto is not None:
        return (onto,)
    if trained_on == "bf16":
        return ("bf16",)
    if not measured:
        raise MergeError(
            "this adapter learned on an NF4 base; which base it is best merged onto must be measured: give held-out "
            "text (--data FILE), or say it yourself (--onto bf16 or --onto nf4)"
        )
    return ("bf16", "nf4")


def _nearness(merged: Merged) -> float:
    measure = merged.as_trained or merged.as_served
    return 0.0 if measure is None else measure.mean


def _trained_on(manifest: Mapping[str, Any]) -> Onto:
    """What the manifest's recipe says; bf16 where there is none, as nothing is known then."""
    recipe = manifest.get("recipe")
    text = recipe.get("text") if isinstance(recipe, dict) else None
    try:
        return "nf4" if isinstance(text, str) and parse_recipe(text).quantization.type == "nf4" else "bf16"
    except RecipeError:
        return "bf16"


def _texts(tokenizer: Any, data: Path, count: int) -> tuple[Tokens, ...]:
    return tokenize(tokenizer, read_examples(data).examples[:count], max_length=_LONGEST).examples


def _base(folder: Path, kind: Onto) -> torch.nn.Module:
    """The base in fp32: its own bf16 numbers, or what NF4 with double quantisation leaves of them."""
    if kind == "bf16":
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, quantization_config=quantization, local_files_only=True
    )
    return model.dequantize().float().eval()


def _with_adapter(base: torch.nn.Module, adapter: Path) -> PeftModel:
    return PeftModel.from_pretrained(base, adapter, autocast_adapter_dtype=False).float().eval()


def _merge(base_folder: Path, adapter: Path, onto: Onto, made: Path, texts: Sequence[Tokens]) -> torch.Tensor | None:
    """Write the merged weights to `made`; what the model answers with its rounded weights, if there are texts."""
    merged = _with_adapter(_base(base_folder, onto), adapter).merge_and_unload(safe_merge=True).to(torch.bfloat16)
    merged.config.dtype = torch.bfloat16
    merged.save_pretrained(made)
    return answer_logprobs(merged.float(), texts) if texts else None


def _finish(
    made: Path,
    base_folder: Path,
    tokenizer: Any,
    base: BaseModel,
    adapter: Path,
    chosen: Merged,
    tried: Sequence[Merged],
) -> None:
    """What belongs to a model besides weights: tokenizer, template, generation settings, and where it comes from."""
    tokenizer.save_pretrained(made)
    for name in ("generation_config.json", "chat_template.jinja"):
        if (base_folder / name).is_file():
            shutil.copyfile(base_folder / name, made / name)
    config = json.loads((made / "config.json").read_bytes())
    config.pop("quantization_config", None)
    config.pop("_name_or_path", None)
    (made / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    record = {
        "schema": 1,
        "base": {"name": base.name, "digest": base.digest},
        "adapter": folder_digest(adapter, (CONFIG_FILE, WEIGHTS_FILE)),
        "chosen": chosen.as_dict(),
        "tried": [one.as_dict() for one in tried],
    }
    (made / RECORD_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    for path in made.iterdir():
        path.chmod(0o644)


@contextmanager
def _quiet() -> Iterator[None]:
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
