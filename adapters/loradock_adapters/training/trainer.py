"""The training run itself: a frozen base in NF4, LoRA on top, TRL's SFTTrainer, CPU or GPU.

Takes tokens and a recipe, gives the trained PEFT model and its losses. Knows no files but the base model's
folder.
"""

from __future__ import annotations

import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
    set_seed,
)
from trl import SFTConfig, SFTTrainer

from loradock_adapters.training.data import TokenSet
from loradock_adapters.training.errors import TrainingFailed
from loradock_adapters.training.losses import Losses, LossPoint
from loradock_adapters.training.progress import TrainingProgress
from loradock_adapters.training.recipe import QuantizationRecipe, Recipe
from loradock_adapters.training.schedule import Schedule


@dataclass(frozen=True, slots=True)
class Fitted:
    """What a run leaves: the model with its adapter in memory, losses, seconds spent in optimiser steps."""

    model: PeftModel
    losses: Losses
    seconds: float


def fit(
    recipe: Recipe,
    base_folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    train: TokenSet,
    held_out: TokenSet | None,
    progress: TrainingProgress,
) -> Fitted:
    """Train one adapter. Raises TrainingFailed when the loss is not finite or the adapter is still zero."""
    schedule = recipe.training.schedule(len(train.examples))
    set_seed(recipe.training.seed)
    progress.phase("loading the base model")
    model = AutoModelForCausalLM.from_pretrained(
        base_folder,
        dtype=torch.bfloat16,
        quantization_config=_quantization(recipe.quantization),
        device_map={"": 0} if torch.cuda.is_available() else None,
    )
    keep_gradients_exact(model)
    recorder = _Recorder(progress)
    with tempfile.TemporaryDirectory(prefix="loradock-train-") as scratch:
        trainer = SFTTrainer(
            model=model,
            args=_arguments(recipe, schedule, scratch, evaluates=held_out is not None),
            train_dataset=_dataset(train),
            eval_dataset=None if held_out is None else _dataset(held_out),
            processing_class=tokenizer,
            peft_config=_lora(recipe),
            callbacks=[recorder],
        )
        trainer.remove_callback(PrinterCallback)
        _widen(trainer.model)
        if held_out is not None:
            progress.phase("measuring the base")
            trainer.evaluate()
        progress.phase("training")
        began = time.monotonic()
        trainer.train()
        seconds = time.monotonic() - began
        if held_out is not None and recorder.held_out[-1].step != schedule.steps:
            progress.phase("measuring the adapter")
            trainer.evaluate()
    _judge(trainer.model, recorder)
    return Fitted(trainer.model, Losses(tuple(recorder.train), tuple(recorder.held_out)), seconds)


def keep_gradients_exact(model: torch.nn.Module) -> None:
    """Stop bitsandbytes from repacking 4-bit weights for its CPU inference kernel.

    On AVX512-BF16 machines bitsandbytes 0.50 repacks them at the first evaluation and from then on runs, in
    training too, a kernel without a gradient: everything below the last layer silently stops learning.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


class _Recorder(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """Collects losses and passes them on to the progress."""

    def __init__(self, progress: TrainingProgress) -> None:
        self._progress = progress
        self.train: list[LossPoint] = []
        self.held_out: list[LossPoint] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        logs = logs or {}
        if "loss" in logs:
            self.train.append(LossPoint(state.global_step, float(logs["loss"])))
            self._progress.stepped(state.global_step, state.max_steps, float(logs["loss"]))
        if "eval_loss" in logs:
            self.held_out.append(LossPoint(state.global_step, float(logs["eval_loss"])))
            self._progress.evaluated(state.global_step, float(logs["eval_loss"]))


def _quantization(recipe: QuantizationRecipe) -> BitsAndBytesConfig | None:
    if recipe.type == "none":
        return None
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=recipe.double,
        bnb_4bit_compute_dtype=torch.bfloat16,
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


def _arguments(recipe: Recipe, schedule: Schedule, scratch: str, *, evaluates: bool) -> SFTConfig:
    training = recipe.training
    return SFTConfig(
        output_dir=scratch,
        use_cpu=not torch.cuda.is_available(),
        bf16=True,
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
        logging_steps=1,
        save_strategy="no",
        report_to="none",
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


def _judge(model: PeftModel, recorder: _Recorder) -> None:
    bad = [point.step for point in recorder.train if not math.isfinite(point.loss)]
    if bad:
        raise TrainingFailed(f"the loss is not finite at step {bad[0]}; lower training.learning_rate")
    trained = [p for name, p in model.named_parameters() if "lora_B" in name]
    if not any(bool(p.any()) for p in trained):
        raise TrainingFailed("the adapter is still zero after training; raise training.learning_rate or steps")
