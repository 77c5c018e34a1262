"""Make the home-commands data: spoken smart-home commands and the JSON intent Home Assistant gives them.

The sentences are drawn from the English templates of the `home-assistant-intents` package; the labels come from
hassil, the recogniser Home Assistant itself uses, so a sentence it cannot parse never becomes training data.
Deterministic: same package versions and seed, same bytes. Needs: pip install home-assistant-intents hassil unicode-rbnf
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import home_assistant_intents
from hassil.expression import Alternative, Expression, Group, ListReference, Permutation, RuleReference, TextChunk
from hassil.intents import Intents, RangeSlotList, SlotList, TextSlotList, WildcardSlotList
from hassil.recognize import recognize_best
from hassil.util import normalize_whitespace

SEED = 20260
HELD_OUT = 150
PER_INTENT = 130
INTENTS = (
    "HassTurnOn", "HassTurnOff", "HassLightSet", "HassClimateSetTemperature", "HassFanSetSpeed",
    "HassSetPosition", "HassSetVolume", "HassStartTimer", "HassCancelTimer", "HassGetWeather",
    "HassGetCurrentTime", "HassShoppingListAddItem", "HassMediaPause", "HassMediaNext", "HassVacuumStart",
)  # fmt: skip
AREAS = (
    "kitchen", "bedroom", "living room", "bathroom", "garage", "office", "hallway", "attic", "basement",
    "dining room", "nursery", "laundry room", "guest room", "library",
)  # fmt: skip
FLOORS = ("ground floor", "first floor", "upstairs")
NAMES = {
    "light": ("desk lamp", "ceiling light", "porch light", "reading lamp", "christmas lights"),
    "fan": ("tower fan", "ceiling fan"),
    "cover": ("left curtain", "garage door", "south blinds"),
    "switch": ("coffee machine", "water pump", "night mode"),
    "media_player": ("tv", "kitchen radio", "soundbar"),
    "vacuum": ("robot vacuum", "rover"),
    "climate": ("thermostat",),
}
WORDS = {
    "shopping_list_item": ("milk", "eggs", "brown rice", "apples", "olive oil", "coffee beans", "soap", "bread"),
    "timer_name": ("pizza", "laundry", "tea", "homework", "nap"),
}


def slot_lists() -> dict[str, SlotList]:
    """The rooms and devices of the imagined house."""
    names = [(name, name, {"domain": domain}) for domain, group in NAMES.items() for name in group]
    return {
        "area": TextSlotList.from_strings(AREAS),
        "floor": TextSlotList.from_strings(FLOORS),
        "name": TextSlotList.from_tuples(names),
    }


class Sampler:
    """Walks a template at random: one choice at each alternative, one value for each list."""

    def __init__(self, intents: Intents, lists: dict[str, SlotList], draw: random.Random) -> None:
        self._rules = intents.expansion_rules
        self._lists = {**intents.slot_lists, **lists}
        self._draw = draw

    def text(self, expression: Expression, rules: dict[str, Any]) -> str:
        """One sentence of the template; LookupError where a list has no value to offer."""
        match expression:
            case TextChunk():
                return expression.original_text
            case Alternative():
                return self.text(self._draw.choice(expression.items), rules)
            case Permutation():
                items = self._draw.sample(expression.items, len(expression.items))
                return " ".join(self.text(item, rules) for item in items)
            case Group():
                return "".join(self.text(item, rules) for item in expression.items)
            case RuleReference():
                rule = rules.get(expression.rule_name) or self._rules[expression.rule_name]
                return self.text(rule.expression, rules)
            case ListReference():
                return self._value(expression, rules)
        raise LookupError(f"no rule for {expression!r}")

    def _value(self, reference: ListReference, rules: dict[str, Any]) -> str:
        values = self._lists[reference.list_name]
        match values:
            case TextSlotList():
                return self.text(self._draw.choice(values.values).text_in, rules)
            case RangeSlotList():
                return str(self._draw.randrange(values.start, values.stop + 1, max(values.step, 1)))
            case WildcardSlotList():
                return self._draw.choice(WORDS[reference.list_name])
        raise LookupError(reference.list_name)


def label(sentence: str, intent: str, intents: Intents, lists: dict[str, SlotList]) -> str | None:
    """The JSON answer, or None where hassil does not read the sentence as this intent."""
    result = recognize_best(sentence, intents, slot_lists=lists, best_slot_name="name", language="en")
    if result is None or result.intent.name != intent:
        return None
    slots = {
        entity.name: plain(entity.value)
        for entity in sorted(result.entities_list, key=lambda entity: entity.name)
        if isinstance(entity.value, (str, int, float))
    }
    return json.dumps({"intent": intent, "slots": slots})


def plain(value: str | float) -> str | float:
    """21.0 as 21, text without the blanks a wildcard leaves."""
    if isinstance(value, str):
        return value.strip()
    return int(value) if float(value).is_integer() else value


def sample(intents: Intents) -> dict[str, str]:
    """Sentence → JSON answer, at most PER_INTENT of each intent."""
    lists = slot_lists()
    draw = random.Random(SEED)
    sampler = Sampler(intents, lists, draw)
    found: dict[str, str] = {}
    for name in INTENTS:
        templates = [
            (sentence, data.expansion_rules or {})
            for data in intents.intents[name].data
            if not data.requires_context or "area" not in data.requires_context
            for sentence in data.sentences
        ]
        kept = 0
        for _ in range(PER_INTENT * 12):
            template, rules = draw.choice(templates)
            try:
                text = normalize_whitespace(sampler.text(template.expression, rules)).strip()
            except LookupError:
                continue
            if text in found or not 4 < len(text) < 90:
                continue
            answer = label(text, name, intents, lists)
            if answer is not None:
                found[text] = answer
                kept += 1
            if kept == PER_INTENT:
                break
    return found


def main() -> None:
    package = Path(home_assistant_intents.__file__).parent
    intents = Intents.from_dict(json.loads((package / "data" / "en.json").read_text(encoding="utf-8")))
    rows = [
        json.dumps({"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]})
        for text, answer in sample(intents).items()
    ]
    random.Random(SEED).shuffle(rows)
    folder = Path(__file__).parent / "data"
    folder.mkdir(exist_ok=True)
    (folder / "held_out.jsonl").write_text("\n".join(rows[:HELD_OUT]) + "\n", encoding="utf-8")
    (folder / "train.jsonl").write_text("\n".join(rows[HELD_OUT:]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
