"""`python -m loadtest.serving.peft_server BASE ADAPTER PORT`: an adapter in transformers and PEFT, as people begin.

It is written to be fair: bf16, requests that wait are answered together as one batch. It knows only what the benchmark
asks for: token ids of one length in, a fixed number of greedy tokens out.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

LARGEST_BATCH = 8


@dataclass(frozen=True, slots=True)
class Asked:
    """A waiting request; `answer` gets its token ids."""

    prompt: list[int]
    tokens: int
    answer: asyncio.Future[list[int]] = field(default_factory=asyncio.Future)


class Server:
    """One model, one batch at a time."""

    def __init__(self, base: str, adapter: str) -> None:
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
        self._model: Any = PeftModel.from_pretrained(model, adapter, autocast_adapter_dtype=False).eval()
        self._waiting: asyncio.Queue[Asked] = asyncio.Queue()

    async def complete(self, request: web.Request) -> web.Response:
        body = await request.json()
        asked = Asked(body["prompt"], body["max_tokens"])
        await self._waiting.put(asked)
        answer = await asked.answer
        return web.json_response({"usage": {"completion_tokens": len(answer)}, "token_ids": answer})

    async def work(self) -> None:
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < LARGEST_BATCH and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            answers = await asyncio.to_thread(self._generate, batch)
            for asked, answer in zip(batch, answers, strict=True):
                asked.answer.set_result(answer)

    def _generate(self, batch: list[Asked]) -> list[list[int]]:
        import torch

        prompts = torch.tensor([asked.prompt for asked in batch])
        tokens = batch[0].tokens
        with torch.inference_mode():
            made = self._model.generate(
                input_ids=prompts,
                attention_mask=torch.ones_like(prompts),
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                do_sample=False,
                pad_token_id=0,
            )
        answers: list[list[int]] = made[:, prompts.shape[1] :].tolist()
        return answers


def main() -> None:
    base, adapter, port = sys.argv[1:]
    server = Server(base, adapter)

    async def begin(app: web.Application) -> Any:
        worker = asyncio.create_task(server.work())
        yield
        worker.cancel()

    async def health(_: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app.cleanup_ctx.append(begin)
    app.add_routes([web.post("/v1/completions", server.complete), web.get("/health", health)])
    web.run_app(app, host="127.0.0.1", port=int(port), print=None)


if __name__ == "__main__":
    main()
