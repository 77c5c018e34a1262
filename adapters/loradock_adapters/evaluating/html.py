"""An outcome as one HTML file: no address in it, nothing loaded, every text of a model or a file escaped.

The page's own style and script are named by their hashes in its Content-Security-Policy, so that nothing that an answer
smuggled in would run. What cannot be seen (control characters, marks that turn text around) is spelled out.
"""

from __future__ import annotations

import base64
import hashlib
import unicodedata
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from loradock_adapters.evaluating.contenders import Role
from loradock_adapters.evaluating.differences import Piece, differences
from loradock_adapters.evaluating.measuring import by_label
from loradock_adapters.evaluating.outcome import Measured, Outcome
from loradock_adapters.evaluating.statistics import Comparison, Estimate
from loradock_adapters.training.formats import Example

MOST_EXAMPLES = 1000
_LONGEST_TEXT = 4000  # characters of one text
_NATS = ("loss", "general_loss")
_WORDS = {"win": "adapter better", "loss": "adapter worse", "tie": "no difference", "wrong": "adapter not right"}


def page(outcome: Outcome) -> str:
    """The whole document."""
    css, js = _asset("report.css"), _asset("report.js")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string(_asset("report.html.j2"))
    # Only these two are not escaped: they are ours, and hold no text of anybody.
    return template.render(
        css=Markup(css),
        js=Markup(js),
        css_hash=_hash(css),
        js_hash=_hash(js),
        **_head(outcome),
        **_body(outcome),
    )


def _head(outcome: Outcome) -> dict[str, Any]:
    roles = [contender.role for contender in outcome.contenders]
    first, verdict = outcome.deciding, outcome.verdict
    gain = first.over[verdict.rival]
    name = first.metric.name
    both: tuple[Role, Role] = ("adapter", verdict.rival)
    ours, theirs = (_number(name, first.estimates[role].mean) for role in both)
    decided = (
        f"{name}: {ours} against {theirs} of {_rival(verdict.rival)}; gain {_gain(name, gain.gain)}, "
        f"95 % interval {_gain(name, gain.low)} to {_gain(name, gain.high)}, p {p_value(gain.p)}"
    )
    return {
        "title": _visible(f"{outcome.adapter.id}: {verdict.line}"),
        "adapter": _visible(outcome.adapter.id),
        "base": _visible(outcome.adapter.base),
        "rivals": ", prompted and not" if "prompted" in roles else "",
        "count": len(outcome.data.examples),
        "data": _visible(outcome.data.path.name),
        "created": outcome.created_at.replace("T", " ").replace("+00:00", " UTC"),
        "longest": outcome.decoding.max_tokens,
        "seed": outcome.decoding.seed,
        "kind": verdict.kind,
        "verdict": _visible(verdict.line),
        "decided": decided,
        "notes": [_visible(note) for note in outcome.notes],
        "roles": roles,
        "rival": _rival(verdict.rival),
        "decider": name,
    }


def _body(outcome: Outcome) -> dict[str, Any]:
    roles = [contender.role for contender in outcome.contenders]
    labels = by_label([example.answer for example in outcome.data.examples], outcome.measured)
    prompted = next((one for one in outcome.contenders if one.role == "prompted"), None)
    examples = _examples(outcome)
    counted = {kind: sum(kind in one["kinds"].split() for one in examples) for kind in _WORDS}
    forgotten = outcome.forgetting
    return {
        "rows": [_row(one, roles, one is outcome.deciding) for one in outcome.measured],
        "labels": [
            {"name": _visible(label), "count": count, "shares": [f"{each[role] * 100:.1f} %" for role in roles]}
            for label, (count, each) in labels.items()
        ],
        "tokens": _tokens(outcome),
        "forgotten": []
        if forgotten is None
        else [
            _row(one, ["base", "adapter"], False) for one in (forgotten.questions, forgotten.text) if one is not None
        ],
        "forgotten_words": ""
        if forgotten is None
        else f"{len(forgotten.asked)} general questions and the loss on general text: nothing that the task is about.",
        "turned": []
        if forgotten is None
        else [
            {
                "kind": "win" if now else "loss",
                "word": "learned" if now else "forgotten",
                "asked": _visible(asked),
                "base": _visible(before),
                "adapter": _visible(after),
            }
            for asked, before, after, was, now in forgotten.asked
            if was != now
        ],
        "prompt": _visible(prompted.prompt or "") if prompted else "",
        "shots": [
            {"asked": _asked(shot), "wanted": _visible(shot.answer)} for shot in (prompted.shots if prompted else ())
        ],
        "examples": examples[:MOST_EXAMPLES],
        "left_out": max(0, len(examples) - MOST_EXAMPLES),
        "filters": [
            {"kind": "all", "word": "all", "count": len(examples[:MOST_EXAMPLES])},
            *({"kind": kind, "word": word, "count": counted[kind]} for kind, word in _WORDS.items() if counted[kind]),
        ],
    }


