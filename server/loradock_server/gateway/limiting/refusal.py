"""What somebody over a limit is told: whose limit, its value, what is used of it, when to come back."""

from __future__ import annotations

from datetime import UTC, datetime

from loradock_server.gateway.errors import AdapterBusy, KeyBusy, OverLimit, QuotaExhausted, RateLimited
from loradock_server.gateway.limiting.headers import duration
from loradock_server.gateway.limiting.subject import DAY_SECONDS, Now, Objection

_WORDS = {"requests_per_minute": "requests per minute", "tokens_per_minute": "tokens per minute"}


def refusal(whose: str, is_key: bool, found: Objection, now: Now) -> OverLimit:
    """The error for a limit that is in the way; `whose` names its owner as the client knows him."""
    kind: type[OverLimit]
    if found.limit == "max_concurrency":
        kind = KeyBusy if is_key else AdapterBusy
        text = (
            f"{found.used} requests of {whose} are being answered, the limit is {found.value} (max_concurrency); "
            "send it again shortly"
        )
    elif found.limit == "tokens_per_day":
        kind = QuotaExhausted
        midnight = datetime.fromtimestamp((now.day + 1) * DAY_SECONDS, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        text = (
            f"{whose} has used {found.used} tokens today, its budget is {found.value} a day (tokens_per_day); "
            f"the next day begins at {midnight}, in {duration(found.wait)}"
        )
    else:
        kind = RateLimited
        text = (
            f"{whose} is over its limit of {_WORDS[found.limit]}: limit {found.value}, used {found.used}, "
            f"this request {found.asked} ({found.limit}); send it again in {duration(found.wait)}"
        )
    about = {
        "of": "key" if is_key else "adapter",
        "limit": found.limit,
        "value": found.value,
        "used": found.used,
        "asked": found.asked,
        "wait_seconds": round(found.wait, 3),
    }
    return kind(text, wait=found.wait, about=about)
