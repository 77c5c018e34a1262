"""What tokens cost: a price list, and exact sums by it. Values in, values out; it knows no ledger and no HTTP.

The list is a TOML or JSON document:

    currency = "EUR"

    [[price]]                  # the first that fits counts
    adapter = "support-*"      # a glob over adapters' names; `base` is the base model
    input = "0.20"             # per million tokens
    cached_input = "0.02"      # without it: as input
    output = "0.80"
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable
from decimal import Context, Decimal
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

MAX_BYTES = 1 << 20
MAX_PRICES = 1000

_PER_TOKENS = 6  # decimal places: prices are per million
# More digits than any product here has, so that nothing is rounded.
_EXACT = Context(prec=100)


def _no_detour(value: Any) -> Any:
    """Floats as they were written: 0.1 and not the binary number next to it."""
    if isinstance(value, bool):
        raise ValueError("a price is a number")
    return str(value) if isinstance(value, float) else value


Amount = Annotated[Decimal, BeforeValidator(_no_detour), Field(ge=0, le=10**9, max_digits=19, decimal_places=9)]


class Price(BaseModel):
    """Per million tokens, of the adapters that the glob `adapter` fits."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    adapter: str = Field(min_length=1, max_length=100)
    input: Amount
    cached_input: Amount | None = None
    output: Amount

    def of(self, input_tokens: int, cached_tokens: int, output_tokens: int) -> Decimal:
        """What so many tokens cost, exactly. `cached_tokens` are a part of `input_tokens`."""
        cached = min(cached_tokens, input_tokens)
        cached_price = self.input if self.cached_input is None else self.cached_input
        parts = (
            _EXACT.multiply(self.input, input_tokens - cached),
            _EXACT.multiply(cached_price, cached),
            _EXACT.multiply(self.output, output_tokens),
        )
        return total(parts).scaleb(-_PER_TOKENS, _EXACT)


class Prices(BaseModel):
    """A price list."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    currency: str = Field(pattern="^[A-Z]{3}$")
    price: tuple[Price, ...] = Field(min_length=1, max_length=MAX_PRICES)

    @classmethod
    def read(cls, text: str) -> Prices:
        """The list in `text`, a JSON object, or in the .toml or .json file whose path it is. Raises ValueError."""
        if text.lstrip().startswith("{"):
            return cls.model_validate(_json(text))
        path = Path(text).expanduser()
        try:
            with path.open("rb") as file:
                raw = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise ValueError(f"the price list {text!r} cannot be read: {error.strerror or error}") from error
        if len(raw) > MAX_BYTES:
            raise ValueError(f"the price list {text!r} has more than {MAX_BYTES} bytes")
        try:
            written = raw.decode()
            document = _json(written) if path.suffix == ".json" else tomllib.loads(written, parse_float=Decimal)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"the price list {text!r} is not {path.suffix.lstrip('.') or 'toml'}: {error}") from error
        return cls.model_validate(document)

    def of(self, adapter: str) -> Price | None:
        """The first price that fits the adapter's name, `base` for the base model."""
        return next((price for price in self.price if fnmatchcase(adapter, price.adapter)), None)


def total(amounts: Iterable[Decimal]) -> Decimal:
    """The exact sum of some amounts."""
    whole = Decimal(0)
    for amount in amounts:
        whole = _EXACT.add(whole, amount)
    return whole


def shown(amount: Decimal) -> str:
    """All digits, at least two behind the point, and never an exponent."""
    text = format(amount.normalize(_EXACT), "f")
    whole, _, part = text.partition(".")
    return f"{whole}.{part.ljust(2, '0')}"


def _json(text: str) -> Any:
    return json.loads(text, parse_float=Decimal)