def _row(one: Measured, roles: Sequence[Role], deciding: bool) -> dict[str, Any]:
    name = one.metric.name
    top = max(1.0 if name not in _NATS else 0.0, *(each.high for each in one.estimates.values())) or 1.0
    widest = max((max(abs(each.low), abs(each.high)) for each in one.over.values()), default=0.0) or 1.0
    return {
        "name": name,
        "words": one.metric.words,
        "deciding": deciding,
        "estimates": [_estimate(name, one.estimates.get(role), top) for role in roles],
        "gains": [_compared(name, one.over.get(role), widest) for role in roles if role != "adapter"],
    }


def _estimate(name: str, found: Estimate | None, top: float) -> dict[str, Any] | None:
    if found is None:
        return None
    interval = f"{_number(name, found.low, False)} – {_number(name, found.high, False)}"
    return {"text": _number(name, found.mean), "interval": interval} | _bar(found.low, found.mean, found.high, 0, top)


def _compared(name: str, over: Comparison | None, widest: float) -> dict[str, Any] | None:
    if over is None:
        return None
    return {
        "text": _gain(name, over.gain),
        "interval": f"{_gain(name, over.low)} … {_gain(name, over.high)}",
        "p": p_value(over.p),
        "counts": f"better {over.wins}, worse {over.losses}, equal {over.ties}",
        "way": "up" if over.low > 0 else "down" if over.high < 0 else "level",
    } | _bar(over.low, over.gain, over.high, -widest, widest, zero=True)


def _bar(low: float, mean: float, high: float, start: float, end: float, *, zero: bool = False) -> dict[str, Any]:
    """Places on a line of 100, as the drawing has it."""

    def at(value: float) -> float:
        return round(100 * (value - start) / (end - start), 2)

    return {
        "low": at(low),
        "width": max(0.8, round(at(high) - at(low), 2)),
        "mean": min(99.1, at(mean)),
        "zero": at(0) if zero else None,
    }


def _tokens(outcome: Outcome) -> list[dict[str, Any]]:
    spent = outcome.spent.values()
    rows = [
        {"name": "tokens of the prompt", "shown": [f"{one.prompt_tokens:.1f}" for one in spent]},
        {"name": "tokens of the answer", "shown": [f"{one.answer_tokens:.1f}" for one in spent]},
    ]
    if outcome.prices is not None:
        rows.append({"name": "cost of 1000 requests", "shown": [f"{one.cost_per_1000 or 0:.4f}" for one in spent]})
    return rows


def _examples(outcome: Outcome) -> list[dict[str, Any]]:
    """In the order in which they are shown: where the adapter is worse, where it is better, the rest."""
    first, rival = outcome.deciding, outcome.verdict.rival
    sign = 1 if first.metric.higher else -1
    shown = []
    for number, example in enumerate(outcome.data.examples):
        ours, theirs = first.values["adapter"][number], first.values[rival][number]
        badge = "win" if sign * (ours - theirs) > 0 else "loss" if sign * (ours - theirs) < 0 else "tie"
        right = first.metric.name not in _NATS and ours >= 1
        shown.append(
            {
                "number": number + 1,
                "kinds": badge if right else f"{badge} wrong",
                "badge": badge,
                "word": {"win": "better", "loss": "worse", "tie": "equal"}[badge],
                "asked": _asked(example),
                "wanted": _visible(example.answer),
                "sides": [_side(outcome, role, number) for role in outcome.answers],
            }
        )
    order = {"loss": 0, "win": 1, "tie": 2}
    return sorted(shown, key=lambda one: order[str(one["badge"])])


def _side(outcome: Outcome, role: Role, number: int) -> dict[str, Any]:
    answer, wanted = outcome.answers[role][number].text, outcome.data.examples[number].answer
    scores: Mapping[str, float] = {
        one.metric.name: one.values[role][number] for one in outcome.measured if role in one.values
    }
    pieces = [
        Piece(piece.kind, _visible(piece.text)) for piece in differences(_cut(answer.strip()), _cut(wanted.strip()))
    ]
    return {
        "role": role,
        "score": " · ".join(f"{name} {value:.2f}" for name, value in list(scores.items())[:2]),
        "same": answer.strip() == wanted.strip(),
        "pieces": pieces or [Piece("same", "(nothing)")],
    }


def _asked(example: Example) -> str:
    """What was asked, with the speakers' names where there are several messages."""
    messages = example.context
    if len(messages) == 1:
        return _visible(messages[0]["content"])
    return _visible("\n".join(f"{message['role']}: {message['content']}" for message in messages))


def _rival(role: Role) -> str:
    return "the prompted base" if role == "prompted" else "the base"


def _number(name: str, value: float, sign: bool = True) -> str:
    return f"{value:.3f}" if name in _NATS else f"{value * 100:.1f}{' %' if sign else ''}"


def _gain(name: str, value: float) -> str:
    return f"{value:+.3f}" if name in _NATS else f"{value * 100:+.1f}"


def p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]} …"


def _visible(text: str) -> str:
    """The text, cut to a bearable length, with what cannot be seen spelled out."""
    return "".join(
        character
        if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Cn", "Zl", "Zp")
        else character.encode("unicode_escape").decode("ascii")
        for character in _cut(text)
    )


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath("page", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
