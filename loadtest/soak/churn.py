"""What the gateway goes through: clients who ask, leave and err, operators who register, promote, unload and delete.

Everything that is not an answer one may expect is kept as a surprise. It measures nothing.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import httpx
import numpy as np
from safetensors.numpy import save

NAMES = 24
MAX_VERSIONS = 4  # of a name; then it is deleted and begins anew
CONFIG = {
    "peft_type": "LORA",
    "r": 2,
    "lora_alpha": 4,
    "target_modules": ["layers.0.self_attn.q_proj"],
    "bias": "none",
    "base_model_name_or_path": "base",
}
_MOST_SURPRISES = 50


@dataclass(slots=True)
class Churn:
    """`done` counts what was done, `surprises` are answers nobody should get."""

    http: httpx.AsyncClient
    base: str
    dice: random.Random
    hidden: int = 8
    """Of the base model: what its `q_proj` takes and gives."""
    done: Counter[str] = field(default_factory=Counter)
    surprises: list[str] = field(default_factory=list)
    engine_up: bool = True
    live: dict[str, int] = field(default_factory=dict)  # name to how many versions it has

    async def clients(self, rate: float) -> None:
        """So many requests a second, each a task of its own, until cancelled."""
        async with asyncio.TaskGroup() as running:
            while True:
                running.create_task(self._safely(_drawn(ASKS, self.dice)))
                await asyncio.sleep(self.dice.expovariate(rate))

    async def operators(self, every: float) -> None:
        """A change each so many seconds, until cancelled."""
        while True:
            await self._safely(_drawn(CHANGES, self.dice))
            await asyncio.sleep(every)

    async def _safely(self, name: str) -> None:
        try:
            await getattr(self, name)()
        except httpx.TransportError as error:
            self._surprise(f"{name}: {error!r}")
        self.done[name] += 1

    def _surprise(self, text: str) -> None:
        if len(self.surprises) < _MOST_SURPRISES:
            self.surprises.append(text)

    def _judge(self, name: str, answer: httpx.Response, *expected: int) -> bool:
        usual = {503} if not self.engine_up else set()
        if answer.status_code not in {*expected, *usual}:
            self._surprise(f"{name}: {answer.status_code} {answer.text[:300]}")
        return answer.status_code == expected[0]

    def _model(self) -> str:
        return self.dice.choice([*self.live, self.base])

    def _body(self, *, stream: bool, model: str | None = None) -> dict[str, object]:
        words = " ".join(self.dice.choices(["blue", "red", "cat", "dog"], k=self.dice.randint(1, 200)))
        return {
            "model": model or self._model(),
            "messages": [{"role": "user", "content": words}],
            "stream": stream,
            "max_tokens": 16,
        }

    # Clients. A name may be deleted, and the engine killed, at any moment: 404 and 503 are answers then.

    async def whole(self) -> None:
        answer = await self.http.post("/v1/chat/completions", json=self._body(stream=False))
        self._judge("whole", answer, 200, 404, 503)

    async def streamed(self) -> None:
        answer = await self.http.post("/v1/chat/completions", json=self._body(stream=True))
        if self._judge("streamed", answer, 200, 404, 503) and not answer.text.endswith("data: [DONE]\n\n"):
            self._surprise(f"streamed: ends in {answer.text[-100:]!r}")

    async def aborted(self) -> None:
        async with self.http.stream("POST", "/v1/chat/completions", json=self._body(stream=True)) as answer:
            async for _ in answer.aiter_raw(64):
                break

    async def unknown(self) -> None:
        body = self._body(stream=False, model=f"nobody-{self.dice.randrange(1 << 30)}")
        self._judge("unknown", await self.http.post("/v1/chat/completions", json=body), 404)

    async def malformed(self) -> None:
        text = json.dumps(self._body(stream=False))
        answer = await self.http.post(
            "/v1/chat/completions",
            content=text[: self.dice.randrange(len(text))],
            headers={"content-type": "application/json"},
        )
        self._judge("malformed", answer, 400)

    async def stranger(self) -> None:
        headers = {"authorization": f"Bearer ld-{self.dice.randrange(1 << 60)}"}
        self._judge("stranger", await self.http.get("/v1/models", headers=headers), 401)

    async def looked(self) -> None:
        for path in ("/v1/models", "/metrics", "/admin/adapters"):
            self._judge(path, await self.http.get(path), 200)

    # Operators.

    async def register(self) -> None:
        name = f"soak-{self.dice.randrange(NAMES)}"
        if self.live.get(name, 0) >= MAX_VERSIONS:
            await self._delete(name)
            return
        numbers = np.random.default_rng(self.dice.randrange(1 << 32))
        key = "base_model.model.model.layers.0.self_attn.q_proj"
        weights = save(
            {
                f"{key}.lora_A.weight": numbers.normal(0, 0.2, (2, self.hidden)).astype(np.float32),
                f"{key}.lora_B.weight": numbers.normal(0, 0.2, (self.hidden, 2)).astype(np.float32),
            }
        )
        files = [
            ("file", ("adapter_config.json", json.dumps(CONFIG).encode())),
            ("file", ("adapter_model.safetensors", weights)),
        ]
        answer = await self.http.post(f"/admin/adapters/{name}/versions", files=files)
        if self._judge("register", answer, 201, 200):
            self.live[name] = self.live.get(name, 0) + 1

    async def rollback(self) -> None:
        if self.live:
            name = self.dice.choice(list(self.live))
            answer = await self.http.post(f"/admin/adapters/{name}/aliases/live/rollback")
            self._judge("rollback", answer, 200, 409)

    async def unload(self) -> None:
        if self.live:
            name = self.dice.choice(list(self.live))
            answer = await self.http.post("/v1/unload_lora_adapter", json={"lora_name": name})
            self._judge("unload", answer, 200, 404)
            await self._delete(name)

    async def _delete(self, name: str) -> None:
        self.live.pop(name, None)
        self._judge("delete", await self.http.delete(f"/admin/adapters/{name}"), 200, 204)

    async def key(self) -> None:
        made = await self.http.post("/admin/keys", json={"name": "soak", "scopes": ["infer"]})
        if self._judge("key", made, 201):
            headers = {"authorization": f"Bearer {made.json()['secret']}"}
            self._judge("key used", await self.http.get("/v1/models", headers=headers), 200)
            self._judge("key revoked", await self.http.delete(f"/admin/keys/{made.json()['id']}"), 200, 204)

    async def collect(self) -> None:
        self._judge("gc", await self.http.post("/admin/gc", json={"grace_seconds": 0}), 200)


# Methods of Churn, and how often out of a hundred.
ASKS = {"whole": 35, "streamed": 30, "aborted": 15, "unknown": 5, "malformed": 5, "stranger": 5, "looked": 5}
CHANGES = {"register": 60, "rollback": 20, "unload": 8, "key": 8, "collect": 4}


def _drawn(weights: Mapping[str, int], dice: random.Random) -> str:
    return dice.choices(list(weights), list(weights.values()))[0]
