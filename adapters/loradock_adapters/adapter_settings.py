"""What an operator may say of an adapter as a whole, whichever version answers: defaults, limits, priority, words.

Strict values and a merge patch (RFC 7396) that changes them. What they do to a request the gateway and the engine know.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from loradock_adapters.errors import InvalidSettings, RegistryError
from loradock_adapters.faults import Fault
from loradock_adapters.rate_limits import HIGHEST, RateLimits

MAX_STOPS = 16
PIN = "pin"
"""Part of every patch, but kept elsewhere: since when an adapter is pinned decides which pins fit."""

Priority = Literal["low", "normal", "high"]


def _storable(text: str) -> str:
    # PostgreSQL stores no NUL, and half a surrogate pair is no text at all.
    if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise ValueError("has a NUL or half a surrogate pair in it")
    return text


Line = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_storable)]
Stop = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_storable)]


class AdapterSettings(BaseModel):
    """None: nothing is said. Numbers are bounded as vLLM bounds those of a request."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    description: Line | None = Field(default=None, description="what it is for")
    owner: Line | None = Field(default=None, description="who answers for it")
    system_prompt: Annotated[str, Field(min_length=1, max_length=32_000), AfterValidator(_storable)] | None = Field(
        default=None, description="put in front of conversations that have none"
    )
    temperature: float | None = Field(default=None, ge=0, le=2, description="default of requests")
    top_p: float | None = Field(default=None, gt=0, le=1, description="default of requests")
    top_k: int | None = Field(default=None, ge=0, le=1_000_000, description="default of requests; 0: all tokens")
    min_p: float | None = Field(default=None, ge=0, le=1, description="default of requests")
    presence_penalty: float | None = Field(default=None, ge=-2, le=2, description="default of requests")
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2, description="default of requests")
    repetition_penalty: float | None = Field(default=None, gt=0, le=10, description="default of requests")
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63, description="default of requests")
    stop: tuple[Stop, ...] | None = Field(
        default=None, min_length=1, max_length=MAX_STOPS, description="default of requests; strings that end an answer"
    )
    max_tokens_cap: int | None = Field(default=None, ge=1, le=10_000_000, description="longest answer, tokens")
    max_concurrency: int | None = Field(
        default=None,
        ge=1,
        le=HIGHEST["max_concurrency"],
        description="requests answered at a time, all versions together, then 429",
    )
    requests_per_minute: int | None = Field(
        default=None, ge=1, le=HIGHEST["requests_per_minute"], description="of all callers together, then 429"
    )
    tokens_per_minute: int | None = Field(
        default=None,
        ge=1,
        le=HIGHEST["tokens_per_minute"],
        description="of prompts and answers, of all callers together, then 429",
    )
    tokens_per_day: int | None = Field(
        default=None,
        ge=1,
        le=HIGHEST["tokens_per_day"],
        description="of prompts and answers from 00:00 UTC, of all callers together, then 429",
    )
    priority: Priority = Field(default="normal", description="share of a busy engine: low, normal or high")

    @cached_property
    def limits(self) -> RateLimits:
        """What all who ask for the adapter may take together."""
        return RateLimits(**{name: getattr(self, name) for name in HIGHEST})

    def document(self) -> dict[str, Any]:
        """What was said, as JSON: nothing of what was not."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def patched(self, patch: Mapping[str, Any]) -> AdapterSettings:
        """Merged with a JSON merge patch, where null means: say nothing any more. Raises InvalidSettings."""
        merged = {**self.document(), **patch}
        try:
            return _read({name: value for name, value in merged.items() if value is not None})
        except ValidationError as error:
            raise InvalidSettings(_faults(error)) from error

    @classmethod
    def stored(cls, document: Mapping[str, Any]) -> AdapterSettings:
        """As `document` gave them once. Raises RegistryError for what another release must have written."""
        try:
            return _read(document)
        except ValidationError as error:
            raise RegistryError(f"the registry holds settings that this release does not know: {error}") from error


NOTHING_SAID = AdapterSettings()


def nearest_setting(name: str) -> str:
    """ " (did you mean …?)" for a name that is none, or nothing."""
    found = difflib.get_close_matches(name, [*AdapterSettings.model_fields, PIN], n=1, cutoff=0.5)
    return f"did you mean {found[0]}?" if found else f"there are {', '.join([*AdapterSettings.model_fields, PIN])}"


def _read(document: Mapping[str, Any]) -> AdapterSettings:
    # JSON has no tuples, and strict means strict.
    stop = document.get("stop")
    return AdapterSettings.model_validate({**document, **({"stop": tuple(stop)} if isinstance(stop, list) else {})})


def _faults(error: ValidationError) -> tuple[Fault, ...]:
    faults = []
    for found in error.errors():
        where = ".".join(str(part) for part in found["loc"])
        if found["type"] == "extra_forbidden":
            faults.append(
                Fault("unknown_setting", where[:80], "no such setting", nearest_setting(where), "leave it out")
            )
        else:
            value = repr(found.get("input"))
            shown = value if len(value) <= 80 else value[:77] + "..."
            message = found["msg"].removeprefix("Value error, ")
            fix = "give a value within the limit, or null to say nothing"
            faults.append(Fault("invalid_setting", where, shown, message[:1].lower() + message[1:], fix))
    return tuple(faults)
