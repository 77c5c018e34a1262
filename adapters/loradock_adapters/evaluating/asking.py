"""A server asked for answers and for the probability of wanted ones; each reply goes into the journal at once.

Tokens of a wanted answer are those that training learns (`training.data.tokenize_one`): the answer and the stop token
as the chat template writes them, tokenized apart from the context. It judges nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from loradock_adapters.evaluating.contenders import Messages
from loradock_adapters.evaluating.endpoint import Endpoint
from loradock_adapters.evaluating.errors import CannotEvaluate, ServerSaidNo
from loradock_adapters.evaluating.journal import Journal, key_of
from loradock_adapters.names import AdapterRef
from loradock_adapters.training.formats import Example

_FLOOR = -100.0  # nats; a token that is as good as impossible must not make a mean infinite


@dataclass(frozen=True, slots=True)
class Model:
    """Whom to ask. `id` is `name@version` or the base's name; `digest` of an adapter's bytes, None of a base."""

    id: str
    digest: str | None
    base: str


@dataclass(frozen=True, slots=True)
class Decoding:
    """Greedy, with this longest answer (tokens) and seed."""

    max_tokens: int
    seed: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said; `finish` is OpenAI's `finish_reason`. Lengths in tokens, as the server counts them."""

    text: str
    prompt_tokens: int
    answer_tokens: int
    finish: str


@dataclass(frozen=True, slots=True)
class Likelihood:
    """`nats`: minus the log of the probability of all `tokens` tokens together."""

    nats: float
    tokens: int


async def find(endpoint: Endpoint, name: str) -> Model:
    """The adapter version that `name` means now, and its base. Raises CannotEvaluate, ServerSaidNo, ServerGone."""
    try:
        found = await endpoint.get(f"/v1/models/{quote(name, safe='@/')}")
    except ServerSaidNo as error:
        if error.status == 404:
            raise CannotEvaluate(str(error), fix="loradock adapters list shows what is registered") from error
        raise
    base, root, digest = found.get("parent"), found.get("root"), found.get("digest")
    if base is None and isinstance(root, str) and root == found.get("id"):
        raise CannotEvaluate(f"{root} is the base model; an adapter is compared with it", fix="name an adapter")
    if not isinstance(base, str) or not isinstance(root, str) or not isinstance(digest, str):
        raise CannotEvaluate(f"{endpoint.url} does not say what {name} is; is it a LoRADock server?")
    return Model(AdapterRef.parse(root).id, digest, base)


