"""From a recipe file to an adapter folder: read, train, check, write, or raise.

The finished folder appears in one rename: adapter_config.json, adapter_model.safetensors, manifest.json, train.jsonl,
loss.png and loss.html. Until then everything is in `<name>.partial` beside it, which a stopped run goes on from.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import datasets
import torch
import transformers.utils.logging as transformers_logging

from loradock_adapters.check import Limits, check_adapter
from loradock_adapters.planning.training_dtype import DtypeChoice
from loradock_adapters.training.computing import dtype_of
from loradock_adapters.training.errors import TrainingError, TrainingFailed
from loradock_adapters.training.export import write_adapter
from loradock_adapters.training.identity import RunIdentity
from loradock_adapters.training.log import LOG_FILE, TrainingLog
from loradock_adapters.training.losses import Losses
from loradock_adapters.training.manifest import DataFacts, EarlyStop, Manifest, Outcome, cpu_name, package_versions
from loradock_adapters.training.page import PAGE_FILE, LivePage, write_page
from loradock_adapters.training.partial import Partial
from loradock_adapters.training.plot import plot_losses
from loradock_adapters.training.preparation import Prepared, prepare
from loradock_adapters.training.progress import Several, Silent, TrainingProgress
from loradock_adapters.training.recipe import read_recipe
from loradock_adapters.training.stopping import StopRequest
from loradock_adapters.training.trainer import Fitted, Place, Tokenized, fit


@dataclass(frozen=True, slots=True)
class How:
    """How to treat a run that was broken off, and what a server allows of the adapter.

    `told` hears of what is worth knowing and stops nothing.
    """

    limits: Limits | None = None
    resume: bool = False
    restart: bool = False
    report_to: tuple[str, ...] = ()
    told: Callable[[str], None] = lambda text: None


@dataclass(frozen=True, slots=True)
class TrainResult:
    """Where the adapter lies and how the run went; `seconds` is the time spent in optimiser steps."""

    name: str
    folder: Path
    losses: Losses
    seconds: float
    tokens_per_second: float
    peak_bytes: dict[str, int]
    best_step: int | None = None
    stopped_at: int | None = None


def train(
    recipe_path: Path,
    base_folder: Path,
    out_dir: Path,
    progress: TrainingProgress | None = None,
    how: How | None = None,
    stop: StopRequest | None = None,
) -> TrainResult:
    """Train the adapter of a recipe into out_dir/<name>.

    Raises RecipeError, DataError, BaseModelError or AdapterRejected before anything heavy starts, TrainingError if
    out_dir/<name> is there already, CannotResume, TrainingStopped, and TrainingFailed when the run gives no usable
    adapter.
    """
    how = how or How()
    require_free(read_recipe(recipe_path).recipe.name, out_dir)
    return train_prepared(prepare(recipe_path, base_folder, how.limits, how.report_to), out_dir, progress, how, stop)


def require_free(name: str, out_dir: Path) -> Path:
    """Where the adapter will lie. Raises TrainingError if something lies there."""
    folder = out_dir / name
    if folder.exists():
        raise TrainingError(f"{folder} exists; move it away or choose another --out")
    return folder


def train_prepared(
    prepared: Prepared,
    out_dir: Path,
    progress: TrainingProgress | None = None,
    how: How | None = None,
    stop: StopRequest | None = None,
) -> TrainResult:
    """`train`, for who has prepared the run."""
    how, progress = how or How(), progress or Silent()
    recipe, compute = prepared.recipe, dtype_of(prepared)
    folder = require_free(recipe.name, out_dir)
    with Partial(out_dir, recipe.name) as partial, _quiet():
        after, other = partial.begin(_identity(prepared, compute), resume=how.resume, restart=how.restart)
        if after is not None:
            how.told(f"going on after step {after.step} of {prepared.schedule.steps}")
        elif how.resume:
            how.told("there is no checkpoint to go on from: training from the beginning")
        if other:
            how.told("other surroundings than before, so the result may differ in its last bits: " + "; ".join(other))
        if after is None:
            how.told(f"computing in {compute.dtype}: {compute.reason}")
        try:
            with TrainingLog(partial.log_path, 0 if after is None else after.step) as log:
                page = LivePage(partial.folder / PAGE_FILE, recipe.name, log.course)
                fitted = fit(
                    recipe,
                    prepared.base.folder,
                    prepared.tokenizer,
                    Tokenized(prepared.train.tokens, prepared.measured),
                    Place(partial.checkpoints, log, out_dir / "tensorboard" / recipe.name, after),
                    Several(page, progress),
                    stop,
                    compute.dtype,
                )
            progress.phase("writing the adapter")
            finish(prepared, compute, fitted, folder, partial)
        except TrainingFailed:
            partial.checkpoints.remove_all()  # gone on with, it would fail again; log and curve say how it went
            raise
        partial.discard()
    course = fitted.course
    return TrainResult(
        name=recipe.name,
        folder=folder,
        losses=course.losses,
        seconds=course.seconds,
        tokens_per_second=course.tokens_per_second,
        peak_bytes=fitted.peak_bytes,
        best_step=None if fitted.best is None else fitted.best.step,
        stopped_at=fitted.stopped_at,
    )


def finish(prepared: Prepared, compute: DtypeChoice, fitted: Fitted, folder: Path, partial: Partial) -> None:
    """Write what a run gave into `folder`, which appears when it is complete and was found fit to be served.

    Raises AdapterRejected.
    """
    name, course = prepared.recipe.name, fitted.course
    with tempfile.TemporaryDirectory(prefix="adapter-", dir=partial.folder) as scratch:
        made = Path(scratch) / name
        adapter = write_adapter(fitted.model, made, base_name=prepared.recipe.base)
        Manifest(prepared.source, prepared.base, _facts(prepared), adapter, _outcome(prepared, compute, fitted)).write(
            made
        )
        check_adapter(made, prepared.base, prepared.limits).raise_if_faulty()
        shutil.copyfile(partial.log_path, made / LOG_FILE)
        plot_losses(course.losses, made / "loss.png", title=name)
        write_page(made / PAGE_FILE, name, course, state=f"{len(course.steps)} steps in {course.seconds:.0f} s")
        made.replace(folder)


def device_name() -> str:
    """What computes here: the GPU's name, or the processor's."""
    return str(torch.cuda.get_device_name(0)) if torch.cuda.is_available() else cpu_name()


def _facts(prepared: Prepared) -> dict[str, DataFacts]:
    inputs = {"train": prepared.train, "held_out": prepared.held_out}
    return {role: given.facts for role, given in inputs.items() if given is not None}


def _outcome(prepared: Prepared, compute: DtypeChoice, fitted: Fitted) -> Outcome:
    rule = prepared.recipe.training.early_stopping
    return Outcome(
        course=fitted.course,
        schedule=prepared.schedule,
        peak_bytes=fitted.peak_bytes,
        device=device_name(),
        threads=torch.get_num_threads(),
        compute=compute,
        early_stopping=None if rule is None else EarlyStop(rule, fitted.best, fitted.stopped_at),
    )


def _identity(prepared: Prepared, compute: DtypeChoice) -> RunIdentity:
    surroundings = {"device": device_name(), "threads": torch.get_num_threads(), **package_versions()}
    data = {role: facts.sha256 for role, facts in _facts(prepared).items()}
    return RunIdentity.of(prepared.recipe, data, prepared.base.digest, compute.dtype, surroundings)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the libraries' own progress bars, which would tear ours apart."""
    transformers_on = transformers_logging.is_progress_bar_enabled()
    datasets_on = not datasets.are_progress_bars_disabled()
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if transformers_on:
            transformers_logging.enable_progress_bar()
        if datasets_on:
            datasets.enable_progress_bars()
