"""What gateway and engine say to each other: header names, internal paths and the reply shapes they share.

Below both, so that neither imports the other. It knows no web framework and no vLLM.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote, unquote

TOKEN = "x-loradock-token"
ADAPTER = "x-loradock-adapter"
DIGEST = "x-loradock-adapter-digest"
SIGNATURE = "x-loradock-adapter-signature"  # of the digest; only to the engine
PRIORITY = "x-loradock-priority"  # low, normal or high: the adapter's share of a busy engine
GATEWAY = "x-loradock-gateway"
RESIDENCY = "x-loradock-residency"
GENERATION = "x-loradock-generation"  # of the usage feed: the engine process whose numbers follow
REQUEST_ID = "x-request-id"
KEY = "x-loradock-key"  # the id of the API key, and its tenant: the engine sends both back with what the request cost,
TENANT = "x-loradock-tenant"  # so that a gateway that was killed meanwhile still knows. Percent-encoded.

_PLAIN = re.compile(r"[A-Za-z0-9._:@-]*")

LIVE = "/livez"
STATE = "/internal/state"
USAGE = "/internal/usage"
UNLOAD = "/internal/unload"
PINS = "/internal/pins"  # {"pins": [{"id", "digest", "signature"}]}, oldest first: these from now on, and no others
METRICS = "/internal/metrics"
PROBE = "/internal/probe"  # {"id", "digest", "signature"}: does it act? Answers {"problem", "effect", "noise"}


# What the engine answers besides, by POST: every route of vLLM's that a gateway may ask for. Those that only read need
# no adapter in memory and no turn.
COMPUTING = frozenset(
    {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/embeddings",
        "/score",
        "/rerank",
        "/classify",
        "/pooling",
    }
)
READING = frozenset({"/tokenize", "/detokenize", "/v1/messages/count_tokens"})


def encoded(text: str) -> str:
    """Any text as a header's value; `decoded` reads it."""
    return text if _PLAIN.fullmatch(text) else quote(text, safe="", errors="replace")


def decoded(value: str) -> str:
    """What `encoded` was given."""
    return unquote(value) if "%" in value else value


def error_body(message: str, *, kind: str, code: str, param: str | None = None) -> dict[str, Any]:
    """An error as OpenAI's API words it; `kind` becomes its `type`."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
