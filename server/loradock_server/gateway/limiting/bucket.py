"""One limit by the minute: a bucket that what is taken fills and that drains steadily, at its limit in a minute.

It holds up to its limit, so whoever has rested for a minute may take a whole minute's worth at once: at most
limit x (1 + t/60) in any t seconds. What turns out to be taken too much goes back, as far as it has not drained: so
giving back never makes room for more than that. It knows no clock: times are seconds that its user tells.
"""

from __future__ import annotations

from typing import NamedTuple

SLACK = 1e-6
_WORTHLESS = 1e-9


class Charge(NamedTuple):
    """What was put into a bucket: `share` and `era` tell how much of it has drained since."""

    amount: float
    share: float
    era: int


class Bucket:
    """Amounts are requests or tokens. `content` is as of the last `drain`; `unsent` is what others do not know of."""

    __slots__ = ("_at", "_era", "_share", "content", "limit", "unsent")

    def __init__(self, limit: int, now: float) -> None:
        self.limit = limit
        self.content = 0.0
        self.unsent = 0.0
        self._at = now
        # Of everything that was put in since the bucket was last empty, the same part is left: times this, it is that
        # part for what came at the era's beginning.
        self._share = 1.0
        self._era = 0

    @property
    def per_second(self) -> float:
        """How much drains."""
        return self.limit / 60

    @property
    def left(self) -> int:
        """How much may be taken now."""
        left = int(self.limit - self.content + SLACK)
        return left if left > 0 else 0

    @property
    def seconds_to_empty(self) -> float:
        return self.content * 60 / self.limit

    def drain(self, limit: int, now: float) -> None:
        """Let pass what time has passed; from now on this is the limit."""
        passed = now - self._at
        if passed > 0:
            self._at = now
            if self.content:
                left = self.content - passed * self.limit / 60
                self._share = self._share * left / self.content if left > 0 else 0.0
                self.content = left if left > 0 else 0.0
                if self._share < _WORTHLESS:
                    self._share, self._era = 1.0, self._era + 1
        self.limit = limit

    def wait(self, amount: float) -> float:
        """Seconds until this fits, if nobody else comes; 0: it does. More than the limit fits when nothing is in."""
        over = self.content + amount - self.limit if amount < self.limit else self.content
        return over * 60 / self.limit if over > SLACK else 0.0

    def take(self, amount: float) -> Charge:
        """Put it in, whether it fits or not; no more than the limit."""
        amount = amount if amount < self.limit else self.limit
        self.content += amount
        self.unsent += amount
        return Charge(amount, self._share, self._era)

    def correct(self, charge: Charge, amount: float) -> None:
        """It was this amount in truth. Once for each charge."""
        more = amount - charge.amount
        if more < 0:
            if charge.era != self._era:
                return
            more = -min(-more * self._share / charge.share, self.content)
        self.content += more
        self.unsent += more

    def send(self) -> float:
        """What others are to be told; never more than what has not drained yet, however long they were not told."""
        sent = min(self.unsent, self.content)
        self.unsent = 0.0
        return sent

    def unsend(self, sent: float) -> None:
        """They did not hear it."""
        self.unsent += sent

    def hear(self, content: float, since: float = 0.0) -> None:
        """What was in it so many seconds ago, with all that others put in, and all that was sent."""
        self.content = max(0.0, max(0.0, content - since * self.per_second) + self.unsent)
