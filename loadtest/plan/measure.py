"""The peak of memory and the seconds of a step of one real training run; to be run in a process of its own.

Random tokens, as many as asked for in every example, and every one of them learned: the worst case. It prints one line
of JSON. Usage: python -m loadtest.plan.measure MODEL_FOLDER RUN_AS_JSON
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from loradock_adapters.planning.processor import timed_processor
from loradock_adapters.planning.reading import read_shape
from loradock_adapters.planning.training_dtype import TrainingDtype

STEPS = 6


@dataclass(frozen=True, slots=True)
class Case:
    """One run; `targets` are module names or all-linear."""

    method: Literal["full", "lora", "qlora"]
    rank: int
    targets: tuple[str, ...]
    batch_size: int
    sequence_length: int
    checkpointing: bool = False
    double_quantization: bool = True
    dropout: float = 0.0
    dtype: TrainingDtype = "bfloat16"

    def as_json(self) -> str:
        return json.dumps(asdict(self))


class _Marks:
    """A TrainingProgress that notes when each step ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def phase(self, what: str) -> None: ...

    def stepped(self, step: Any, total: int) -> None:
        self.times.append(time.monotonic())

    def evaluated(self, point: Any) -> None: ...

    @property
    def seconds_a_step(self) -> float:
        gaps = sorted(after - before for before, after in zip(self.times[1:], self.times[2:], strict=False))
        return gaps[len(gaps) // 2]


def measure(folder: Path, case: Case) -> dict[str, Any]:
    """Train for a few steps; bytes at the peak, of the process or of the GPU."""
    import torch
    from transformers import AutoTokenizer

    from loradock_adapters.training.data import Tokens, TokenSet

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    chance = torch.Generator().manual_seed(1)
    drawn = torch.randint(0, 1000, (STEPS * case.batch_size, case.sequence_length), generator=chance).tolist()
    tokens = TokenSet(tuple(Tokens(ids, ids) for ids in drawn), 0)
    marks = _Marks()
    before = resident_peak()
    if case.method == "full":
        _train_all(folder, case, tokenizer, tokens, marks)
    else:
        _train_adapter(folder, case, tokenizer, tokens, marks)
    found: dict[str, Any] = {**asdict(case), "seconds_a_step": round(marks.seconds_a_step, 4)}
    if torch.cuda.is_available():
        return found | {
            "device": torch.cuda.get_device_name(0),
            "peak_bytes": torch.cuda.max_memory_allocated(),
            "reserved_bytes": torch.cuda.max_memory_reserved(),
        }
    found |= {"device": "cpu", "peak_bytes": resident_peak(), "imported_bytes": before}
    speed = timed_processor(read_shape(folder), case.dtype)
    return found | {"tflops": speed.tflops, "unpacked_per_second": speed.unpacked_per_second}


def resident_peak() -> int:
    """The most memory that this process ever held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _recipe(folder: Path, case: Case) -> Any:
    from loradock_adapters.training import recipe

    modules = read_shape(folder).targets if case.targets == ("all-linear",) else case.targets
    return recipe.Recipe(
        name="measured",
        base="measured/measured",
        data=recipe.DataRecipe(Path("none"), max_length=case.sequence_length),
        adapter=recipe.AdapterRecipe(
            rank=case.rank, alpha=2.0 * case.rank, dropout=case.dropout, target_modules=modules
        ),
        quantization=recipe.QuantizationRecipe("nf4" if case.method == "qlora" else "none", case.double_quantization),
        training=recipe.TrainingRecipe(
            steps=STEPS,
            batch_size=case.batch_size,
            warmup_steps=1,
            gradient_checkpointing=case.checkpointing,
        ),
    )


def _train_adapter(folder: Path, case: Case, tokenizer: Any, tokens: Any, marks: _Marks) -> None:
    from loradock_adapters.training.checkpoints import Checkpoints
    from loradock_adapters.training.log import TrainingLog
    from loradock_adapters.training.trainer import Place, Tokenized, fit

    with tempfile.TemporaryDirectory() as scratch, TrainingLog(Path(scratch) / "train.jsonl") as log:
        place = Place(Checkpoints(Path(scratch)), log, Path(scratch))
        fit(_recipe(folder, case), folder, tokenizer, Tokenized(tokens, None), place, marks, dtype=case.dtype)


def _train_all(folder: Path, case: Case, tokenizer: Any, tokens: Any, marks: _Marks) -> None:
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class Note(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            marks.stepped(None, state.max_steps)

    on_gpu = torch.cuda.is_available()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, device_map={"": 0} if on_gpu else None)
    with tempfile.TemporaryDirectory() as scratch:
        arguments = SFTConfig(
            output_dir=scratch,
            use_cpu=not on_gpu,
            bf16=case.dtype == "bfloat16",
            max_steps=STEPS,
            per_device_train_batch_size=case.batch_size,
            gradient_checkpointing=case.checkpointing,
            learning_rate=1e-5,
            optim="adamw_torch",
            dataset_kwargs={"skip_prepare_dataset": True},
            max_length=case.sequence_length,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        rows = [{"input_ids": one.input_ids, "labels": one.labels} for one in tokens.examples]
        SFTTrainer(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[Note()],
        ).train()


if __name__ == "__main__":
    given = json.loads(sys.argv[2])
    sys.stdout.write(
        json.dumps(measure(Path(sys.argv[1]), Case(**{**given, "targets": tuple(given["targets"])}))) + "\n"
    )
