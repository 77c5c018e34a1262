"""The base model that a server serves, and the name clients ask for. Finding it is the command line's job."""

from __future__ import annotations

from dataclasses import dataclass

from loradock_adapters.base_model import BaseModel


@dataclass(frozen=True, slots=True)
class ServedBase:
    """A base model and its served name."""

    model: BaseModel
    served_name: str
