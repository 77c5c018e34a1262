"""The training run itself: a frozen base in NF4, LoRA on top, TRL's SFTTrainer, CPU or GPU.

Takes tokens, a recipe and a place for checkpoints, gives the trained PEFT model and its course. Going on from a
checkpoint is the Trainer's own: weights, optimiser, schedule, random numbers and the order of the data.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    PreTrainedTokenizerBase,
    PrinterCallback,
    set_seed,
)
from trl import SFTConfig, SFTTrainer

from loradock_adapters.planning.training_dtype import TrainingDtype
from loradock_adapters.training.callbacks import BestKeeper, Keeper, Notes, Recorder, Stopper, put_back
from loradock_adapters.training.checkpoints import BEST_FILE, Checkpoint, Checkpoints
from loradock_adapters.training.data import TokenSet
from loradock_adapters.training.errors import TrainingFailed, TrainingStopped
from loradock_adapters.training.footprint import highest, peak_bytes, start_counting
from loradock_adapters.training.losses import Course, LossPoint
from loradock_adapters.training.progress import TrainingProgress
from loradock_adapters.training.recipe import QuantizationRecipe, Recipe
from loradock_adapters.training.schedule import Schedule
from loradock_adapters.training.stopping import StopRequest, Watch

_WEIGHTS_FILE = "adapter_model.safetensors"
_TORCH: dict[TrainingDtype, torch.dtype] = {"bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run writes: its checkpoints and its notes; `after` is the checkpoint it goes on from.

    `trackers`: the folder that TensorBoard's files go into, if the recipe wants some.
    """

    checkpoints: Checkpoints
    notes: Notes
    trackers: Path
    after: Checkpoint | None = None


@dataclass(frozen=True, slots=True)
class Fitted:
    """What a run leaves: the model with its adapter in memory, its course, and its peaks of memory in bytes.

    `best`: the evaluation whose adapter this is, where the recipe stops early; `stopped_at`: the step at which it did.
    """

    model: PeftModel
    course: Course
    peak_bytes: dict[str, int]
    best: LossPoint | None = None
    stopped_at: int | None = None


@dataclass(frozen=True, slots=True)
class Tokenized:
    """The examples as tokens."""

    train: TokenSet
    held_out: TokenSet | None


def fit(
    recipe: Recipe,
    base_folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    tokens: Tokenized,
    place: Place,
    progress: TrainingProgress,
    stop: StopRequest | None = None,
    dtype: TrainingDtype = "bfloat16",
) -> Fitted:
    """Train one adapter, computing in `dtype`.

    Raises TrainingFailed when the loss is not finite or nothing was learned, TrainingStopped when somebody asked it to
    stop; a checkpoint is there then.
    """
    schedule = recipe.training.schedule(len(tokens.train.examples))
    start_counting()
    set_seed(recipe.training.seed)
    progress.phase("loading the base model")
    model = AutoModelForCausalLM.from_pretrained(
        base_folder,
        dtype=_TORCH[dtype],
        quantization_config=_quantization(recipe.quantization, dtype),
        device_map={"": 0} if torch.cuda.is_available() else None,
    )
    keep_gradients_exact(model)
    peak = place.after.facts.get("peak_bytes", {}) if place.after is not None else {}
    best = _best_keeper(recipe, place)
    keeper = Keeper(place.checkpoints, place.notes, best, peak)
    stopper = Stopper(stop or StopRequest())
    with _trackers(recipe, place.trackers):
        trainer = _Trainer(
            model=model,
            args=_arguments(recipe, schedule, place, dtype=dtype, evaluates=tokens.held_out is not None),
            train_dataset=_dataset(tokens.train),
            eval_dataset=None if tokens.held_out is None else _dataset(tokens.held_out),
            processing_class=tokenizer,
            peft_config=_lora(recipe),
            callbacks=[Recorder(place.notes, progress), *([] if best is None else [best]), keeper, stopper],
        )
        trainer.remove_callback(PrinterCallback)
        _widen(trainer.model)
        _run(trainer, place, schedule, best, progress)
        if stopper.stopped:
            raise TrainingStopped(keeper.step, schedule.steps)
        done = place.notes.course.steps[-1].step
        if tokens.held_out is not None and place.notes.course.held_out[-1].step != done:
            progress.phase("measuring the adapter")
            trainer.state.global_step = done
            trainer.evaluate()
    _judge_losses(place.notes.course)
    if best is not None:
        _put_best_back(trainer.model, best)
    _judge_adapter(trainer.model)
    return Fitted(
        model=trainer.model,
        course=place.notes.course,
        peak_bytes=highest(peak, peak_bytes()),
        best=None if best is None else best.watch.best,
        stopped_at=None if best is None else best.stopped_at,
    )


class _Trainer(SFTTrainer):  # type: ignore[misc]  # trl is untyped here
    """TRL's, without a model card in every checkpoint."""

    def create_model_card(self, *args: Any, **options: Any) -> None: ...


