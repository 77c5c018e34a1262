"""The bound on adapter labels."""

from __future__ import annotations

from loradock_server.telemetry.labels import VERSIONS_EACH, LabelCap


def test_the_base_model_has_a_label_of_its_own_that_costs_no_place() -> None:
    cap = LabelCap(1)
    assert cap.labels(None) == ("base", "")
    assert cap.labels("first", 3) == ("first", "3")
    assert cap.labels(None) == ("base", "")


def test_adapters_past_the_limit_share_other_and_early_ones_keep_their_name() -> None:
    cap = LabelCap(2)
    cap.labels("a", 1)
    cap.labels("b", 1)
    assert cap.labels("c", 1) == ("other", "other")
    assert cap.labels("a", 2) == ("a", "2")


def test_a_name_whose_versions_never_stop_coming_makes_no_series_without_end() -> None:
    cap = LabelCap(2)
    seen = {cap.labels("a", version) for version in range(1000)}
    assert len(seen) == VERSIONS_EACH + 1
    assert ("a", "other") in seen
    assert cap.labels("a", 0) == ("a", "0")
