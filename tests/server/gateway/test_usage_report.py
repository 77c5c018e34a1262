"""`/admin/usage`: sums as asked for, in JSON and CSV, with names and costs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from loradock_adapters.registry import Registry
from loradock_adapters.registry.usage import Account, Position, Sums, hour_of
from tests.server.gateway.conftest import Gateway, Start

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = hour_of(NOON)
PRICES = {
    "currency": "EUR",
    "price": [
        {"adapter": "poet", "input": "0.1", "cached_input": "0.01", "output": "0.3"},
        {"adapter": "base", "input": "1", "output": "1"},
    ],
}


@pytest.fixture
def priced(start: Start) -> Iterator[Gateway]:
    with start(prices=json.dumps(PRICES)) as running:
        fill(running)
        yield running


@pytest.fixture
def filled(gateway: Gateway) -> Gateway:
    fill(gateway)
    return gateway


def fill(gateway: Gateway) -> None:
    registry = Registry.open(gateway.settings.registry)
    (admin,) = (key.id for key in registry.keys.list())
    formula = gateway.http.post("/admin/keys", json={"name": "=HYPERLINK(1)"}).json()["id"]
    sums = {
        Account(HOUR, admin, "", "poet", 1): Sums(2, 1, 0, 1_000_000, 10, 500_000),
        Account(HOUR + 1, admin, "acme", "poet", 2): Sums(1, 0, 1, 7, 3, 0),
        Account(HOUR + 24, formula, "acme", "base", 0): Sums(1, 0, 0, 100, 50, 25),
        Account(HOUR + 24, "local", "", "clerk", 1): Sums(1, 0, 0, 30, 20, 0),
    }
    registry.usage.add("somebody", sums, since=None, until=Position("e", 1))
    registry.close()


def ask(gateway: Gateway, **query: Any) -> dict[str, Any]:
    answer = gateway.http.get("/admin/usage", params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def tokens(answer: dict[str, Any], *names: str) -> list[tuple[Any, ...]]:
    return [(*(row[name] for name in names), row["input_tokens"]) for row in answer["data"]]


def test_sums_are_by_adapter_unless_asked_otherwise(filled: Gateway) -> None:
    answer = ask(filled)
    assert tokens(answer, "adapter") == [("base", 100), ("clerk", 30), ("poet", 1_000_007)]
    (poet,) = (row for row in answer["data"] if row["adapter"] == "poet")
    assert "version" not in poet
    assert (poet["requests"], poet["errors"], poet["aborted"], poet["output_tokens"]) == (3, 1, 1, 13)
    assert (poet["cost"], answer["currency"]) == (None, None)
    assert answer["total"]["input_tokens"] == 1_000_137
    assert (answer["from"], answer["to"], answer["group_by"]) == (None, None, ["adapter"])


def test_sums_can_be_divided_by_everything_that_is_written(filled: Gateway) -> None:
    assert tokens(ask(filled, group_by="version"), "adapter", "version") == [
        ("base", None, 100),
        ("clerk", 1, 30),
        ("poet", 1, 1_000_000),
        ("poet", 2, 7),
    ]
    assert tokens(ask(filled, group_by="day"), "day") == [("2026-03-01", 1_000_007), ("2026-03-02", 130)]
    assert tokens(ask(filled, group_by="tenant,hour"), "hour", "tenant") == [
        ("2026-03-01T12:00:00+00:00", "", 1_000_000),
        ("2026-03-01T13:00:00+00:00", "acme", 7),
        ("2026-03-02T12:00:00+00:00", "", 30),
        ("2026-03-02T12:00:00+00:00", "acme", 100),
    ]
    assert tokens(ask(filled, group_by="")) == [(1_000_137,)]
    named = {row["key_name"]: row["input_tokens"] for row in ask(filled, group_by="key")["data"]}
    assert named == {"first admin": 1_000_007, "=HYPERLINK(1)": 100, "this server": 30}


def test_sums_can_be_bounded_and_filtered(filled: Gateway) -> None:
    day = ask(filled, **{"from": "2026-03-02", "to": "2026-03-03"})
    assert (day["total"]["requests"], day["from"], day["to"]) == (
        2,
        "2026-03-02T00:00:00+00:00",
        "2026-03-03T00:00:00+00:00",
    )
    begun = ask(filled, **{"from": "2026-03-01T14:30:00+01:00", "to": "2026-03-01T13:30:01Z"})
    assert (begun["total"]["input_tokens"], begun["from"]) == (7, "2026-03-01T13:00:00+00:00")
    assert ask(filled, adapter="poet")["total"]["requests"] == 3
    assert ask(filled, tenant="acme", adapter="poet")["total"]["requests"] == 1
    assert ask(filled, tenant="")["total"]["requests"] == 3
    assert ask(filled, key="local")["total"]["requests"] == 1
    nobody = ask(filled, key="nobody")
    assert (nobody["data"], nobody["total"]["requests"]) == ([], 0)


def test_pages_lead_through_all_rows(filled: Gateway) -> None:
    by = {"group_by": "key,adapter,version,hour", "limit": 1}
    rows, page = [], ask(filled, **by)
    while True:
        rows += page["data"]
        assert page["total"]["requests"] == 5
        if not page["has_more"]:
            break
        page = ask(filled, **by, after=page["last_id"])
    assert rows == ask(filled, group_by="key,adapter,version,hour")["data"]
    assert len(rows) == 4


def test_cost_is_exact_and_says_what_has_no_price(priced: Gateway) -> None:
    answer = ask(priced)
    costs = {row["adapter"]: (row["cost"], row["unpriced_tokens"]) for row in answer["data"]}
    # 0.5 Mt × 0.1 + 0.5 Mt × 0.01 + 7 × 0.1 / 1e6 + 13 × 0.3 / 1e6
    assert costs == {"poet": ("0.0550046", 0), "base": ("0.00015", 0), "clerk": ("0.00", 50)}
    assert (answer["currency"], answer["total"]["cost"], answer["total"]["unpriced_tokens"]) == ("EUR", "0.0551546", 50)
    by_tenant = {row["tenant"]: row["cost"] for row in ask(priced, group_by="tenant")["data"]}
    assert by_tenant == {"": "0.055003", "acme": "0.0001516"}


@pytest.mark.parametrize("how", [{"params": {"format": "csv"}}, {"headers": {"accept": "text/csv, */*;q=0.1"}}])
def test_csv_has_every_row_and_no_formula(priced: Gateway, how: dict[str, Any]) -> None:
    how["params"] = {**how.get("params", {}), "group_by": "key,adapter,version"}
    answer = priced.http.get("/admin/usage", **how)
    assert answer.headers["content-type"].startswith("text/csv")
    head, *rows = csv.reader(io.StringIO(answer.text))
    assert head == [
        *("key", "key_name", "adapter", "version", "requests", "errors", "aborted"),
        *("input_tokens", "output_tokens", "cached_tokens", "cost", "currency", "unpriced_tokens"),
    ]
    (formula,) = (row for row in rows if "HYPERLINK" in row[1])
    assert formula[1:] == ["'=HYPERLINK(1)", "base", "", "1", "0", "0", "100", "50", "25", "0.00015", "EUR", "0"]
    assert len(rows) == 4
    assert answer.text.endswith("\r\n")


def test_csv_is_whole_however_many_rows_there_are(gateway: Gateway) -> None:
    registry = Registry.open(gateway.settings.registry)
    sums = {Account(HOUR + number, "local", "", "poet", 1): Sums(1) for number in range(2345)}
    registry.usage.add("somebody", sums, since=None, until=Position("e", 1))
    registry.close()
    answer = gateway.http.get("/admin/usage", params={"format": "csv", "group_by": "hour"})
    hours = [row[0] for row in list(csv.reader(io.StringIO(answer.text)))[1:]]
    assert len(hours) == len(set(hours)) == 2345
    assert hours == sorted(hours)
    some = gateway.http.get("/admin/usage", params={"format": "csv", "group_by": "hour", "limit": 3})
    assert some.text.splitlines() == answer.text.splitlines()[:4]


def test_json_is_what_a_browser_and_a_program_get(filled: Gateway) -> None:
    for accept in ("*/*", "application/json, text/csv", "text/html", ""):
        answer = filled.http.get("/admin/usage", headers={"accept": accept})
        assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    "query",
    [
        {"from": "yesterday"},
        {"from": "2026-02-30"},
        {"from": "1700000000"},
        {"from": "2026-03-02", "to": "2026-03-01"},
        {"group_by": "adapter,colour"},
        {"group_by": "adapter,"},
        {"after": "AAAA"},
        {"after": "WyJwb2V0IiwxXQ"},  # ["poet",1] with two dimensions too many
        {"after": "WzFd"},  # [1] is no adapter
        {"after": "%%%"},
        {"adapter": "Poet"},
        {"key": "a\0"},
        {"limit": "0"},
        {"format": "xml"},
    ],
)
def test_bad_questions_are_told_what_is_wrong(gateway: Gateway, query: dict[str, str]) -> None:
    answer = gateway.http.get("/admin/usage", params=query)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"]


def test_times_at_the_ends_of_the_calendar_are_times(gateway: Gateway) -> None:
    ask(gateway, **{"from": "0001-01-01T00:00:00+14:00", "to": "9999-12-31T23:59:59-14:00"})


def test_usage_is_for_admins(gateway: Gateway) -> None:
    made = gateway.http.post("/admin/keys", json={"name": "app"}).json()
    for method in ("GET", "DELETE"):
        url = "/admin/usage?before=2026-01-01"
        assert gateway.http.request(method, url, headers={"authorization": ""}).status_code == 401
        app = {"authorization": f"Bearer {made['secret']}"}
        assert gateway.http.request(method, url, headers=app).status_code == 403


def test_old_hours_are_forgotten_on_demand_only_and_audited(filled: Gateway) -> None:
    answer = filled.http.delete("/admin/usage", params={"before": "2026-03-02"})
    assert answer.json() == {"object": "usage.pruned", "before": "2026-03-02T00:00:00+00:00", "rows": 2}
    assert ask(filled)["total"]["requests"] == 2
    event = filled.http.get("/admin/audit").json()["data"][0]
    assert (event["action"], event["after"]["rows"]) == ("usage.pruned", 2)
    assert filled.http.delete("/admin/usage").status_code == 400
    assert filled.http.delete("/admin/usage", params={"before": "2999-01-01"}).status_code == 400
    assert ask(filled)["total"]["requests"] == 2
