"""The workload: seeded, spread as asked, and never the same prompt twice."""

from __future__ import annotations

import collections
import itertools
import statistics
from dataclasses import replace

import pytest

from loadtest.workload import (
    UNIQUE_WORDS,
    WORDS,
    Arrivals,
    PlannedRequest,
    Popularity,
    TokenScale,
    Workload,
    WorkloadError,
)

PLAIN = Workload(models=("a", "b", "c", "d"), seed=7, nonce="run-1", prompt_words=20)


def first(count: int, workload: Workload) -> list[PlannedRequest]:
    return list(itertools.islice(workload.requests(), count))


def test_the_same_seed_and_nonce_give_the_same_requests() -> None:
    timed = replace(PLAIN, arrivals=Arrivals(10))
    assert first(50, timed) == first(50, timed)


def test_another_seed_gives_other_adapters_and_times() -> None:
    one, other = (first(50, replace(PLAIN, seed=seed, arrivals=Arrivals(10))) for seed in (1, 2))
    assert [r.model for r in one] != [r.model for r in other]
    assert [r.at_seconds for r in one] != [r.at_seconds for r in other]


def test_a_second_run_asks_the_same_adapters_but_begins_every_prompt_anew() -> None:
    one, other = first(200, PLAIN), first(200, replace(PLAIN, nonce="run-2"))
    assert [r.model for r in one] == [r.model for r in other]
    assert not {beginning(r) for r in one} & {beginning(r) for r in other}


def test_no_two_prompts_of_a_run_begin_alike() -> None:
    requests = first(2000, PLAIN)
    assert len({beginning(r) for r in requests}) == len(requests)
    assert {len(r.prompt.split()) for r in requests} == {20}


def beginning(request: PlannedRequest) -> tuple[str, ...]:
    return tuple(request.prompt.split()[:UNIQUE_WORDS])


def test_each_word_of_the_vocabulary_carries_six_bits() -> None:
    assert len(set(WORDS)) == len(WORDS) == 64


def test_uniform_popularity_asks_all_alike() -> None:
    counts = collections.Counter(r.model for r in first(4000, PLAIN))
    assert all(900 < counts[model] < 1100 for model in PLAIN.models)


def test_zipf_popularity_follows_rank() -> None:
    skewed = replace(PLAIN, popularity=Popularity.parse("zipf:1.0"))
    counts = collections.Counter(r.model for r in first(10_000, skewed))
    for rank, model in enumerate(PLAIN.models, start=1):
        assert counts[model] / 10_000 == pytest.approx((1 / rank) / (1 + 1 / 2 + 1 / 3 + 1 / 4), rel=0.1)


def test_weights_add_up_to_one() -> None:
    assert sum(Popularity.parse("zipf:1.3").weights(17)) == pytest.approx(1.0)


@pytest.mark.parametrize("text", ["", "zipff", "zipf:x", "zipf:-1", "zipf:nan", "uniform:1", "zipf:99"])
def test_a_popularity_without_meaning_is_refused(text: str) -> None:
    with pytest.raises(WorkloadError, match="neither"):
        Popularity.parse(text)


def test_poisson_arrivals_have_the_rate_and_the_spread_of_an_exponential() -> None:
    times = [r.at_seconds for r in first(5000, replace(PLAIN, arrivals=Arrivals(20.0)))]
    gaps = [b - a for a, b in itertools.pairwise(t for t in times if t is not None)]
    assert len(gaps) == 4999
    assert statistics.mean(gaps) == pytest.approx(1 / 20, rel=0.05)
    assert statistics.stdev(gaps) == pytest.approx(1 / 20, rel=0.1)


def test_constant_arrivals_are_evenly_spaced() -> None:
    times = [r.at_seconds for r in first(5, replace(PLAIN, arrivals=Arrivals(4.0, "constant")))]
    assert times == pytest.approx([0.0, 0.25, 0.5, 0.75, 1.0])


def test_a_closed_loop_has_no_times() -> None:
    assert {r.at_seconds for r in first(5, PLAIN)} == {None}


def test_the_token_scale_is_the_line_through_two_probes() -> None:
    scale = TokenScale.through((16, 62), (80, 190))
    assert (scale.overhead, scale.per_word) == (30.0, 2.0)
    assert scale.words(130) == 50


def test_a_prompt_is_never_shorter_than_its_unique_beginning() -> None:
    assert TokenScale(30, 2).words(10) == UNIQUE_WORDS


def test_probes_that_failed_mean_one_token_a_word() -> None:
    assert TokenScale.through((16, 0), (80, 0)).words(64) == 64
