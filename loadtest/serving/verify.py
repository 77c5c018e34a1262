"""Whether llama.cpp serves the same thing that the others do: its greedy tokens beside transformers and PEFT."""

from __future__ import annotations

from pathlib import Path

import httpx

from loadtest.correctness.asking import some_text
from loadtest.correctness.oracle import Oracle
from loadtest.serving.fleet import Adapters, Endpoint, Fleet

PROMPTS, TOKENS = 4, 16


def compared(base: Path, adapters: Adapters, fleet: Fleet) -> dict[str, tuple[int, int, float]]:
    """For the base and each adapter: tokens that are PEFT's own choice, tokens in all, and by how many nats of a
    logprob PEFT preferred another at most. Each token is judged after those that llama.cpp gave before it.
    """
    oracle = Oracle(base)
    for name, folder in adapters:
        oracle.load(name, folder)
    asked: list[tuple[str | None, Endpoint]] = [(None, Endpoint(fleet.endpoints[0].url, "", body={"lora": []}))]
    asked += [(name, endpoint) for (name, _), endpoint in zip(adapters, fleet.endpoints, strict=True)]
    found = {}
    for whom, endpoint in asked:
        same, torn = 0, 0.0
        for seed in range(PROMPTS):
            prompt = some_text(base, 40, seed)
            tokens = _tokens(endpoint, prompt)
            logprobs = oracle.logprobs(whom, (*prompt, *tokens))[len(prompt) - 1 : -1]
            for row, token in zip(logprobs, tokens, strict=True):
                same += int(row.argmax()) == token
                torn = max(torn, float(row.max() - row[token]))
        found[whom or "the base"] = (same, PROMPTS * TOKENS, torn)
    return found


def _tokens(endpoint: Endpoint, prompt: tuple[int, ...]) -> tuple[int, ...]:
    body = {"prompt": list(prompt), "n_predict": TOKENS, "temperature": 0, "ignore_eos": True, "return_tokens": True}
    answer = httpx.post(f"{endpoint.url}/completion", json=body | dict(endpoint.body), timeout=120, trust_env=False)
    return tuple(answer.raise_for_status().json()["tokens"])
