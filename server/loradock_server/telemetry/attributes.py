"""Span attribute names, each written once, spelt as the OpenTelemetry conventions spell them.

Written out instead of imported: the GenAI names move between releases of the conventions package, and a
dashboard that reads ours must not change because a dependency did. Constants only.
"""

from __future__ import annotations

# Our own, outside the conventions' namespaces as those ask of applications.
ADAPTER_ID = "loradock.adapter.id"  # name@version
ADAPTER_NAME = "loradock.adapter.name"
ADAPTER_VERSION = "loradock.adapter.version"
ADAPTER_DIGEST = "loradock.adapter.digest"
ADAPTER_ALIAS = "loradock.adapter.alias"
ADAPTER_RESIDENCY = "loradock.adapter.residency"  # resident | cold
BASE_MODEL = "loradock.base_model"
REQUEST_ID = "loradock.request.id"

# GenAI conventions.
OPERATION_NAME = "gen_ai.operation.name"
PROVIDER_NAME = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
REQUEST_STREAM = "gen_ai.request.stream"
REQUEST_CHOICE_COUNT = "gen_ai.request.choice.count"
REQUEST_MAX_TOKENS = "gen_ai.request.max_tokens"
REQUEST_TEMPERATURE = "gen_ai.request.temperature"
REQUEST_TOP_P = "gen_ai.request.top_p"
REQUEST_SEED = "gen_ai.request.seed"
RESPONSE_MODEL = "gen_ai.response.model"
RESPONSE_FINISH_REASONS = "gen_ai.response.finish_reasons"
RESPONSE_TIME_TO_FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"  # seconds
USAGE_INPUT_TOKENS = "gen_ai.usage.input_tokens"
USAGE_OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
USAGE_CACHE_READ_INPUT_TOKENS = "gen_ai.usage.cache_read.input_tokens"
INPUT_MESSAGES = "gen_ai.input.messages"

# General and HTTP conventions.
ERROR_TYPE = "error.type"
HTTP_METHOD = "http.request.method"
HTTP_ROUTE = "http.route"
HTTP_STATUS = "http.response.status_code"
URL_PATH = "url.path"
URL_SCHEME = "url.scheme"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"
CLIENT_ADDRESS = "client.address"
USER_AGENT = "user_agent.original"

# Values.
PROVIDER = "vllm"
CHAT = "chat"
TEXT_COMPLETION = "text_completion"
EMBEDDINGS = "embeddings"
RESPONSES = "responses"
# Where the conventions have no word: vLLM's.
MESSAGES = "messages"
COUNT_TOKENS = "count_tokens"
SCORE = "score"
RERANK = "rerank"
CLASSIFY = "classify"
POOLING = "pooling"
TOKENIZE = "tokenize"
DETOKENIZE = "detokenize"
