"""Work that outlives its request, as the registry keeps it: progress, ends, claims, and runners that died."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from loradock_adapters.errors import ClaimReused, OperationNotFound
from loradock_adapters.registry import Actor, Begun, Claim, OperationState, Registry, operations
from tests.adapters.registry.making import ME

CLAIM = Claim("k-1", "f" * 64)
DONE = {"status": 201, "body": {"id": "bot@1"}}


def begin(registry: Registry, *, claim: Claim | None = None, by: Actor = ME, adapter: str = "bot") -> Begun:
    return registry.operations.begin("adapter.register", adapter, runner="gw-1", by=by, claim=claim)


def test_an_operation_is_seen_by_others_from_its_beginning_to_its_end(registry: Registry, url: str) -> None:
    begun = begin(registry)
    other = Registry.open(url)
    there = other.operations.get(begun.operation.id)
    assert (there.state, there.adapter, there.actor, there.finished_at) == (OperationState.RUNNING, "bot", ME, None)
    registry.operations.tell(there.id, "storing", 5_000_000_000, 9_000_000_000)
    there = other.operations.get(there.id)
    assert (there.stage, there.done, there.total) == ("storing", 5_000_000_000, 9_000_000_000)
    registry.operations.finish(there.id, succeeded=True, answer=DONE, final=True)
    there = other.operations.get(there.id)
    assert (there.state, there.answer, there.stage) == (OperationState.SUCCEEDED, DONE, "storing")
    assert there.finished_at is not None
    registry.operations.tell(there.id, "checking", 0, None)  # late, and about nothing that runs
    assert other.operations.get(there.id) == there
    other.close()


def test_progress_is_no_change_of_the_registry(registry: Registry) -> None:
    before = registry.revision()
    operation = begin(registry).operation
    registry.operations.tell(operation.id, "checking", 1, 2)
    registry.operations.finish(operation.id, succeeded=True, answer=None, final=True)
    assert registry.revision() == before


def test_the_same_claim_is_the_same_operation_running_or_over(registry: Registry) -> None:
    first = begin(registry, claim=CLAIM)
    again = begin(registry, claim=CLAIM)
    assert (first.created, again.created, again.operation.id) == (True, False, first.operation.id)
    registry.operations.finish(first.operation.id, succeeded=True, answer=DONE, final=True)
    over = begin(registry, claim=CLAIM)
    assert (over.created, over.operation.answer) == (False, DONE)


def test_the_key_of_a_claim_stands_for_one_request_of_one_caller(registry: Registry) -> None:
    first = begin(registry, claim=CLAIM)
    with pytest.raises(ClaimReused, match=first.operation.id):
        begin(registry, claim=Claim(CLAIM.key, "0" * 64))
    assert begin(registry, claim=CLAIM, by=Actor("somebody", "key-2")).created


def test_after_an_end_that_is_not_final_the_same_may_be_asked_for_again(registry: Registry) -> None:
    first = begin(registry, claim=CLAIM).operation
    registry.operations.finish(first.id, succeeded=False, answer={"status": 503}, final=False)
    again = begin(registry, claim=CLAIM)
    assert again.created
    assert registry.operations.get(first.id).state is OperationState.FAILED


def test_a_claim_made_twice_at_the_same_moment_is_one_operation(registry: Registry) -> None:
    with ThreadPoolExecutor(6) as pool:
        begun = list(pool.map(lambda _: begin(registry, claim=CLAIM), range(12)))
    assert len({one.operation.id for one in begun}) == 1
    assert sum(one.created for one in begun) == 1


def test_operations_are_listed_newest_first_page_by_page(registry: Registry) -> None:
    made = [begin(registry, adapter=f"a{number}").operation.id for number in range(5)]
    first = registry.operations.page(limit=2)
    rest = registry.operations.page(after=first[-1].id, limit=10)
    assert [operation.id for operation in first + rest] == made[::-1]
    with pytest.raises(OperationNotFound):
        registry.operations.page(after="op-none")
    with pytest.raises(OperationNotFound):
        registry.operations.get("op-none")


def test_one_whose_runner_shows_no_sign_of_life_fails_and_frees_its_claim(registry: Registry) -> None:
    operation = begin(registry, claim=CLAIM).operation
    (old,) = registry.operations.running()
    assert (old.id, old.runner) == (operation.id, "gw-1")
    registry.operations.tell(operation.id, "fetching", 1, None)
    assert not registry.operations.lose(old, {"status": 503})  # it has beaten since
    (now,) = registry.operations.running()
    assert registry.operations.lose(now, {"status": 503})
    assert not registry.operations.lose(now, {"status": 503})
    assert registry.operations.running() == []
    assert registry.operations.get(operation.id).answer == {"status": 503}
    assert begin(registry, claim=CLAIM).created


def test_what_a_runner_says_in_the_end_counts_even_if_it_was_taken_for_dead(registry: Registry) -> None:
    operation = begin(registry, claim=CLAIM).operation
    registry.operations.lose(registry.operations.running()[0], {"status": 503})
    registry.operations.finish(operation.id, succeeded=True, answer=DONE, final=True)
    assert registry.operations.get(operation.id).state is OperationState.SUCCEEDED
    assert begin(registry, claim=CLAIM).created


def test_what_ended_long_ago_is_forgotten_and_what_runs_is_not(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    over, running = begin(registry, claim=CLAIM).operation, begin(registry).operation
    registry.operations.finish(over.id, succeeded=True, answer=DONE, final=True)
    monkeypatch.setattr(operations, "KEPT_FOR", timedelta(0))
    fresh = begin(registry, claim=CLAIM)
    assert fresh.created
    assert {operation.id for operation in registry.operations.page()} == {running.id, fresh.operation.id}
