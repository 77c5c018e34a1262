"""Score example adapters against their base on held-out data, and write result.json beside each.

Both answer greedily, in float32 on the CPU, the base in the bf16 weights that are served (not in the NF4 of
training). Usage: python adapters/examples/evaluate.py [home-commands …] [--base FOLDER]
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from rich.console import Console
from rich.progress import track
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from loradock_adapters.base_fetch import SMOLLM2
from loradock_adapters.base_model import BaseModel
from loradock_adapters.digest import folder_digest
from loradock_adapters.training.data import DataFile, TokenSet, read_examples, tokenize
from loradock_adapters.training.formats import Example
from loradock_adapters.training.recipe import read_recipe
from loradock_adapters.training.scoring import Measure, exact, label_named, same_json, summary_overlap

EXAMPLES = Path(__file__).parent
BATCH = 75
SAMPLES = 4
SHOWN = 200  # characters of a text in result.json: enough to see the difference


@dataclass(frozen=True, slots=True)
class Task:
    """What counts on a task. `longest` is the answer's limit in tokens, well above every wanted answer's."""

    measure: Measure
    words: str
    longest: int


TASKS = {
    "home-commands": Task(same_json, "share of answers whose JSON is exactly the wanted one", 48),
    "python-docstrings": Task(summary_overlap, "mean ROUGE-L F1 of the docstring's words", 40),
    "mail-triage": Task(label_named, "accuracy; an answer counts as the first of spam or ham it names", 24),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """One model's answers and its held-out loss (nats per answer token)."""

    answers: tuple[str, ...]
    loss: float

    def document(self, task: Task, examples: tuple[Example, ...]) -> dict[str, float]:
        pairs = list(zip(self.answers, (example.answer for example in examples), strict=True))
        return {
            "score": round(sum(task.measure(*pair) for pair in pairs) / len(pairs), 4),
            "exact_answers": round(sum(exact(*pair) for pair in pairs) / len(pairs), 4),
            "loss": round(self.loss, 4),
        }


def batches(count: int, what: str) -> Iterator[slice]:
    starts = range(0, count, BATCH)
    for start in track(starts, description=what, console=Console(stderr=True)):
        yield slice(start, start + BATCH)


def answer(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: tuple[Example, ...], task: Task, what: str
) -> tuple[str, ...]:
    """Greedy answers to what a client would send: the user's message, rendered by the chat template."""
    prompts = [
        tokenizer.apply_chat_template(example.context, tokenize=False, add_generation_prompt=True)
        for example in examples
    ]
    answers: list[str] = []
    for part in batches(len(prompts), what):
        given = tokenizer(
            prompts[part], return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
        )
        made = model.generate(
            **given, max_new_tokens=task.longest, do_sample=False, pad_token_id=tokenizer.pad_token_id
        )
        answers += tokenizer.batch_decode(made[:, given["input_ids"].shape[1] :], skip_special_tokens=True)
    return tuple(text.strip() for text in answers)


def mean_loss(model: PreTrainedModel, tokens: TokenSet) -> float:
    """Mean over all answer tokens, stop token included."""
    total, count = 0.0, 0
    for one in tokens.examples:
        logits = model(input_ids=torch.tensor([one.input_ids])).logits[0, :-1]
        labels = torch.tensor(one.labels[1:])
        total += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
        count += one.trained
    return total / count


def outcome(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: DataFile,
    tokens: TokenSet,
    task: Task,
    what: str,
) -> Outcome:
    return Outcome(answer(model, tokenizer, data.examples, task, what), mean_loss(model, tokens))


def shorten(text: str) -> str:
    return text if len(text) <= SHOWN else text[:SHOWN] + " …"


def main() -> None:
    home = Path(os.environ.get("LORADOCK_HOME", "var"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="default: every example", metavar="NAME")
    parser.add_argument("--base", type=Path, default=home / "base" / SMOLLM2.name, help="the base model's folder")
    options = parser.parse_args()
    if unknown := set(options.names) - TASKS.keys():
        parser.error(f"no example {', '.join(sorted(unknown))}; there are {', '.join(TASKS)}")
    for name in options.names or TASKS:
        evaluate(name, options.base)


def evaluate(name: str, base_folder: Path) -> None:
    """Write adapters/examples/<name>/result.json."""
    folder, task = EXAMPLES / name, TASKS[name]
    recipe = read_recipe(folder / "recipe.toml").recipe
    data = read_examples(folder / (recipe.data.held_out or ""))
    tokenizer = AutoTokenizer.from_pretrained(base_folder, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(base_folder, dtype=torch.float32, local_files_only=True)
    tokens = tokenize(tokenizer, data.examples, max_length=8192)

    with torch.inference_mode():
        without = outcome(model, tokenizer, data, tokens, task, f"{name}: base")
        # Merging in float32 changes nothing that counts and saves a third of the time.
        merged = PeftModel.from_pretrained(model, str(folder / "adapter")).merge_and_unload()
        adapted = outcome(merged, tokenizer, data, tokens, task, f"{name}: adapter")

    shown = list(zip(data.examples, without.answers, adapted.answers, strict=True))[:SAMPLES]
    document = {
        "task": name,
        "measure": task.words,
        "examples": len(data.examples),
        "base": without.document(task, data.examples),
        "adapter": adapted.document(task, data.examples),
        "samples": [
            {
                "asked": shorten(example.context[-1]["content"]),
                "wanted": example.answer,
                "base": shorten(before),
                "adapter": shorten(after),
            }
            for example, before, after in shown
        ],
        "base_digest": BaseModel.read(base_folder).digest,
        "adapter_digest": folder_digest(folder / "adapter", ("adapter_config.json", "adapter_model.safetensors")),
        "data_sha256": data.digest,
        "decoding": {"greedy": True, "dtype": "float32", "longest_answer_tokens": task.longest},
        "versions": {name: importlib.metadata.version(name) for name in ("peft", "torch", "transformers")},
    }
    (folder / "result.json").write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
