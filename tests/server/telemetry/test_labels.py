"""The bound on adapter labels."""

from __future__ import annotations

from loradock_server.telemetry.labels import LabelCap


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
