"""What somebody believed to be there when they asked for a change: HTTP's If-Match, without HTTP.

Two operators who both saw revision 7 cannot both overwrite it: the second finds another number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from loradock_adapters.errors import ChangedMeanwhile


@dataclass(frozen=True, slots=True)
class IfMatch:
    """The revisions that will do; `anything` will do as long as there is something."""

    revisions: frozenset[int] = frozenset()
    anything: bool = False

    def require(self, what: str, revision: int | None, current: Mapping[str, Any] | None) -> None:
        """Raises ChangedMeanwhile, with what is there, unless `revision` (None: there is nothing) will do."""
        if revision is None or not (self.anything or revision in self.revisions):
            raise ChangedMeanwhile(what, revision, current, None if self.anything else self.revisions)
