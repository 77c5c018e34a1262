"""Which server a client command talks to, and with which key. Knows files and environment, speaks no HTTP.

The key that a running server leaves in its home folder is sent to that server only, never to another `--url`.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from loradock_server.cli.errors import Unreadable
from loradock_server.cli.home import read_settings

DEFAULT_URL = "http://127.0.0.1:8000"
KEY_VARIABLE = "LORADOCK_API_KEY"
SERVER_FILE = "server.json"
KEY_FILE = "local.key"
_START_AGAIN = "remove it and start the server again"
_MAX_SERVER_FILE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Connection:
    """A server's address without a trailing slash, the key for it, and where the address came from.

    `key_file` holds the key for people to paste into other commands, if the running server left one.
    """

    url: str
    key: str | None = field(repr=False)
    origin: str
    key_file: Path | None = None


def find_connection(url: str | None, environment: Mapping[str, str] = os.environ) -> Connection:
    """The server and key from `--url`/LORADOCK_URL, LORADOCK_API_KEY and the running server's own file.

    Raises Unreadable when an address, a key or that file cannot be used.
    """
    key = _checked_key(environment.get(KEY_VARIABLE, ""))
    address = _checked_url(url) if url else None
    if address is not None and key is not None:
        return Connection(address, key, "--url or LORADOCK_URL")
    local = _running_server()
    if address is None:
        found = local or Connection(DEFAULT_URL, None, "the default")
        return found if key is None else Connection(found.url, key, found.origin)
    if local is not None and local.url == address:
        return local
    return Connection(address, None, "--url or LORADOCK_URL")


def _running_server() -> Connection | None:
    path = read_settings().run_dir / SERVER_FILE
    try:
        text = _read_private(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unreadable(
            f"cannot read {path}: {error.strerror}",
            fix=f"run this as the server's user, or set LORADOCK_URL and {KEY_VARIABLE}",
        ) from error
    try:
        record = json.loads(text)
        url, key = record["url"], record.get("key")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Unreadable(f"{path} is not a server file", fix=_START_AGAIN) from error
    if not isinstance(url, str) or not isinstance(key, str | None):
        raise Unreadable(f"{path} is not a server file", fix=_START_AGAIN)
    key_file = path.with_name(KEY_FILE)
    return Connection(_checked_url(url), _checked_key(key or ""), str(path), key_file if key_file.is_file() else None)


def _read_private(path: Path) -> bytes:
    """The file's bytes, if it is ours alone: a planted one could send our key to a stranger's server."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise Unreadable(f"{path} is not a regular file", fix=_START_AGAIN)
        if facts.st_uid != os.geteuid() or facts.st_mode & 0o077:
            raise Unreadable(
                f"{path} has mode {stat.S_IMODE(facts.st_mode):04o} and owner {facts.st_uid}; "
                f"it holds a key, so it must be 0600 and yours ({os.geteuid()})",
                fix=f"set LORADOCK_URL and {KEY_VARIABLE}, or start the server again",
            )
        return file.read(_MAX_SERVER_FILE_BYTES)


def _checked_url(url: str) -> str:
    hint = f"give it as http://host:port, for example {DEFAULT_URL}"
    try:
        parts = urlsplit(url)
        port_is_fine = parts.port is None or parts.port > 0
    except ValueError as error:
        raise Unreadable(f"server address {url!r}: {error}", fix=hint) from error
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_fine:
        raise Unreadable(f"server address {url!r} is not an http or https address", fix=hint)
    if parts.username is not None or parts.query or parts.fragment:
        raise Unreadable(
            "the server address carries a user, a query or a fragment",
            fix=f"{hint}; the key goes in {KEY_VARIABLE}",
        )
    if not url.isascii() or not url.isprintable() or " " in url:
        raise Unreadable(f"server address {url!r} has characters that no address has", fix=hint)
    # People paste the OpenAI SDK's base_url; the admin routes live beside /v1, not under it.
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def _checked_key(key: str) -> str | None:
    stripped = key.strip()
    if not stripped:
        return None
    if not (stripped.isascii() and stripped.isprintable()) or " " in stripped:
        raise Unreadable(
            f"{KEY_VARIABLE} has characters that no key has ({len(stripped)} characters)",
            fix="set it to the ld-… text alone, without quotes or line breaks",
        )
    return stripped
