"""`loradock usage`: what it asks, how it shows it, and what goes into a pipe."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from typer.testing import Result

from tests.server.cli.scripted_server import ScriptedServer

COUNTS = {
    **{"requests": 3, "errors": 1, "aborted": 0, "input_tokens": 1_234_567, "output_tokens": 89, "cached_tokens": 5},
    **{"cost": None, "unpriced_tokens": None},
}


def rows(*data: dict[str, Any], **more: Any) -> dict[str, Any]:
    listed = [{"object": "usage", "id": f"row{number}", **COUNTS, **row} for number, row in enumerate(data)]
    plain: dict[str, Any] = {"from": None, "to": None, "group_by": [], "currency": None, "total": COUNTS}
    return {"object": "list", "data": listed, "has_more": False, "last_id": None, **plain, **more}


def test_the_last_seven_days_by_adapter_are_asked_for(loradock: Callable[..., Result], server: ScriptedServer) -> None:
    server.enqueue(200, rows({"adapter": "poet"}))

    result = loradock("usage")

    assert result.exit_code == 0, result.stderr
    (seen,) = server.history
    assert (seen.path, seen.query["group_by"]) == ("/admin/usage", "adapter")
    ago = datetime.now(UTC) - datetime.fromisoformat(seen.query["from"])
    assert timedelta(days=7) <= ago < timedelta(days=7, minutes=1)
    head, poet = result.stdout.splitlines()
    assert head.split() == ["ADAPTER", "REQUESTS", "ERRORS", "ABORTED", "INPUT", "CACHED", "OUTPUT"]
    assert poet.split() == ["poet", "3", "1", "0", "1,234,567", "5", "89"]


def test_filters_and_times_are_passed_on(loradock: Callable[..., Result], server: ScriptedServer) -> None:
    server.enqueue(200, rows())

    result = loradock(
        *("usage", "--since", "2026-03-01", "--until", "2026-04-01T00:00+02:00", "--by", "key, day"),
        *("--key", "key-1", "--adapter", "base", "--tenant", ""),
    )

    assert result.exit_code == 0, result.stderr
    query = {name: value for name, value in server.history[0].query.items() if name != "limit"}
    assert query == {
        "from": "2026-03-01T00:00:00+00:00",
        "to": "2026-04-01T00:00:00+02:00",
        "group_by": "key,day",
        "key": "key-1",
        "adapter": "base",
        "tenant": "",
    }
    assert "--since 90d" in result.stdout


def test_several_rows_end_in_their_total_with_cost_and_names(
    loradock: Callable[..., Result], server: ScriptedServer
) -> None:
    total = COUNTS | {"requests": 6, "cost": "0.30", "unpriced_tokens": 1000}
    day = {"day": "2026-03-01", "cost": "0.10", "unpriced_tokens": 0}
    server.enqueue(
        200,
        rows(
            {**day, "key": "key-1", "key_name": "app", "adapter": "poet", "version": 2},
            {**day, "key": "key-2", "key_name": None, "adapter": "base", "version": None},
            currency="EUR",
            total=total,
        ),
    )

    head, first, second, last, note = loradock("usage", "--by", "day,key,version").stdout.splitlines()

    assert head.split()[:5] == ["DAY", "KEY", "NAME", "ADAPTER", "VERSION"]
    assert head.rstrip().endswith("COST EUR")
    assert first.split() == ["2026-03-01", "key-1", "app", "poet", "2", "3", "1", "0", "1,234,567", "5", "89", "0.10"]
    assert second.split()[2:5] == ["-", "base", "-"]
    assert (last.split()[0], last.split()[-1]) == ("total", "0.30")
    assert note == "1,000 tokens of adapters without a price are not in the cost"


def test_every_page_is_fetched_and_json_has_all_of_it(loradock: Callable[..., Result], server: ScriptedServer) -> None:
    server.enqueue(200, rows({"adapter": "a"}, has_more=True, last_id="x"))
    server.enqueue(200, rows({"adapter": "b"}))

    found = json.loads(loradock("usage", "--json").stdout)

    assert [row["adapter"] for row in found["data"]] == ["a", "b"]
    assert server.history[1].query["after"] == "x"
    assert server.history[1].query["from"] == server.history[0].query["from"]


def test_csv_goes_out_as_it_comes(loradock: Callable[..., Result], server: ScriptedServer) -> None:
    server.enqueue(200, "adapter,requests\r\nä,3\r\n", content_type="text/csv; charset=utf-8")

    result = loradock("usage", "--csv")

    assert result.exit_code == 0, result.stderr
    assert result.stdout_bytes == "adapter,requests\r\nä,3\r\n".encode()
    assert server.history[0].query["format"] == "csv"


def test_a_refusal_is_told_instead_of_csv(loradock: Callable[..., Result], server: ScriptedServer) -> None:
    server.enqueue(400, {"error": {"message": "usage is not divided by 'colour'", "code": None}})

    result = loradock("usage", "--csv", "--by", "colour")

    assert result.exit_code == 1
    assert "colour" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--since", "soon"), "--since 'soon'"),
        (("--since", "0d"), "--since '0d'"),
        (("--until", "7 days"), "--until '7 days'"),
        (("--csv", "--json"), "two kinds"),
    ],
)
def test_what_cannot_be_read_is_refused_before_anybody_is_asked(
    loradock: Callable[..., Result], server: ScriptedServer, arguments: tuple[str, ...], says: str
) -> None:
    result = loradock("usage", *arguments)

    assert result.exit_code == 2
    assert says in result.stderr + result.stdout
    assert server.history == []


def test_prune_needs_a_time_and_says_what_went(loradock: Callable[..., Result], server: ScriptedServer) -> None:
    assert loradock("usage", "prune").exit_code == 2
    server.enqueue(200, {"object": "usage.pruned", "before": "2026-01-01T00:00:00+00:00", "rows": 12})

    result = loradock("usage", "prune", "--before", "2026-01-01")

    assert result.stdout == "forgot 12 rows from before 2026-01-01 00:00 UTC\n"
    (seen,) = server.history
    assert (seen.method, seen.path, dict(seen.query)) == (
        "DELETE",
        "/admin/usage",
        {"before": "2026-01-01T00:00:00+00:00"},
    )
