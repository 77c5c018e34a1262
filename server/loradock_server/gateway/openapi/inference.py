"""What the inference routes take and answer, as far as the gateway looks at it; the rest is vLLM's."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from loradock_adapters import errors as core
from loradock_server import wire
from loradock_server.gateway import errors
from loradock_server.gateway.openapi.operation import JSON, Answer, Errors, Operation, limits_told
from loradock_server.gateway.routes import dialect_of


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class InferenceRequest(_Open):
    """Every other field goes to the engine as it is."""

    model: str = Field(
        min_length=1, description="name, name@version, name@alias, or the base model's name", examples=["support"]
    )
    stream: bool | None = None
    user: str | None = Field(default=None, description="where traffic is split, keeps a user on one version")
    cache_salt: str | None = Field(default=None, description="divides the key's part of the prefix cache further")


class ChatRequest(InferenceRequest):
    """A conversation to go on with."""

    messages: list[dict[str, Any]]


class CompletionRequest(InferenceRequest):
    """A text to go on with."""

    prompt: str | list[Any]


class InputRequest(InferenceRequest):
    """An input, as text or in parts."""

    input: str | list[Any]


class MessagesRequest(ChatRequest):
    """A conversation to go on with, as Anthropic's API has it."""

    max_tokens: int


class TokensRequest(InferenceRequest):
    """Tokens."""

    tokens: list[int]


class TokenCount(_Open):
    """How many tokens there are."""

    input_tokens: int


class TokenCounts(_Open):
    """How many tokens it took."""

    prompt_tokens: int
    total_tokens: int


class Completion(_Open):
    """An answer. `model` is the version that gave it."""

    id: str
    object: Literal["chat.completion", "text_completion"]
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: TokenCounts | None = None


class EngineAnswer(_Open):
    """An answer of the engine."""


class Model(BaseModel):
    """Something that a client may name as `model`."""

    id: str
    object: Literal["model"]
    created: int = Field(description="seconds since 1970; 0 for the base model")
    owned_by: str
    root: str = Field(description="what answers now: name@version, or the base model")
    parent: str | None = Field(description="the base model of an adapter")
    max_model_len: int
    digest: str | None = Field(default=None, description="of the version's bytes, or of the base model's")


class ModelList(BaseModel):
    """The base model and every adapter that can be answered."""

    object: Literal["list"]
    data: list[Model]


_FAILS: Errors = (
    errors.Unsupported,
    errors.ModelNotFound,
    core.VersionRetired,
    errors.EngineUnavailable,
    errors.EngineGarbled,
    errors.EngineTimeout,
    errors.RateLimited,
    errors.QuotaExhausted,
    errors.AdapterBusy,
    errors.KeyBusy,
)
_TAG = "inference"
_STREAM = {"text/event-stream": {"type": "string", "description": "events, as the API in question has them"}}


def _inference(
    path: str,
    id: str,
    summary: str,
    takes: type[BaseModel],
    gives: type[BaseModel] = EngineAnswer,
    *,
    streams: bool = False,
) -> Operation:
    says = "With `stream` as events. An error after the first byte comes as the last event." if streams else ""
    answer = Answer(
        gives,
        f"The answer. {says}".strip(),
        sometimes=(wire.ADAPTER, wire.DIGEST, *limits_told(dialect_of(path))),
        content=_STREAM if streams else None,
    )
    return Operation(
        "POST",
        path,
        id,
        summary,
        _TAG,
        "infer",
        {200: answer},
        _FAILS,
        {JSON: takes},
        passes_engine_errors=True,
        dialect=dialect_of(path),
    )


def _twice(name: str, id: str, summary: str, takes: type[BaseModel]) -> tuple[Operation, Operation]:
    return _inference(f"/{name}", id, summary, takes), _inference(f"/v1/{name}", f"{id}V1", summary, takes)


OPERATIONS = (
    _inference(
        "/v1/chat/completions", "createChatCompletion", "Go on with a chat", ChatRequest, Completion, streams=True
    ),
    _inference("/v1/completions", "createCompletion", "Go on with a text", CompletionRequest, Completion, streams=True),
    _inference("/v1/responses", "createResponse", "Answer, by the Responses API", InputRequest, streams=True),
    _inference("/v1/messages", "createMessage", "Answer, by Anthropic's Messages API", MessagesRequest, streams=True),
    _inference("/v1/messages/count_tokens", "countTokens", "Count the tokens of messages", ChatRequest, TokenCount),
    _inference("/v1/embeddings", "createEmbedding", "Embed texts, where the model can", InferenceRequest),
    *_twice("score", "score", "Score pairs of texts, where the model can", InferenceRequest),
    *_twice("rerank", "rerank", "Put texts in order, where the model can", InferenceRequest),
    *_twice("classify", "classify", "Classify texts, where the model can", InferenceRequest),
    *_twice("pooling", "pool", "A model's own output for texts, where it has one", InferenceRequest),
    *_twice("tokenize", "tokenize", "The tokens of a text or of a chat", InferenceRequest),
    *_twice("detokenize", "detokenize", "The text of tokens", TokensRequest),
    Operation(
        "GET",
        "/v1/models",
        "listModels",
        "List what may be asked for",
        _TAG,
        "infer",
        {200: Answer(ModelList, "The base model first.")},
    ),
    Operation(
        "GET",
        "/v1/models/{model}",
        "getModel",
        "Show what a name means",
        _TAG,
        "infer",
        {200: Answer(Model, "The model.")},
        (errors.ModelNotFound, core.VersionRetired),
    ),
)
