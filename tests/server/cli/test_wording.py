"""Times as people read them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from loradock_server.cli.wording import ago

THEN = datetime(2026, 1, 31, 17, 5, 59, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-5, "0 s ago"),
        (0, "0 s ago"),
        (119.9, "119 s ago"),
        (120, "2 min ago"),
        (7199, "119 min ago"),
        (7200, "2 h ago"),
        (172_799, "47 h ago"),
        (172_800, "2 d ago"),
    ],
)
def test_a_time_is_said_in_the_largest_unit_of_which_there_are_two(seconds: float, said: str) -> None:
    assert ago(THEN.isoformat(), THEN.timestamp() + seconds) == said


def test_what_is_no_time_is_shown_as_it_is() -> None:
    assert ago("soon", 0) == "soon"
