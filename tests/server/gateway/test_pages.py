"""Lists page by page: following them shows everything once, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.postgres import Postgres
from tests.server.gateway.conftest import Gateway, Start


@pytest.fixture(params=["sqlite", "postgresql"])
def anywhere(request: pytest.FixtureRequest, start: Start) -> Iterator[Gateway]:
    flags = {}
    if request.param == "postgresql":
        cluster: Postgres = request.getfixturevalue("postgres")
        flags["registry_url"] = cluster.new_database()
    with start(**flags) as gateway:
        yield gateway


def pages(gateway: Gateway, path: str, limit: int) -> Iterator[list[dict[str, Any]]]:
    query = f"limit={limit}"
    while True:
        answer = gateway.http.get(f"{path}?{query}")
        assert answer.status_code == 200, answer.text
        page = answer.json()
        yield page["data"]
        if not page["has_more"]:
            return
        assert len(page["data"]) == limit
        query = f"limit={limit}&after={page['last_id']}"


def test_every_list_can_be_followed_to_its_end(anywhere: Gateway) -> None:
    for number in range(7):
        anywhere.http.post("/admin/adapters", json={"name": f"a{number}"}).raise_for_status()
        anywhere.http.post("/admin/keys", json={"name": f"key {number}"}).raise_for_status()
    for alpha in (2, 4, 8, 16, 32):
        anywhere.register("poet", alpha=alpha)
        anywhere.http.put(f"/admin/adapters/poet/aliases/at-{alpha}", json={"version": 1}).raise_for_status()
    for path, id, count in (
        ("/admin/adapters", "name", 8),
        ("/admin/adapters/poet/versions", "version", 5),
        ("/admin/adapters/poet/aliases", "alias", 6),
        ("/admin/keys", "id", 8),
        ("/admin/audit", "id", None),
    ):
        whole = [one[id] for one in anywhere.http.get(f"{path}?limit=999").json()["data"]]
        assert count in (None, len(whole)), path
        for limit in (1, 3, len(whole)):
            assert [one[id] for page in pages(anywhere, path, limit) for one in page] == whole, (path, limit)


def test_a_page_after_something_that_is_gone_goes_on_where_it_was(anywhere: Gateway) -> None:
    for name in ("ant", "bee", "cat"):
        anywhere.http.post("/admin/adapters", json={"name": name}).raise_for_status()
    anywhere.http.delete("/admin/adapters/bee")
    assert [one["name"] for one in anywhere.http.get("/admin/adapters?after=bee").json()["data"]] == ["cat"]
    assert anywhere.http.get("/admin/keys?after=key-000000000000").status_code == 404


def test_limits_beyond_the_limit_are_400(gateway: Gateway) -> None:
    for path in ("adapters", "adapters/poet/versions", "adapters/poet/aliases", "keys", "audit", "operations"):
        for limit in ("0", "-1", "1000", "many", "1e3", "9" * 30):
            answer = gateway.http.get(f"/admin/{path}?limit={limit}")
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "limit"), (path, limit)


def test_a_list_may_be_of_one_owner(anywhere: Gateway) -> None:
    for name, owner in (("ant", "me"), ("bee", "you"), ("cat", "me")):
        anywhere.http.post("/admin/adapters", json={"name": name, "owner": owner}).raise_for_status()

    def mine(query: str) -> list[str]:
        return [one["name"] for one in anywhere.http.get(f"/admin/adapters?{query}").json()["data"]]

    assert mine("owner=me") == ["ant", "cat"]
    assert mine("owner=me&limit=1") == ["ant"]
    assert mine("owner=me&limit=1&after=ant") == ["cat"]
    assert mine("owner=nobody") == []
