"""Which name somebody may have meant, of those that they may know of.

Bounded work however many names there are: a client that asks for a name that is gone does so a thousand times a second.
"""

from __future__ import annotations

import difflib
import re
from bisect import bisect_left
from collections.abc import Iterable

_ALL = 300  # so many names are all compared; of more, those around the place that the asked one would have
_AROUND = 100
_LISTS = 64
_LONGEST = 80


class NearNames:
    """The names there are, as of one moment."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = sorted(names)
        self._visible: dict[re.Pattern[str], list[str]] = {}

    def nearest(self, asked: str, visible: re.Pattern[str] | None) -> str | None:
        """The nearest of the names that `visible` matches (None: of all), or None if none is near."""
        asked, names = asked[:_LONGEST], self._seen(visible)
        if len(names) > _ALL:
            place = bisect_left(names, asked)
            names = names[max(0, place - _AROUND) : place + _AROUND]
        return next(iter(difflib.get_close_matches(asked, names, n=1)), None)

    def _seen(self, visible: re.Pattern[str] | None) -> list[str]:
        if visible is None:
            return self._names
        if visible not in self._visible:
            if len(self._visible) >= _LISTS:
                self._visible.clear()
            self._visible[visible] = [name for name in self._names if visible.match(name)]
        return self._visible[visible]
