"""One run of wrk (Debian's package of that name) against one target, and the time to a stream's first event."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from loadtest.gateway.servers import BenchError, Target

PATH = "/v1/chat/completions"

_SCRIPT = """
wrk.method = "POST"
wrk.body = [==[%s]==]
wrk.headers["content-type"] = "application/json"
%s
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\\n{"requests": %%d, "seconds": %%f, "p50": %%f, "p99": %%f, "errors": %%d}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


@dataclass(frozen=True, slots=True)
class Run:
    """Milliseconds and requests per second."""

    p50: float
    p99: float
    rate: float


def body_of(target: Target, *, stream: bool) -> str:
    """A chat request of everyday size."""
    asked = {
        "model": target.model,
        "messages": [
            {"role": "system", "content": "You are a helpful assistant. Answer in one short sentence."},
            {"role": "user", "content": "What is the capital of France, and why is it there? " * 4},
        ],
        "max_tokens": 64,
        "temperature": 0.2,
        **({"stream": True} if stream else {}),
    }
    return json.dumps(asked)


def run(target: Target, *, clients: int, seconds: int, stream: bool) -> Run:
    """Raises BenchError without wrk and for any request that failed."""
    program = shutil.which("wrk")
    if program is None:
        raise BenchError("wrk is not installed; on Debian: apt-get install wrk")
    headers = "\n".join(f'wrk.headers["{name}"] = [==[{value}]==]' for name, value in target.headers.items())
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "post.lua"
        script.write_text(_SCRIPT % (body_of(target, stream=stream), headers))
        url = f"http://127.0.0.1:{target.port}{PATH}"
        command = [program, "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout=30s", f"--script={script}", url]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        printed = done.stdout
        if done.returncode:
            raise BenchError(f"wrk failed: {done.stderr}{printed}")
    found = json.loads(printed.strip().splitlines()[-1])
    if found["errors"] or not found["requests"]:
        raise BenchError(f"{target.name}: {found['errors']} of {found['requests']} requests failed:\n{printed}")
    return Run(found["p50"], found["p99"], found["requests"] / found["seconds"])


def request_bytes(target: Target, body: bytes) -> bytes:
    """The whole request as it goes over a connection that is kept."""
    headers = {"host": "bench", "content-type": "application/json", "content-length": str(len(body)), **target.headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {PATH} HTTP/1.1\r\n{head}\r\n".encode() + body


def first_event(target: Target, *, seconds: float) -> float:
    """The median time to the first event of a stream, in milliseconds, one client on one connection."""
    request = request_bytes(target, body_of(target, stream=True).encode())
    found: list[float] = []
    with socket.create_connection(("127.0.0.1", target.port)) as connection:
        connection.settimeout(30)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        end = time.perf_counter() + seconds
        while not found or time.perf_counter() < end:
            began, first, seen = time.perf_counter(), 0.0, b""
            connection.sendall(request)
            while not seen.endswith(b"0\r\n\r\n"):
                more = connection.recv(1 << 16)
                if not more:
                    raise BenchError(f"{target.name} broke a stream off: {seen[-300:]!r}")
                seen += more
                if not first and b"data:" in seen:
                    first = time.perf_counter() - began
            found.append(first * 1000)
    return sorted(found)[len(found) // 2]
