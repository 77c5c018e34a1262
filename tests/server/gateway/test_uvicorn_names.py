"""Every name of uvicorn's own that our connection and our cycle use, in the uvicorn that is installed.

`make test-lowest` runs it with the lowest version that pyproject.toml allows, `make test` with the pinned one.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from typing import Any

import pytest
import uvicorn
from httptools import HttpRequestParser
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.server import ServerState

from loradock_server.gateway import client_connection, direct
from loradock_server.gateway.client_connection import ClientConnection
from loradock_server.gateway.direct import DirectCycle
from loradock_server.gateway.uvicorn_names import HttpToolsProtocol, RequestResponseCycle

# What we hold by an attribute of these two, and whose it is.
BEYOND = {
    "cycle": RequestResponseCycle,
    "flow": FlowControl,
    "parser": HttpRequestParser,
    "server_state": ServerState,
}


def parsed(thing: Any) -> ast.AST:
    return ast.parse(textwrap.dedent(inspect.getsource(thing)))


def has(kind: type) -> set[str]:
    """What a class and its bases define, declare, or put on themselves."""
    found = set(dir(kind))
    for base in kind.__mro__:
        found |= set(vars(base).get("__annotations__", {}))
        if base.__module__.startswith(("uvicorn", "loradock")):
            found |= stored(parsed(base))
    return found


def stored(tree: ast.AST) -> set[str]:
    return {one.attr for one in of_self(tree) if isinstance(one.ctx, ast.Store)}


def of_self(tree: ast.AST) -> list[ast.Attribute]:
    return [
        one
        for one in ast.walk(tree)
        if isinstance(one, ast.Attribute) and isinstance(one.value, ast.Name) and one.value.id == "self"
    ]


@pytest.mark.parametrize(
    ("ours", "theirs"), [(ClientConnection, HttpToolsProtocol), (DirectCycle, RequestResponseCycle)]
)
def test_what_we_read_of_ourselves_is_ours_or_uvicorn_has_it(ours: type, theirs: type) -> None:
    own = {name for name in (*vars(ours), *vars(ours).get("__annotations__", {})) if not hasattr(theirs, name)}
    tree = parsed(ours)
    mine = own | {name for name in stored(tree) if name.startswith("_")}
    used = {one.attr for one in of_self(tree)} - mine
    assert used - has(theirs) == set()
    assert {"transport", "scope"} <= used  # it looks


@pytest.mark.parametrize("module", [client_connection, direct])
def test_what_we_read_of_what_uvicorn_holds_is_there(module: Any) -> None:
    tree = parsed(module)
    for one in ast.walk(tree):
        if isinstance(one, ast.Attribute) and isinstance(one.value, ast.Attribute) and one.value.attr in BEYOND:
            kind: Any = BEYOND[one.value.attr]
            assert one.attr in has(kind) | has(DirectCycle), f"{kind.__name__} has no {one.attr}"


def test_a_cycle_takes_what_we_give_it() -> None:
    (call,) = [
        one
        for one in ast.walk(parsed(client_connection))
        if isinstance(one, ast.Call) and isinstance(one.func, ast.Name) and one.func.id == "DirectCycle"
    ]
    given = {keyword.arg for keyword in call.keywords}
    wanted = inspect.signature(RequestResponseCycle.__init__).parameters
    needed = {name for name, one in wanted.items() if one.default is one.empty and name != "self"}
    assert needed <= given <= set(wanted)
    assert list(inspect.signature(RequestResponseCycle.run_asgi).parameters) == ["self", "app"]


def test_what_we_override_uvicorn_calls() -> None:
    for name in ("connection_made", "connection_lost", "data_received", "on_message_begin", "on_url", "on_header"):
        assert name in vars(HttpToolsProtocol), name
    for name in ("on_headers_complete", "send_400_response", "pause_writing", "resume_writing", "on_response_complete"):
        assert name in vars(HttpToolsProtocol), name
    assert "timeout_keep_alive_handler" in vars(HttpToolsProtocol)
    assert "self.send_400_response(" in inspect.getsource(HttpToolsProtocol.data_received)
    assert "self.capture_signals()" in inspect.getsource(uvicorn.Server.serve)
    assert {"should_exit", "force_exit"} <= has(uvicorn.Server)
    assert {"http", "ws", "lifespan", "timeout_graceful_shutdown"} <= set(inspect.signature(uvicorn.Config).parameters)
