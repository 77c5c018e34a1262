"""An operator of one adapter name who never stops, and what he may rely on when the server dies under his hands.

He notes what a server has acknowledged, and what he was about to do when it went away: of that nobody knows whether it
happened, of everything before it everybody does.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import httpx

from loradock_adapters.registry import AdapterRecord, VersionState

Adapters = Mapping[str, Mapping[str, bytes]]
"""Files of adapters by the digest that the store will give them."""


@dataclass(slots=True)
class Operator:
    """`ready` maps versions to digests and `live` is the alias, as acknowledged; `doing` has no answer yet."""

    name: str
    adapters: Adapters
    dice: random.Random
    ready: dict[int, str] = field(default_factory=dict)
    retired: set[int] = field(default_factory=set)
    live: dict[int, int] = field(default_factory=dict)
    doing: str | None = None
    done: int = 0
    failure: BaseException | None = None

    def work(self, url: str, key: str, stop: threading.Event) -> None:
        """Until the server is gone or `stop` is set; an answer that should not be is kept as `failure`."""
        with httpx.Client(
            base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=30, trust_env=False
        ) as http:
            try:
                while not stop.is_set():
                    step = self.dice.choice(STEPS)
                    self.doing = step.__name__
                    step(self, http)
                    self.doing = None
                    self.done += 1
            except httpx.TransportError:
                pass
            except BaseException as error:  # noqa: BLE001 a thread's failure must reach the test
                self.failure = error

    def require(self, found: AdapterRecord | None) -> None:
        """What the registry has must be what was acknowledged, give or take what was being done. Takes it over."""
        versions = {} if found is None else dict(found.versions)
        there = {n: v.digest for n, v in versions.items() if v.state is VersionState.READY}
        gone = self.ready.items() - there.items()
        new = there.items() - self.ready.items()
        may_go = {"retire": 1, "delete": 1, "delete_all": len(self.ready)}.get(self.doing or "", 0)
        assert len(gone) <= may_go, f"{self.name} lost {gone} while doing {self.doing}"
        assert len(new) <= (self.doing == "register"), f"{self.name} gained {new} while doing {self.doing}"
        aliases = {} if found is None else found.aliases
        live = dict(aliases["live"].split.parts) if "live" in aliases else {}
        moves = {"register", "promote", "split", "rollback", "delete_all"}
        assert live == self.live or self.doing in moves, f"{self.name} is at {live}, not {self.live} ({self.doing})"
        assert live.keys() <= there.keys(), f"{self.name} leads to {live}, of which only {set(there)} can answer"
        self.ready, self.live, self.doing = there, live, None
        self.retired = {n for n, v in versions.items() if v.state is VersionState.RETIRED}

    def register(self, http: httpx.Client) -> None:
        digest = self.dice.choice(list(self.adapters))
        form = [("file", file) for file in self.adapters[digest].items()]
        answer = http.post(self._path("/versions"), files=form)
        if self._conflicts(answer):  # the bytes of a version that is retired
            return
        version = answer.json()
        assert version["digest"] == digest
        self.ready[version["version"]] = digest
        self.live = {version["version"]: 1}

    def promote(self, http: httpx.Client) -> None:
        if self.ready:
            self._point(http, {self.dice.choice(list(self.ready)): 1})

    def split(self, http: httpx.Client) -> None:
        if len(self.ready) > 1:
            self._point(http, {version: self.dice.randint(1, 9) for version in self.dice.sample(list(self.ready), 2)})

    def _point(self, http: httpx.Client, weights: dict[int, int]) -> None:
        target = {"version": next(iter(weights))} if len(weights) == 1 else {"split": weights}
        answer = http.put(self._path("/aliases/live"), json=target)
        self._require_success(answer)
        self.live = _weights(answer)

    def rollback(self, http: httpx.Client) -> None:
        if self.live:
            answer = http.post(self._path("/aliases/live/rollback"))
            if not self._conflicts(answer):  # nothing before, or it was retired
                self.live = _weights(answer)

    def retire(self, http: httpx.Client) -> None:
        spare = self.ready.keys() - self.live.keys()
        if spare:
            version = self.dice.choice(sorted(spare))
            self._require_success(http.post(self._path(f"/versions/{version}/retire")))
            del self.ready[version]
            self.retired.add(version)

    def delete(self, http: httpx.Client) -> None:
        spare = (self.ready.keys() - self.live.keys()) | self.retired
        if spare:
            version = self.dice.choice(sorted(spare))
            self._require_success(http.delete(self._path(f"/versions/{version}")))
            self.ready.pop(version, None)
            self.retired.discard(version)

    def delete_all(self, http: httpx.Client) -> None:
        if self.ready and self.dice.random() < 0.3:
            self._require_success(http.delete(self._path("")))
            self.ready, self.retired, self.live = {}, set(), {}

    def collect(self, http: httpx.Client) -> None:
        # Without any grace: the hardest case for whoever registers the same bytes meanwhile.
        self._require_success(http.post("/admin/gc", json={"grace_seconds": 0}))

    def _path(self, rest: str) -> str:
        return f"/admin/adapters/{self.name}{rest}"

    def _conflicts(self, answer: httpx.Response) -> bool:
        if answer.status_code == 409:
            return True
        self._require_success(answer)
        return False

    def _require_success(self, answer: httpx.Response) -> None:
        assert answer.is_success, f"{self.name}, {self.doing}: {answer.status_code} {answer.text}"


STEPS: tuple[Callable[[Operator, httpx.Client], None], ...] = (
    Operator.register,
    Operator.register,  # the longest one, with the most that can be left half done
    Operator.promote,
    Operator.split,
    Operator.rollback,
    Operator.retire,
    Operator.delete,
    Operator.delete_all,
    Operator.collect,
    Operator.collect,
)


def _weights(answer: httpx.Response) -> dict[int, int]:
    """An alias as the answer shows it; the weights of what is not divided do not matter."""
    alias = answer.json()
    if alias.get("split"):
        return {int(version): weight for version, weight in alias["split"].items()}
    return {alias["version"]: 1}
