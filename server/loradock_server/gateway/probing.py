"""The smoke probe's place in a registration: whether it is made at all, and what follows from how it went.

The engine compares the answers; here is only policy (LORADOCK_SMOKE_PROBE). It knows no registry.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from typing import Any, Literal

from loradock_adapters.names import AdapterRef
from loradock_adapters.signing import Signature
from loradock_server.gateway.engine_client import EngineClient
from loradock_server.gateway.errors import EngineRefused, EngineTimeout, EngineUnavailable, ProbeFailed
from loradock_server.gateway.watch import EngineWatch

Mode = Literal["when-up", "required", "off"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Probed:
    """How it went: `passed`, or not, and then why not. `effect`: the most by which the adapter moved a logprob."""

    passed: bool
    reason: str | None = None
    effect: float | None = None

    def as_dict(self) -> dict[str, Any]:
        return {
            "result": "passed" if self.passed else "not_probed",
            "reason": self.reason,
            "effect": self.effect,
        }


class SmokeProbe:
    """Asks the live engine whether an adapter acts."""

    def __init__(self, engine: EngineClient, watch: EngineWatch, mode: Mode) -> None:
        self._engine = engine
        self._watch = watch
        self._mode = mode

    def require_engine(self) -> None:
        """Raises EngineUnavailable when the probe is required and no engine can make it; before anything is done."""
        if self._mode == "required" and not self._watch.state.ready:
            raise _required(self._watch.state.problem)

    async def probe(self, ref: AdapterRef, digest: str, signature: Signature | None) -> Probed:
        """Raises ProbeFailed for an adapter that must not be served, and EngineUnavailable when a probe is required
        and cannot be made.
        """
        if self._mode == "off":
            return Probed(False, "the probe is switched off (LORADOCK_SMOKE_PROBE)")
        try:
            return await self._ask(ref, digest, signature)
        except ProbeFailed:
            with contextlib.suppress(EngineUnavailable, EngineTimeout):
                await self._engine.unload(ref.id)
            raise
        except (EngineUnavailable, EngineTimeout, EngineRefused) as error:
            if self._mode == "required":
                raise _required(str(error)) from error
            # No news where no engine is up yet, as for the examples of `serve`; the answer says it all the same.
            level = logging.WARNING if self._watch.state.ready else logging.DEBUG
            _log.log(level, "%s is registered without a probe: %s", ref.id, error)
            return Probed(False, str(error))

    async def _ask(self, ref: AdapterRef, digest: str, signature: Signature | None) -> Probed:
        if not self._watch.state.ready:
            raise EngineUnavailable(self._watch.state.problem or "the engine is not ready")
        try:
            verdict = await self._engine.probe(ref.id, digest, None if signature is None else signature.text)
            problem, effect = verdict["problem"], verdict["effect"]
        except EngineRefused as error:
            if error.status == 422:  # the engine cannot load it, and never will
                raise ProbeFailed(f"the smoke probe of {ref.id} failed: {error}") from error
            raise
        except (KeyError, TypeError) as error:
            raise EngineUnavailable("the engine's verdict cannot be read; are both of one version?") from error
        if problem is not None:
            raise ProbeFailed(f"the smoke probe of {ref.id} failed: {problem}")
        return Probed(True, None, effect)


def _required(problem: str | None) -> EngineUnavailable:
    return EngineUnavailable(
        f"a smoke probe is required here (LORADOCK_SMOKE_PROBE) and cannot be made: {problem}; register it again later"
    )
