"""Price lists: read strictly, and exact to the last digit."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest

from loradock_server.prices import Price, Prices, shown, total
from loradock_server.settings import SettingsError, load_settings

TOML = """
currency = "EUR"
[[price]]
adapter = "support-*"
input = 0.1
cached_input = "0.01"
output = 0.3
[[price]]
adapter = "*"
input = 2
output = 3
"""


def test_a_toml_file_and_the_same_in_json_are_one_list(tmp_path: Path) -> None:
    (tmp_path / "prices.toml").write_text(TOML)
    read = Prices.read(str(tmp_path / "prices.toml"))
    text = json.dumps(
        {
            "currency": "EUR",
            "price": [
                {"adapter": "support-*", "input": 0.1, "cached_input": 0.01, "output": "0.3"},
                {"adapter": "*", "input": 2, "output": 3},
            ],
        }
    )
    assert Prices.read(text) == read
    (tmp_path / "prices.json").write_text(text)
    assert load_settings(prices=str(tmp_path / "prices.json")).prices == read


def test_a_list_may_stand_in_the_configuration_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loradock.toml").write_text(
        '[prices]\ncurrency = "EUR"\nprice = [{ adapter = "*", input = 0.1, output = 1 }]\n'
    )
    monkeypatch.chdir(tmp_path)
    prices = load_settings().prices
    assert prices is not None
    assert prices.price[0].input == Decimal("0.1")


def test_the_first_price_that_fits_counts(tmp_path: Path) -> None:
    (tmp_path / "prices.toml").write_text(TOML)
    prices = Prices.read(str(tmp_path / "prices.toml"))
    assert [prices.of(name) for name in ("support-bot", "support-", "base", "Support-bot")] == [
        prices.price[0],
        prices.price[0],
        prices.price[1],
        prices.price[1],
    ]
    assert Prices(currency="EUR", price=prices.price[:1]).of("poet") is None


def test_cost_is_exact_and_cached_tokens_are_not_paid_twice() -> None:
    price = Price(adapter="*", input=Decimal("0.1"), cached_input=Decimal("0.01"), output=Decimal("0.3"))
    assert price.of(1_000_000, 0, 0) == Decimal("0.1")
    assert price.of(1_000_000, 1_000_000, 0) == Decimal("0.01")
    assert price.of(3, 1, 1) == (2 * Decimal("0.1") + Decimal("0.01") + Decimal("0.3")) / 1_000_000
    assert total(price.of(1, 0, 0) for _ in range(10_000_000 // 1000)) == Decimal("0.001")
    # More digits than floats or Decimal's usual context have.
    dear = Price(adapter="*", input=Decimal("999999999.123456789"), output=Decimal(0))
    assert shown(dear.of(10**15 + 1, 0, 0)) == "999999999123457788.999999123456789"


def test_without_a_price_for_cached_tokens_they_cost_what_others_do() -> None:
    assert Price(adapter="*", input=Decimal(2), output=Decimal(0)).of(10, 10, 0) == Decimal("0.00002")


@pytest.mark.parametrize(
    ("amount", "text"), [("0", "0.00"), ("1E+3", "1000.00"), ("0.10", "0.10"), ("0.0000001", "0.0000001")]
)
def test_amounts_are_shown_without_exponents(amount: str, text: str) -> None:
    assert shown(Decimal(amount)) == text


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ({"currency": "euro"}, "currency"),
        ({"price": []}, "price"),
        ({"pricing": []}, "pricing"),
        ({"price": [{"adapter": "*", "input": -1, "output": 0}]}, "input"),
        ({"price": [{"adapter": "*", "input": "NaN", "output": 0}]}, "input"),
        ({"price": [{"adapter": "*", "input": "Infinity", "output": 0}]}, "input"),
        ({"price": [{"adapter": "*", "input": True, "output": 0}]}, "input"),
        ({"price": [{"adapter": "*", "input": "0.0000000001", "output": 0}]}, "input"),
        ({"price": [{"adapter": "*", "input": 1e10, "output": 0}]}, "input"),
        ({"price": [{"adapter": "*", "input": 1}]}, "output"),
        ({"price": [{"adapter": "", "input": 1, "output": 1}]}, "adapter"),
    ],
)
def test_a_list_that_makes_no_sense_is_refused_at_the_start(fault: dict[str, object], says: str) -> None:
    good = {"currency": "EUR", "price": [{"adapter": "*", "input": 1, "output": 1}]}
    with pytest.raises(SettingsError, match=says):
        load_settings(prices=json.dumps(good | fault))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("absent.toml", None, "cannot be read"),
        ("prices.toml", "currency = ", "is not toml"),
        ("prices.json", "[" * 100_000, "is not json"),
        ("prices.toml", "\xff", "is not toml"),
        ("prices.toml", "#" * (2 << 20), "more than"),
    ],
)
def test_a_file_that_is_no_list_is_refused_by_name(tmp_path: Path, name: str, content: str | None, says: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content, encoding="latin-1")
    with pytest.raises(SettingsError, match=says) as raised:
        load_settings(prices=str(tmp_path / name))
    assert name in str(raised.value)
