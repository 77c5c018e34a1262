"""What gateway and engine say to each other: header names, internal paths and the reply shapes they share.

Below both, so that neither imports the other. It knows no web framework and no vLLM.
"""

from __future__ import annotations

from typing import Any

TOKEN = "x-loradock-token"
ADAPTER = "x-loradock-adapter"
DIGEST = "x-loradock-adapter-digest"
SIGNATURE = "x-loradock-adapter-signature"  # of the digest; only to the engine
PRIORITY = "x-loradock-priority"  # low, normal or high: the adapter's share of a busy engine
GATEWAY = "x-loradock-gateway"
RESIDENCY = "x-loradock-residency"
GENERATION = "x-loradock-generation"  # of the usage feed: the engine process whose numbers follow
REQUEST_ID = "x-request-id"

LIVE = "/livez"
STATE = "/internal/state"
USAGE = "/internal/usage"
UNLOAD = "/internal/unload"
PINS = "/internal/pins"  # {"pins": [{"id", "digest", "signature"}]}, oldest first: these from now on, and no others
METRICS = "/internal/metrics"
PROBE = "/internal/probe"  # {"id", "digest", "signature"}: does it act? Answers {"problem", "effect", "noise"}


def error_body(message: str, *, kind: str, code: str, param: str | None = None) -> dict[str, Any]:
    """An error as OpenAI's API words it; `kind` becomes its `type`."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
