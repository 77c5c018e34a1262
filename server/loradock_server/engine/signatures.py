"""The signatures that gateways sent along with adapters' names, until the process that reads adapters asks for them.

It checks none of them: that is done where the bytes are read.
"""

from __future__ import annotations

from collections import OrderedDict

MAX_DIGESTS = 100_000
# The same bytes under several names may have been signed by several people; the latest few are enough.
MAX_PER_DIGEST = 8


class Signatures:
    """Signatures by digest. For one event loop to write; reading is safe from any thread."""

    def __init__(self) -> None:
        self._found: OrderedDict[str, tuple[str, ...]] = OrderedDict()

    def note(self, digest: str, signature: str) -> None:
        """Keep what somebody says of these bytes; "" says nothing."""
        if not signature:
            return
        known = self._found.get(digest, ())
        if not known or known[-1] != signature:
            others = tuple(one for one in known if one != signature)
            self._found[digest] = (*others, signature)[-MAX_PER_DIGEST:]
        self._found.move_to_end(digest)
        if len(self._found) > MAX_DIGESTS:
            self._found.popitem(last=False)

    def of(self, digest: str) -> tuple[str, ...]:
        """What was said of these bytes, the latest last."""
        return self._found.get(digest, ())
