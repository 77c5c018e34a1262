"""How many requests of one adapter are being answered by this gateway, and the limit an operator set on that.

Other gateways count their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from loradock_server.gateway.errors import AdapterBusy
from loradock_server.gateway.table import Target


class Concurrency:
    """Requests being answered, by adapter name, all its versions together. For one event loop."""

    def __init__(self) -> None:
        self._answering: Counter[str] = Counter()

    @contextmanager
    def one_more(self, target: Target) -> Iterator[None]:
        """Hold one of the adapter's places for the block. Raises AdapterBusy at once when all are taken."""
        if target.ref is None:
            yield
            return
        name, limit = target.ref.name, target.settings.max_concurrency
        if limit is not None and self._answering[name] >= limit:
            raise AdapterBusy(
                f"{limit} requests to {name!r} are being answered, the limit (max_concurrency); send it again shortly"
            )
        self._answering[name] += 1
        try:
            yield
        finally:
            self._answering[name] -= 1
            if not self._answering[name]:
                del self._answering[name]
