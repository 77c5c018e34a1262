"""Who asks, and what they may ask for: what is left of a key, or of a token, once it was found good.

It knows no secret and no registry.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from loradock_adapters.key_settings import ADMIN, INFER, compiled
from loradock_adapters.rate_limits import NO_LIMITS, RateLimits
from loradock_adapters.registry import Actor, KeyRecord


@dataclass(frozen=True, slots=True)
class Caller:
    """`id` is safe to log. `names` matches the names it may ask for, None for every one; `share` is whose prefix cache
    it uses: its tenant's, or its own.
    """

    id: str
    name: str
    scopes: frozenset[str]
    limits: RateLimits = NO_LIMITS
    tenant: str | None = None
    names: re.Pattern[str] | None = None

    @classmethod
    def of(cls, key: KeyRecord) -> Caller:
        """Whoever comes with this key."""
        said = key.settings
        names = None if said.adapters is None else compiled(said.adapters)
        return cls(key.id, said.name, key.scopes, said.limits, said.tenant, names)

    @property
    def share(self) -> str:
        # Two words in front, so that no tenant can be named like somebody's key.
        return f"key\0{self.id}" if self.tenant is None else f"tenant\0{self.tenant}"

    def may_use(self, name: str) -> bool:
        """Whether it may ask for, and know of, an adapter (or the base model) of this name."""
        return self.names is None or self.names.match(name) is not None

    def actor(self, origin: str) -> Actor:
        """This caller as the registry's audit names it; `origin` is the address the request came from."""
        return Actor(self.name, self.id, origin)


LOCAL = Caller("local", "this server", frozenset({ADMIN, INFER}))
ANONYMOUS = Caller("anonymous", "anonymous", frozenset({INFER}))
