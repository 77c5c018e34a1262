"""Every route that vLLM's own application has, walked through the guard: none answers without the gateway's token."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import httpx
import pytest
from starlette.routing import Mount

pytest.importorskip("vllm")

from loradock_server import wire
from loradock_server.engine import vllm_compat as compat_module
from loradock_server.engine.replies import Receive, Scope, Send
from tests.server.engine.test_guard import TOKEN, World

vllm_compat: Any = compat_module  # its imported names are used here, which it does not export

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
INTERNAL = [wire.STATE, wire.USAGE, wire.UNLOAD, wire.PINS, wire.METRICS, wire.PROBE]
# Every switch of vLLM's that opens further routes: they are not set by us, but an operator can give flags.
SETS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("generate",), ()),
    (("embed", "score"), ()),
    (("generate",), ("--enable-server-load-tracking", "--enable-tokenizer-info-endpoint")),
)


def paths_of(app: Any) -> set[str]:
    found = set()
    for route in app.routes:
        path = re.sub(r"\{[^}]+\}", "x1", route.path)
        found |= {path, f"{path}/x"} if isinstance(route, Mount) else {path}
    return found


@pytest.fixture(scope="module")
def paths() -> set[str]:
    """Of all applications that vLLM builds for these tasks and flags, with what it has for development."""
    found: set[str] = set()
    parser = vllm_compat.make_arg_parser(vllm_compat.FlexibleArgumentParser())
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("VLLM_SERVER_DEV_MODE", "1")
        environment.setenv("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "1")
        for tasks, flags in SETS:
            args = parser.parse_args(["--model", "x", *flags])
            found |= paths_of(vllm_compat.build_app(args, tasks, None))
    return found


def test_no_route_of_vllms_answers_without_the_token_and_few_do_with_it(paths: set[str]) -> None:
    assert {"/v1/chat/completions", "/metrics", "/v1/load_lora_adapter", "/openapi.json"} <= paths
    assert len(paths) > 30
    reached: list[str] = []

    async def vllm(scope: Scope, receive: Receive, send: Send) -> None:
        reached.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    async def walk(client: httpx.AsyncClient) -> None:
        for path in sorted({*paths, *INTERNAL}):
            for method in METHODS:
                for headers in ({wire.TOKEN: ""}, {wire.TOKEN: "wrong"}, {wire.TOKEN: "", "authorization": "secret"}):
                    answer = await client.request(method, path, headers=headers)
                    assert answer.status_code == 401, (method, path)
        assert reached == []
        for path in sorted(paths - set(INTERNAL)):
            answer = await client.post(path, headers=TOKEN)
            assert answer.status_code in (200, 400, 404), path
        live = await client.get(wire.LIVE, headers={wire.TOKEN: ""})
        assert live.json() == {"status": "alive"}

    async def main() -> None:
        world = World(vllm)
        async with world.client as client:
            await walk(client)

    asyncio.run(asyncio.wait_for(main(), 300))
    assert set(reached) <= wire.COMPUTING | wire.READING | {"/v1/models"}
    assert reached


def test_nothing_but_http_gets_in() -> None:
    async def vllm(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("it got in")

    said: list[Any] = []

    async def send(message: Any) -> None:
        said.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    scope = {"type": "websocket", "path": "/v1/realtime", "headers": [(wire.TOKEN.encode(), b"secret")]}
    asyncio.run(World(vllm).guard(scope, receive, send))
    assert said == [{"type": "websocket.close", "code": 1008}]
