"""A model hub on a free port: the routes that huggingface_hub calls to look at a repository and to fetch its files.

Faithful enough because the real client library talks to it: it checks commits, sizes and headers itself. Files above
`LARGE` are announced by sha256, as the hub does for those in large file storage, others by git's name for them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.fakes.web import Answer, Web, file, status

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = 1000


def publish(
    web: Web,
    repo: str,
    files: Mapping[str, bytes],
    *,
    revisions: tuple[str, ...] = ("main",),
    commit: str = COMMIT,
    token: str | None = None,
) -> None:
    """Put a repository there; with `token`, for those who send it."""
    info = {
        "id": repo,
        "sha": commit,
        "private": token is not None,
        "siblings": [_entry(*pair) for pair in files.items()],
    }
    whole = status(200, json.dumps(info).encode(), content_type="application/json")
    for path in (f"/api/models/{repo}", *(f"/api/models/{repo}/revision/{name}" for name in (*revisions, commit))):
        web.on(path, _for(token, whole))
    for name, data in files.items():
        answer = file(data, etag=f'"{_etag(data)}"', x_repo_commit=commit)
        web.on(f"/{repo}/resolve/{commit}/{name}", _for(token, answer))


def missing(what: str) -> Answer:
    """The hub's 404, which says in a header what it is that is missing."""
    return status(404, b'{"error": "not found"}', x_error_code=what, content_type="application/json")


def _for(token: str | None, answer: Answer) -> Answer:
    def judged(handler: BaseHTTPRequestHandler) -> None:
        sent = handler.headers.get("authorization")
        if token is not None and sent != f"Bearer {token}":
            status(401, b"{}", x_error_code="RepoNotFound")(handler)
        else:
            answer(handler)

    return judged


def _entry(name: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": git_name(data)}
    if len(data) > LARGE:
        entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return entry


def _etag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest() if len(data) > LARGE else git_name(data)


def git_name(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
