"""What happens beside the Trainer's loop: writing down, watching the held-out loss, publishing checkpoints, stopping.

The Trainer calls; log, progress and checkpoints do the work.
"""

from __future__ import annotations

import math
import time
from typing import Any, Protocol

import torch
from safetensors.torch import save_file
from transformers import TrainerCallback

from loradock_adapters.training.checkpoints import BEST_FILE, Checkpoints
from loradock_adapters.training.errors import TrainingStopped
from loradock_adapters.training.footprint import highest, peak_bytes
from loradock_adapters.training.losses import Course, LossPoint, Step
from loradock_adapters.training.progress import TrainingProgress
from loradock_adapters.training.stopping import StopRequest, Watch

Tensors = dict[str, torch.Tensor]


class Notes(Protocol):
    """Where steps and evaluations are written down; `log.TrainingLog` is one."""

    @property
    def course(self) -> Course: ...

    def stepped(self, step: Step) -> None: ...

    def evaluated(self, point: LossPoint) -> None: ...

    def sync(self) -> None: ...


class Recorder(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """Writes down every step and evaluation, and tells the progress."""

    def __init__(self, notes: Notes, progress: TrainingProgress) -> None:
        self._notes, self._progress = notes, progress
        self._began = self._took = 0.0
        self._tokens = notes.course.tokens

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._began = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._took = time.monotonic() - self._began

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if logs is None or "loss" not in logs:
            return
        seen = int(state.num_input_tokens_seen)
        step = Step(
            step=state.global_step,
            loss=float(logs["loss"]),
            learning_rate=float(logs["learning_rate"]),
            grad_norm=float(logs["grad_norm"]),
            tokens=seen - self._tokens,
            seconds=round(self._took, 4),
        )
        self._tokens = seen
        self._notes.stepped(step)
        self._progress.stepped(step, state.max_steps)
        if not math.isfinite(step.loss):
            control.should_training_stop = True  # whoever judges the course says why

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **_: Any
    ) -> None:
        point = LossPoint(state.global_step, float((metrics or {})["eval_loss"]))
        self._notes.evaluated(point)
        self._progress.evaluated(point)
        if state.global_step == 0:
            self._progress.phase("training")


class BestKeeper(TrainerCallback):  # type: ignore[misc]  # as above
    """Holds the weights of the best evaluation, and stops the run once the held-out loss falls no more.

    Comes after the recorder, whose points it goes by.
    """

    def __init__(self, watch: Watch, weights: Tensors | None) -> None:
        self.watch, self.weights = watch, weights
        self.stopped_at: int | None = None

    def on_evaluate(
        self,
        args: Any,
        state: Any,
        control: Any,
        metrics: dict[str, float] | None = None,
        model: Any = None,
        **_: Any,
    ) -> None:
        if self.watch.told(LossPoint(state.global_step, float((metrics or {})["eval_loss"]))):
            self.weights = trained_tensors(model)
        elif self.watch.enough and state.global_step < state.max_steps:
            self.stopped_at = state.global_step
            control.should_training_stop = True
            control.should_save = True


class Keeper(TrainerCallback):  # type: ignore[misc]  # as above
    """Makes what the Trainer saved a checkpoint, with what only we know beside it."""

    def __init__(self, checkpoints: Checkpoints, notes: Notes, best: BestKeeper | None, peak: dict[str, int]) -> None:
        self._checkpoints, self._notes, self._best = checkpoints, notes, best
        self._peak = peak
        self.step = 0

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        made = self._checkpoints.writing / f"checkpoint-{state.global_step}"
        if self._best is not None and self._best.weights is not None:
            save_file(self._best.weights, made / BEST_FILE)
        self._notes.sync()
        self._checkpoints.publish(state.global_step, {"peak_bytes": highest(self._peak, peak_bytes())})
        self.step = state.global_step


class Stopper(TrainerCallback):  # type: ignore[misc]  # as above
    """Ends the run after the step in which somebody asked, with a checkpoint."""

    def __init__(self, request: StopRequest) -> None:
        self._request = request
        self.stopped = False

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._request.asked and state.global_step < state.max_steps:
            self.stopped = control.should_training_stop = control.should_save = True

    def on_prediction_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._request.asked and state.global_step == 0:
            raise TrainingStopped(0, state.max_steps)


def trained_tensors(model: Any) -> Tensors:
    """A copy of everything that learns, on the CPU, by parameter name."""
    return {
        name: parameter.detach().to("cpu", copy=True).contiguous()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def put_back(model: Any, weights: Tensors) -> None:
    """Give a model the weights that `trained_tensors` took from it."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(weights[name])
