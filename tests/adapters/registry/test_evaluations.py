"""Evaluations are attached, listed and forgotten with their version; the gate asks them inside the promotion."""

from __future__ import annotations

import pytest

from loradock_adapters.errors import EvaluationNotFound, GateRefused, VersionNotFound
from loradock_adapters.evaluation import Evaluation
from loradock_adapters.names import AdapterRef
from loradock_adapters.promotion_gate import PromotionGate
from loradock_adapters.registry import Gate, Registry, Split, VersionState
from tests.adapters.registry.making import ME, facts, register

BOT1, BOT2 = AdapterRef("bot", 1), AdapterRef("bot", 2)
RULES = PromotionGate(metric="score", no_worse_by=0.05)
GATE = Gate(RULES)


def score(value: float) -> Evaluation:
    return Evaluation.read({"task": "t", "metrics": {"score": value}, "extra": {"kept": True}})


@pytest.fixture
def bot(registry: Registry) -> Registry:
    """Version 1 live with 0.5, version 2 beside it without an evaluation."""
    register(registry, "bot", 1)
    register(registry, "bot", 2, alias=None)
    registry.evaluations.attach(BOT1, score(0.5), by=ME)
    return registry


def target(registry: Registry, alias: str = "live") -> str:
    return str(registry.catalogue().adapters["bot"].aliases[alias].split)


def test_they_are_listed_newest_first_page_by_page_and_audited(bot: Registry) -> None:
    ids = [bot.evaluations.attach(BOT2, score(number / 10), by=ME).id for number in range(3)]
    assert [record.id for record in bot.evaluations.page(BOT2)] == ids[::-1]
    assert [record.id for record in bot.evaluations.page(BOT2, before_id=ids[2], limit=1)] == [ids[1]]
    found = bot.evaluations.get(BOT2, ids[0])
    assert (found.ref, found.created_by, found.evaluation.document["extra"]) == (BOT2, "me", {"kept": True})
    (event,) = bot.audit.page(adapter="bot", limit=1)
    assert (event.action, event.version) == ("version.evaluated", 2)
    assert event.after == {"task": "t", "metrics": {"score": 0.2}, "evaluation": ids[2]}
    with pytest.raises(EvaluationNotFound):
        bot.evaluations.get(BOT1, ids[0])


def test_a_deleted_version_has_none_and_takes_none(bot: Registry) -> None:
    bot.versions.delete(BOT2, by=ME)
    for ask in (
        lambda: bot.evaluations.attach(BOT2, score(1), by=ME),
        lambda: bot.evaluations.page(BOT2),
        lambda: bot.evaluations.get(BOT2, 1),
    ):
        with pytest.raises(VersionNotFound):
            ask()


def test_a_worse_version_is_kept_from_going_live_and_changes_nothing(bot: Registry) -> None:
    bot.evaluations.attach(BOT2, score(0.4), by=ME)
    revision = bot.revision()
    for split in (Split.to(2), Split.of({1: 90, 2: 10})):
        with pytest.raises(GateRefused) as raised:
            bot.aliases.set("bot", "live", split, by=ME, gate=GATE)
        (objection,) = raised.value.objections
        assert (objection.version, objection.live) == ("bot@2", "bot@1")
        assert (objection.value, objection.live_value) == (0.4, 0.5)
    assert (bot.revision(), target(bot)) == (revision, "1")


def test_a_good_one_passes_and_what_worsened_in_the_canary_is_stopped(bot: Registry) -> None:
    bot.evaluations.attach(BOT2, score(0.46), by=ME)
    assert bot.aliases.set("bot", "live", Split.of({1: 90, 2: 10}), by=ME, gate=GATE)
    bot.evaluations.attach(BOT2, score(0.3), by=ME)
    with pytest.raises(GateRefused):
        bot.aliases.set("bot", "live", Split.to(2), by=ME, gate=GATE)
    assert bot.aliases.set("bot", "live", Split.of({1: 95, 2: 5}), by=ME, gate=GATE), "less of it is always allowed"
    assert bot.aliases.set("bot", "live", Split.to(1), by=ME, gate=GATE)


def test_other_aliases_rollbacks_and_what_is_there_already_are_not_asked(bot: Registry) -> None:
    bot.evaluations.attach(BOT2, score(0.1), by=ME)
    assert bot.aliases.set("bot", "canary", Split.to(2), by=ME, gate=GATE)
    bot.aliases.set("bot", "live", Split.to(2), by=ME)
    bot.aliases.set("bot", "live", Split.to(1), by=ME, gate=GATE)
    assert not bot.aliases.set("bot", "live", Split.to(1), by=ME, gate=Gate(PromotionGate(metric="x", required=True)))
    assert str(bot.aliases.rollback("bot", by=ME)) == "2"


def test_a_forced_promotion_says_why_and_against_what_in_the_audit(bot: Registry) -> None:
    bot.evaluations.attach(BOT2, score(0.1), by=ME)
    assert bot.aliases.set("bot", "live", Split.to(2), by=ME, gate=Gate(RULES, "the old one leaks"))
    (event,) = bot.audit.page(adapter="bot", limit=1)
    assert event.after is not None
    assert event.after["2"] == 1
    assert event.after["forced"]["reason"] == "the old one leaks"
    assert "0.1" in event.after["forced"]["against"][0]
    bot.aliases.set("bot", "live", Split.to(1), by=ME, gate=Gate(RULES, "not needed"))
    (event,) = bot.audit.page(adapter="bot", limit=1)
    assert event.after == {"1": 1}, "forced is only what had to be"


def test_a_registration_that_the_gate_stops_leaves_the_version_as_it_was(bot: Registry) -> None:
    staged = bot.versions.stage("bot", facts(3), by=ME)
    bot.versions.verify(staged.ref, by=ME)
    strict = Gate(PromotionGate(metric="score", required=True))
    with pytest.raises(GateRefused):
        bot.versions.make_ready(staged.ref, by=ME, gate=strict)
    assert bot.catalogue().adapters["bot"].versions[3].state is VersionState.VERIFIED
    bot.versions.make_ready(staged.ref, by=ME, alias="canary", gate=strict)
    assert (target(bot), target(bot, "canary")) == ("1", "3")
