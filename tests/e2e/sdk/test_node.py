"""OpenAI's SDK for JavaScript and the real engine, by Node's own test runner."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.e2e.sdk.node_suite import installed
from tests.e2e.server import Server
from tests.e2e.waiting import eventually

pytestmark = pytest.mark.e2e


def test_the_sdk_for_javascript_is_served(server: Server) -> None:
    environment = {**os.environ, "LORADOCK_URL": server.url, "LORADOCK_API_KEY": server.key}
    command = ["node", "--test", "openai.test.mjs"]
    done = subprocess.run(
        command, cwd=installed(), env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    eventually(lambda: server.metric("loradock_requests_in_flight") == 0)
