"""A stranger with the document in hand: schemathesis asks for what it describes, rightly and wrongly.

It runs as its own program, as anybody would run it, against a real gateway with the scripted engine. LONG_TESTS=1 looks
longer, and at whole sequences of requests too.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.server.gateway.conftest import Gateway

LONG = os.environ.get("LONG_TESTS") == "1"

# The scripted engine takes whatever the gateway lets through, and what is in a file the check judges, not the schema.
CONFIG = """
[checks]
# 409 and 422 say that the request is well-formed and that what is there does not allow it.
positive_data_acceptance.expected-statuses = ["2xx", "401", "403", "404", "409", "410", "412", "422"]
# A condition that fails is told before a body that is wrong.
negative_data_rejection.expected-statuses = ["400", "401", "403", "404", "405", "409", "412", "413", "415", "422"]

[[operations]]
include-tag = "inference"
checks.negative_data_rejection.enabled = false

[[operations]]
# No pattern of JSON Schema says which characters are printable.
include-operation-id = "createKey"
checks.positive_data_acceptance.enabled = false

[[operations]]
# Times that are none, ends before beginnings and cursors of our own making are beyond patterns.
include-operation-id = "listUsage"
checks.positive_data_acceptance.enabled = false

[[operations]]
include-operation-id = "pruneUsage"
checks.positive_data_acceptance.enabled = false

[[operations]]
include-operation-id = "createVersion"
checks.positive_data_acceptance.enabled = false
checks.negative_data_rejection.enabled = false
"""


def test_schemathesis_finds_nothing(gateway: Gateway, tmp_path: Path) -> None:
    gateway.register("poet")
    gateway.register("poet", alpha=8)
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    found = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(tmp_path / "schemathesis.toml")),
            *("run", f"{gateway.url}/openapi.json", "-H", f"Authorization: Bearer {gateway.key}"),
            *("--phases", "examples,coverage,fuzzing,stateful" if LONG else "coverage,fuzzing"),
            *("--max-examples", "50" if LONG else "2", "--seed", "7", "--no-shrink", "--warnings", "off"),
            *("--suppress-health-check", "all", "--continue-on-failure"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=900 if LONG else 500,
        check=False,
    )
    assert found.returncode == 0, found.stdout[-20_000:] + found.stderr[-2_000:]

    assert gateway.http.get("/readyz").status_code == 200
