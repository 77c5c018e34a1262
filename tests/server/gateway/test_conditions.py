"""Two operators at once: who changes what they saw wins, the other is told both states. On both databases."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import httpx
import pytest

from tests.postgres import Postgres
from tests.server.gateway.conftest import Gateway, Start

OPERATORS = 6


@pytest.fixture(params=["sqlite", "postgresql"])
def two(request: pytest.FixtureRequest, start: Start) -> Iterator[tuple[Gateway, Gateway]]:
    """Two gateways on one registry, each with an operator; three versions, and a canary that has moved once."""
    flags = {}
    if request.param == "postgresql":
        cluster: Postgres = request.getfixturevalue("postgres")
        flags["registry_url"] = cluster.new_database()
    with start(**flags) as one, start(**flags) as other:
        for alpha in (2, 4, 8):
            one.register("poet", alpha=alpha)
        for version in (1, 2):
            one.http.put("/admin/adapters/poet/aliases/canary", json={"version": version}).raise_for_status()
        yield one, other


POET = "/admin/adapters/poet"
CANARY = f"{POET}/aliases/canary"


# Where the tag is read, and the change; each goes from where the one before led to.
CHANGES: tuple[tuple[str, str, str, Any], ...] = (
    (CANARY, "PUT", CANARY, {"version": 3}),
    (CANARY, "POST", f"{CANARY}/rollback", None),
    (CANARY, "DELETE", CANARY, None),
    (POET, "PATCH", POET, {"owner": "me"}),
    (POET, "PUT", f"{POET}/pin", None),
    (POET, "DELETE", f"{POET}/pin", None),
    (f"{POET}/versions/1", "POST", f"{POET}/versions/1/retire", None),
    (f"{POET}/versions/1", "DELETE", f"{POET}/versions/1", None),
    (POET, "DELETE", POET, None),
)


def test_of_those_who_saw_the_same_one_wins_and_the_others_are_told_what_is_there(two: tuple[Gateway, Gateway]) -> None:
    for seen, method, path, body in CHANGES:
        etag = two[0].http.get(seen).headers["etag"]
        assert two[1].http.get(seen).headers["etag"] == etag
        answers = at_once(two, method, path, body, etag)
        lost = [answer for answer in answers if answer.status_code != 200]
        assert len(lost) == OPERATORS - 1, (method, path, [answer.text for answer in answers])
        for answer in lost:
            error = answer.json()["error"]
            if answer.status_code == 404:
                assert method == "DELETE"  # there is nothing left to compare with
                continue
            assert (answer.status_code, error["code"]) == (412, "precondition_failed")
            assert error["expected"] == [int(etag.strip('"'))]
            assert error["current"] is None or error["current"]["revision"] > error["expected"][0]


def at_once(two: tuple[Gateway, Gateway], method: str, path: str, body: Any, etag: str) -> list[httpx.Response]:
    ready = Barrier(OPERATORS)

    def change(number: int) -> httpx.Response:
        ready.wait()
        return two[number % 2].http.request(method, path, json=body, headers={"if-match": etag})

    with ThreadPoolExecutor(OPERATORS) as operators:
        return list(operators.map(change, range(OPERATORS)))


def test_a_tag_that_is_not_there_changes_nothing(gateway: Gateway) -> None:
    gateway.register("poet")
    for tag in ('"1"', '"other"', 'W/"0"', "", '"99999999999999999999"', "1"):
        for method, path, body in (
            ("PUT", f"{POET}/pin", None),
            ("DELETE", f"{POET}/pin", None),
            ("PATCH", POET, {"owner": "me"}),
            ("DELETE", POET, None),
        ):
            before = gateway.http.get(POET).json()
            answer = gateway.http.request(method, path, json=body, headers={"if-match": tag})
            assert answer.status_code == 412, (method, path)
            assert answer.headers["etag"] == f'"{before["revision"]}"'
            assert gateway.http.get(POET).json()["revision"] == before["revision"]


def test_a_star_is_whatever_is_there(gateway: Gateway) -> None:
    gateway.register("poet")
    assert gateway.http.put(f"{POET}/pin", headers={"if-match": "*"}).json()["pinned"] is True
    gone = gateway.http.delete(f"{POET}/aliases/canary", headers={"if-match": "*"})
    assert gone.status_code in (404, 412)


def test_a_key_has_a_tag_that_its_end_changes(gateway: Gateway) -> None:
    made = gateway.http.post("/admin/keys", json={"name": "app"})
    key, first = made.json()["id"], made.headers["etag"]
    assert gateway.http.get(f"/admin/keys/{key}").headers["etag"] == first
    assert gateway.http.delete(f"/admin/keys/{key}", headers={"if-match": first}).status_code == 200
    again = gateway.http.delete(f"/admin/keys/{key}", headers={"if-match": first})
    assert again.status_code == 412
    current = again.json()["error"]["current"]
    assert (current["revoked"], f'"{current["revision"]}"') == (True, again.headers["etag"])
    assert gateway.http.get(f"/admin/keys/{key}").headers["etag"] == again.headers["etag"] != first
    assert gateway.http.get("/admin/keys/key-000000000000").status_code == 404
