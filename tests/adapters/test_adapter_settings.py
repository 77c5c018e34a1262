"""What may be said of an adapter, and what a merge patch makes of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from loradock_adapters.adapter_settings import NOTHING_SAID, AdapterSettings
from loradock_adapters.errors import InvalidSettings, RegistryError


def test_a_patch_sets_what_it_names_takes_back_what_is_null_and_leaves_the_rest() -> None:
    first = NOTHING_SAID.patched({"temperature": 0.2, "owner": "me", "stop": ["END"], "priority": "high"})
    assert first.document() == {"temperature": 0.2, "owner": "me", "stop": ["END"], "priority": "high"}
    second = first.patched({"temperature": 1, "owner": None, "seed": None, "priority": None})
    assert second.document() == {"temperature": 1.0, "stop": ["END"]}
    assert second.patched({}) == second
    assert AdapterSettings.stored(json.loads(json.dumps(second.document()))) == second
    assert NOTHING_SAID.document() == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", "0.2"),
        ("temperature", True),
        ("temperature", float("nan")),
        ("top_p", 0),
        ("top_k", 1.5),
        ("min_p", 1.1),
        ("repetition_penalty", 0),
        ("seed", 2**63),
        ("stop", "END"),
        ("stop", []),
        ("stop", [""]),
        ("stop", [1]),
        ("stop", ["x"] * 17),
        ("stop", ["x" * 201]),
        ("max_tokens_cap", 0),
        ("max_tokens_cap", "512"),
        ("max_concurrency", 0),
        ("priority", "urgent"),
        ("priority", 1),
        ("owner", ""),
        ("owner", ["me"]),
        ("description", "x" * 1001),
        ("description", "a\0b"),
        ("system_prompt", "\ud800"),
        ("system_prompt", "x" * 32_001),
        ("system_prompt", {"text": "x"}),
    ],
)
def test_a_value_that_makes_no_sense_is_a_fault_with_its_name_value_and_limit(name: str, value: Any) -> None:
    with pytest.raises(InvalidSettings) as raised:
        NOTHING_SAID.patched({name: value})
    (fault, *_) = raised.value.faults
    assert fault.where.partition(".")[0] == name
    assert "" not in (fault.value, fault.limit, fault.fix)
    assert len(fault.value) <= 80
    str(raised.value).encode()


def test_every_fault_is_told_at_once_and_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(InvalidSettings) as raised:
        NOTHING_SAID.patched({"temprature": 1, "top_p": 7, "seed": "x"})
    faults = {fault.where: fault for fault in raised.value.faults}
    assert set(faults) == {"temprature", "top_p", "seed"}
    assert faults["temprature"].code == "unknown_setting"
    assert "temperature" in faults["temprature"].limit


def test_what_another_release_wrote_is_an_error_and_not_silently_dropped() -> None:
    with pytest.raises(RegistryError, match="release"):
        AdapterSettings.stored({"max_tokens_cap": 5, "from_the_future": 1})
