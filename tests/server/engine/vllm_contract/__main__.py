"""Fetch the wheels of every supported vLLM, and write what each has of our contract: `make vllm-contract`.

The facts are kept in the repository (facts/0.32.json), so that `make test` needs no wheel of 330 MB. They say what a
version has; whether that is what we need is `test_contract`'s to say.
"""

from __future__ import annotations

import json
import sys

from loradock_server.engine.vllm_versions import SUPPORTED

from .contract import contract, facts
from .wheels import FACTS, fetched


def main() -> int:
    faults = 0
    for version in SUPPORTED:
        found = facts(version, fetched(version))
        (FACTS / f"{version}.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
        for item in contract(version):
            if fault := item.fault(found[item.key]):
                faults += 1
                sys.stdout.write(f"vLLM {version}: {item.key} {fault}\n")
    return min(faults, 1)


if __name__ == "__main__":
    sys.exit(main())