def _run(
    trainer: SFTTrainer, place: Place, schedule: Schedule, best: BestKeeper | None, progress: TrainingProgress
) -> None:
    """The steps that are left; none if the last checkpoint is the run's end."""
    if place.after is None:
        progress.phase("measuring the base" if trainer.args.eval_on_start else "training")
        trainer.train()
    elif place.after.step >= schedule.steps or (best is not None and best.watch.enough):
        set_peft_model_state_dict(trainer.model, load_file(place.after.folder / _WEIGHTS_FILE))
        if best is not None and place.after.step < schedule.steps:
            best.stopped_at = place.after.step
    else:
        progress.phase("training")
        trainer.train(resume_from_checkpoint=str(place.after.folder))


def _best_keeper(recipe: Recipe, place: Place) -> BestKeeper | None:
    rule = recipe.training.early_stopping
    if rule is None:
        return None
    watch = Watch(rule)
    for point in place.notes.course.held_out:
        watch.told(point)
    kept = None if place.after is None else place.after.folder / BEST_FILE
    return BestKeeper(watch, None if kept is None or not kept.exists() else load_file(kept))


def _put_best_back(model: PeftModel, best: BestKeeper) -> None:
    point = best.watch.best
    if point is None or best.weights is None:
        raise TrainingFailed("nothing was measured on held-out data; lower training.eval_every")
    if point.step == 0:
        raise TrainingFailed(
            f"the held-out loss never fell below the base model's {point.loss:.3f}: the adapter would make answers "
            "worse; lower training.learning_rate, or look whether both data files ask for the same"
        )
    put_back(model, best.weights)


@contextmanager
def _trackers(recipe: Recipe, folder: Path) -> Iterator[None]:
    """TensorBoard is told by the environment where to write; mlflow looks for its own variables."""
    name = "TENSORBOARD_LOGGING_DIR"
    if "tensorboard" not in recipe.training.report_to or name in os.environ:
        yield
        return
    os.environ[name] = str(folder)
    try:
        yield
    finally:
        os.environ.pop(name, None)


def keep_gradients_exact(model: torch.nn.Module) -> None:
    """Stop bitsandbytes from repacking 4-bit weights for its CPU inference kernel.

    On AVX512-BF16 machines bitsandbytes 0.50 repacks them at the first evaluation and from then on runs, in
    training too, a kernel without a gradient: everything below the last layer silently stops learning.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _quantization(recipe: QuantizationRecipe, dtype: TrainingDtype) -> BitsAndBytesConfig | None:
    if recipe.type == "none":
        return None
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=recipe.double,
        bnb_4bit_compute_dtype=_TORCH[dtype],
    )


def _lora(recipe: Recipe) -> LoraConfig:
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=recipe.adapter.rank,
        lora_alpha=recipe.adapter.alpha,
        lora_dropout=recipe.adapter.dropout,
        target_modules=list(recipe.adapter.target_modules),
        bias="none",
    )


def _arguments(recipe: Recipe, schedule: Schedule, place: Place, *, dtype: TrainingDtype, evaluates: bool) -> SFTConfig:
    training = recipe.training
    return SFTConfig(
        output_dir=str(place.checkpoints.writing),
        use_cpu=not torch.cuda.is_available(),
        bf16=dtype == "bfloat16",  # autocast; float32 is computed as it stands
        max_steps=schedule.steps,
        per_device_train_batch_size=training.batch_size,
        per_device_eval_batch_size=training.batch_size,
        gradient_accumulation_steps=training.gradient_accumulation,
        gradient_checkpointing=training.gradient_checkpointing,
        learning_rate=training.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=schedule.warmup_steps,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        optim="adamw_torch",
        seed=training.seed,
        data_seed=training.seed,
        # Examples arrive tokenized, masked and within the limit; TRL must not touch them again.
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=recipe.data.max_length,
        packing=False,
        eval_strategy="steps" if evaluates else "no",
        eval_steps=training.eval_every,
        eval_on_start=evaluates and place.after is None,
        logging_steps=1,
        logging_nan_inf_filter=False,
        include_num_input_tokens_seen="non_padding",
        save_strategy="steps",
        save_steps=training.checkpoint_every,
        report_to=list(training.report_to) or "none",
        disable_tqdm=True,
        dataloader_num_workers=0,
    )


def _dataset(tokens: TokenSet) -> Dataset:
    return Dataset.from_list([{"input_ids": t.input_ids, "labels": t.labels} for t in tokens.examples])


def _widen(model: PeftModel) -> None:
    """Hold the trained weights in fp32: in bf16 (TRL's choice) a small AdamW step rounds to nothing."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def _judge_losses(course: Course) -> None:
    bad = [step.step for step in course.steps if not math.isfinite(step.loss)]
    if bad:
        raise TrainingFailed(f"the loss is not finite at step {bad[0]}; lower training.learning_rate")


def _judge_adapter(model: PeftModel) -> None:
    trained = [p for name, p in model.named_parameters() if "lora_B" in name]
    if not any(bool(p.any()) for p in trained):
        raise TrainingFailed("the adapter is still zero after training; raise training.learning_rate or steps")
