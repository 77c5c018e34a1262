"""What can go wrong before and during training.

TrainingError
├── RecipeError   (ValueError)   the recipe file is wrong
├── DataError     (ValueError)   a data file is wrong; carries every faulty line
├── CannotResume                 a run that was broken off, and this is not it
├── TrainingStopped              somebody asked it to stop; it can go on
└── TrainingFailed               the run itself broke down
"""

from __future__ import annotations

from loradock_adapters.errors import LoraDockError


class TrainingError(LoraDockError):
    """Anything that keeps a recipe from becoming an adapter. Seen by whoever runs `loradock train`."""


class RecipeError(TrainingError, ValueError):
    """A recipe cannot be read or asks for something impossible; the message names all of it at once."""


class DataError(TrainingError, ValueError):
    """A data file has lines that are no training examples; the message gives their line numbers."""


class TrainingFailed(TrainingError):
    """Training began and did not give a usable adapter (loss not finite, nothing learned)."""


class CannotResume(TrainingError):
    """There is a run that was broken off, and it may not or was not asked to be gone on with; the message says why."""


class TrainingStopped(TrainingError):
    """Somebody asked the run to stop, and it did; `step` is what its last checkpoint holds, 0 for none."""

    def __init__(self, step: int, total: int) -> None:
        self.step = step
        self.total = total
        kept = f"everything up to step {step} of {total} is kept" if step else "nothing was done yet"
        super().__init__(f"stopped: {kept}")
