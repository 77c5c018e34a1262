"""What the SDK suites ask for, and whether an answer is what was asked for."""

from __future__ import annotations

import json
from typing import Any

MODEL = "home-commands"
ID = f"{MODEL}@1"
SWITCH: dict[str, Any] = {
    "type": "object",
    "properties": {"on": {"type": "boolean"}, "room": {"type": "string", "enum": ["hall", "attic"]}},
    "required": ["on", "room"],
    "additionalProperties": False,
}


def is_switch(arguments: str) -> bool:
    """Whether this JSON fits SWITCH."""
    value = json.loads(arguments)
    return set(value) == {"on", "room"} and isinstance(value["on"], bool) and value["room"] in ("hall", "attic")