class Asker:
    """Asks `endpoint`, unless `journal` has the answer."""

    def __init__(self, endpoint: Endpoint, journal: Journal) -> None:
        self.server = endpoint.url
        self._endpoint = endpoint
        self._journal = journal

    async def answer(self, model: Model, messages: Messages, decoding: Decoding) -> Answer:
        """The greedy answer to a chat. Raises ServerSaidNo, ServerGone, CannotEvaluate."""
        body = _chat(model, messages, decoding)
        key = self._key("answer", model, body)
        if (known := self._journal.get(key)) is not None and (read := _answer(known)) is not None:
            return read
        reply = await self._endpoint.post("/v1/chat/completions", body)
        self._by(reply, model)
        try:
            choice, usage = reply["choices"][0], reply["usage"]
            record = {
                "kind": "answer",
                "model": model.id,
                "text": choice["message"].get("content") or "",
                "prompt_tokens": usage["prompt_tokens"],
                "answer_tokens": usage["completion_tokens"],
                "finish": str(choice.get("finish_reason")),
            }
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise CannotEvaluate(f"{self._endpoint.url} answered a chat in a shape that is not OpenAI's") from error
        if (read := _answer(record)) is None:
            raise CannotEvaluate(f"{self._endpoint.url} answered a chat in a shape that is not OpenAI's")
        self._journal.put(key, record)
        return read

    def knows(self, model: Model, messages: Messages, decoding: Decoding) -> bool:
        """Whether the journal has that answer."""
        return self._journal.get(self._key("answer", model, _chat(model, messages, decoding))) is not None

    async def wanted_text(self, model: Model, example: Example) -> str:
        """The wanted answer and its stop token, as the chat template writes them.

        Raises CannotEvaluate where the template does not let an answer be told from its context.
        """
        answer = {"role": "assistant", "content": example.answer}
        asked = await self._rendered(model, example.context, True)
        whole = await self._rendered(model, [*example.context, answer], False)
        if not whole.startswith(asked):
            raise CannotEvaluate("the chat template renders the context differently once an answer follows")
        text = whole[len(asked) :].rstrip()
        if not text.startswith(example.answer.strip()) or len(text) == len(example.answer.strip()):
            raise CannotEvaluate("the chat template does not end an answer with a stop token")
        return text

    async def tokens(self, model: Model, text: str) -> list[int]:
        """The tokens of a text, without any that a model puts in front."""
        return await self._tokenize({"model": model.id, "prompt": text, "add_special_tokens": False})

    async def prompt_tokens(self, model: Model, messages: Messages) -> list[int]:
        """The tokens of a chat, up to where the answer begins."""
        return await self._tokenize({"model": model.id, "messages": messages, "add_generation_prompt": True})

    async def likelihood_after(self, model: Model, given: Sequence[int], wanted: Sequence[int]) -> Likelihood:
        """How likely `model` thinks that the tokens `wanted` follow the tokens `given` (one at least)."""
        body = {
            "model": model.id,
            "prompt": [*given, *wanted],
            "max_tokens": 1,
            "temperature": 0,
            "prompt_logprobs": 0,
        }
        key = self._key("likelihood", model, {**body, "wanted": len(wanted)})
        if (known := self._journal.get(key)) is not None and (read := _likelihood(known)) is not None:
            return read
        reply = await self._endpoint.post("/v1/completions", body)
        self._by(reply, model)
        try:
            logprobs = reply["choices"][0]["prompt_logprobs"][len(given) :]
            each = [float(at[str(token)]["logprob"]) for at, token in zip(logprobs, wanted, strict=True)]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise CannotEvaluate(
                f"{self._endpoint.url} gives no prompt_logprobs, so no loss can be measured", fix="--no-loss"
            ) from error
        nats = -sum(max(_FLOOR, value) if not math.isnan(value) else _FLOOR for value in each)
        self._journal.put(key, {"kind": "likelihood", "model": model.id, "nats": nats, "tokens": len(wanted)})
        return Likelihood(nats, len(wanted))

    async def _rendered(self, model: Model, messages: Messages, open_ended: bool) -> str:
        tokens = await self._tokenize({"model": model.id, "messages": messages, "add_generation_prompt": open_ended})
        reply = await self._endpoint.post("/detokenize", {"model": model.id, "tokens": tokens})
        text = reply.get("prompt")
        if not isinstance(text, str):
            raise CannotEvaluate(f"{self._endpoint.url}/detokenize answered without a text")
        return text

    async def _tokenize(self, body: Mapping[str, Any]) -> list[int]:
        tokens = (await self._endpoint.post("/tokenize", body)).get("tokens")
        if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
            raise CannotEvaluate(f"{self._endpoint.url}/tokenize answered without tokens")
        return tokens

    def _key(self, kind: str, model: Model, body: Mapping[str, Any]) -> str:
        return key_of(kind=kind, server=self._endpoint.url, digest=model.digest, base=model.base, body=body)

    def _by(self, reply: Mapping[str, Any], model: Model) -> None:
        """An answer by somebody else would be counted for the wrong one."""
        if reply.get("model") != model.id:
            raise CannotEvaluate(f"{model.id} was asked and {str(reply.get('model'))[:80]!r} answered")


def _chat(model: Model, messages: Messages, decoding: Decoding) -> dict[str, Any]:
    return {
        "model": model.id,
        "messages": messages,
        "temperature": 0,
        "max_tokens": decoding.max_tokens,
        "seed": decoding.seed,
    }


def _answer(record: Mapping[str, Any]) -> Answer | None:
    match record:
        case {
            "text": str(text),
            "prompt_tokens": int(prompt),
            "answer_tokens": int(answer),
            "finish": str(finish),
        }:
            return Answer(text, prompt, answer, finish)
    return None


def _likelihood(record: Mapping[str, Any]) -> Likelihood | None:
    match record:
        case {"nats": float() | int() as nats, "tokens": int(tokens)} if math.isfinite(nats):
            return Likelihood(float(nats), tokens)
    return None
