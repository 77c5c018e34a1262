"""What can go wrong before and during training.

TrainingError
├── RecipeError   (ValueError)   the recipe file is wrong
├── DataError     (ValueError)   a data file is wrong; carries every faulty line
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
