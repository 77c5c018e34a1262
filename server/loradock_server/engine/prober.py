"""Asks an engine for a sign of life over its socket. Knows the liveness route and nothing else of it."""

from __future__ import annotations

import asyncio

from loradock_server import wire

_REQUEST = f"GET {wire.LIVE} HTTP/1.1\r\nhost: engine\r\nconnection: close\r\n\r\n".encode()


async def answers(address: str, timeout_seconds: float) -> bool:
    """True when the engine at unix:/path or http://host:port says in time that it is alive; never raises for less."""
    try:
        async with asyncio.timeout(timeout_seconds):
            reader, writer = await _connect(address)
            try:
                writer.write(_REQUEST)
                line = await reader.readline()
            finally:
                writer.close()
    except (OSError, ValueError, TimeoutError):
        return False
    return line.split()[1:2] == [b"200"]


async def _connect(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if address.startswith("unix:"):
        return await asyncio.open_unix_connection(address.removeprefix("unix:"))
    host, _, port = address.removeprefix("http://").rpartition(":")
    return await asyncio.open_connection(host.strip("[]"), int(port))
