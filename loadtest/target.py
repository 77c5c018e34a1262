"""Finds the server and its key as the command line does: option, environment, the running server's own note.

That note is `HOME/run/server.json` ({"url", "key"}), there while `loradock serve` runs; HOME is
LORADOCK_HOME, else ./var.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from loadtest.client import Target

DEFAULT_URL = "http://127.0.0.1:8000"


def find_target(url: str | None, environment: Mapping[str, str]) -> Target:
    """The server to drive. The note's key goes only to the note's own address, never to another server."""
    noted = _note(Path(environment.get("LORADOCK_HOME") or "var") / "run" / "server.json")
    url = (url or environment.get("LORADOCK_URL") or noted.url).rstrip("/").removesuffix("/v1")
    key = environment.get("LORADOCK_API_KEY") or (noted.key if url == noted.url else None)
    return Target(url, key)


def _note(path: Path) -> Target:
    try:
        with path.open(encoding="utf-8") as file:
            facts = os.fstat(file.fileno())
            if facts.st_uid != os.geteuid() or facts.st_mode & 0o077:
                return Target(DEFAULT_URL)  # not ours alone: it could send our key to a stranger's server
            note = json.load(file)
        return Target(str(note["url"]).rstrip("/"), str(note["key"]) if note.get("key") else None)
    except (OSError, ValueError, KeyError, TypeError):
        return Target(DEFAULT_URL)
