"""docs/api.md, written from the OpenAPI document and the table of errors. It has no words of its own about any route.

The document needs the application's routes, and so an application: one on an empty registry, which serves nobody.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from opentelemetry.trace import NoOpTracerProvider
from starlette.routing import Route

from loradock_adapters.base_model import BaseModel
from loradock_adapters.registry import Registry
from loradock_adapters.store import FolderStore
from loradock_server.gateway.app import create_app
from loradock_server.gateway.errors import TABLE
from loradock_server.gateway.openapi import OPERATIONS, build_document
from loradock_server.gateway.openapi.operation import HEADERS
from loradock_server.settings import Settings

_HEAD = """# HTTP

<!-- Written by `make docs` from `/openapi.json` and the table of errors; change those, not this page. -->

Every running server describes itself at `/openapi.json` (OpenAPI 3.1), with parameters, bodies, every answer and every
error. This page is the overview.

Send a key as `Authorization: Bearer …`; its scope must be the one in the table (`loradock keys create NAME --scope …`).
Every answer but those of health and metrics has an `x-request-id`.

* **Lists** take `limit` and `after` and answer `has_more` and `last_id`: give that as `after` for the next page.
* **Changes** take `If-Match` with the `ETag` of what you saw. If somebody changed it meanwhile, the answer is 412, and
  nothing was done; `error.expected` and `error.current` have both states.
* **Bodies** are JSON unless the document says otherwise: anything else is 415, a key that comes twice 400.
* **Errors** are always `{"error": {"message", "type", "param", "code"}}`.
"""


def page() -> str:
    """The whole page, in Markdown."""
    document = offline_document()
    return "\n".join([_HEAD, *_routes(document), *_headers(), *_codes()]).rstrip() + "\n"


def offline_document() -> dict[str, Any]:
    """The document as a running gateway gives it."""
    base = BaseModel(Path(), "base", "0" * 64, "float32", "", 1, {})
    with TemporaryDirectory() as name:
        home = Path(name)
        registry = Registry.open(f"sqlite:///{home}/registry.db")
        settings = Settings(home=home)
        try:
            app = create_app(
                settings, registry, FolderStore(home / "store"), base, "", tracer_provider=NoOpTracerProvider()
            )
            return build_document(OPERATIONS, [route for route in app.routes if isinstance(route, Route)])
        finally:
            registry.close()


def _routes(document: Mapping[str, Any]) -> Iterator[str]:
    by_tag: dict[str, list[str]] = {}
    for path, operations in document["paths"].items():
        for method, said in operations.items():
            row = f"| `{method.upper()} {path}` | {said['summary']} | {_scope(said)} | {_statuses(said)} |"
            by_tag.setdefault(said["tags"][0], []).append(row)
    yield "## Routes\n"
    yield "Beside these statuses every route with a key can answer 401, 403, 500 and 503.\n"
    for tag, rows in by_tag.items():
        yield f"### {tag.capitalize()}\n\n| route | what it does | scope | answers |\n|---|---|---|---|"
        yield from (*rows, "")


def _scope(said: Mapping[str, Any]) -> str:
    return ", ".join(scope for one in said["security"] for scopes in one.values() for scope in scopes) or "none"


def _statuses(said: Mapping[str, Any]) -> str:
    ends = {"401", "403", "500", "503"} if said["security"] else {"500", "503"} if "401" in said["responses"] else set()
    return ", ".join(sorted(status for status in said["responses"] if status not in ends))


def _headers() -> Iterator[str]:
    yield "## Headers of answers\n\n| header | meaning |\n|---|---|"
    yield from (*(f"| `{name}` | {says} |" for name, says in HEADERS.items()), "")


def _codes() -> Iterator[str]:
    yield "## Codes of errors\n\n| status | `code` | when |\n|---|---|---|"
    rows = {(rule.status, rule.code or ""): _meaning(kind) for kind, rule in TABLE.items()}
    rows[405, "method_not_allowed"] = "The path does not take this method; `Allow` names those that it takes."
    for (status, code), says in sorted(rows.items()):
        yield f"| {status} | {f'`{code}`' if code else 'null'} | {says} |"


def _meaning(kind: type[BaseException]) -> str:
    if kind is Exception:
        return "A fault of ours; the log has it under the request id."
    says = inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0]
    # What follows says who sees it, or which attributes it has: for readers of the code.
    return " ".join(says.partition("; seen by")[0].partition("; `")[0].split()).rstrip(".").replace("|", "\\|") + "."
