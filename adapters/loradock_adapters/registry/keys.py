"""API keys: who may call. Secrets leave this module once, when they are made; the table has their SHA-256.

A secret is 256 random bits, so a slow hash would protect nothing. It knows no HTTP and no rights beyond the
two scopes.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import select, tuple_
from sqlalchemy.orm import Session

from loradock_adapters.errors import KeyNotFound, RegistryError
from loradock_adapters.registry.audit import MAX_PAGE, Action, Actor, note
from loradock_adapters.registry.conditions import IfMatch
from loradock_adapters.registry.database import Database
from loradock_adapters.registry.tables import KeyRow

ADMIN = "admin"
INFERENCE = "inference"
SCOPES = frozenset({ADMIN, INFERENCE})

_MAX_SECRET = 512  # characters; longer ones are not hashed at all
_STRONG_SECRET = 16
_ID = re.compile(r"key-[0-9a-f]{12}")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What may be shown of a key. `prefix` is the start of the secret, to recognise it by; times are UTC."""

    id: str
    name: str
    scopes: frozenset[str]
    prefix: str
    created_at: datetime
    revoked_at: datetime | None

    @property
    def revision(self) -> int:
        """1, and 2 once it is revoked: nothing else of a key ever changes."""
        return 1 if self.revoked_at is None else 2


class KeyTable:
    """The registry's API keys; thread-safe. Every method may raise RegistryError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, name: str, scopes: Iterable[str], *, by: Actor) -> tuple[KeyRecord, str]:
        """Make a key and return it with its secret, which cannot be read again."""
        wanted = frozenset(scopes)
        if not wanted or not wanted <= SCOPES:
            raise RegistryError(f"scopes {sorted(wanted)} are not allowed; choose from {sorted(SCOPES)}")
        if not 1 <= len(name) <= 100 or not name.isprintable():
            raise RegistryError(f"key name {name[:80]!r} is not allowed; use 1 to 100 printable characters")
        secret = _new_secret()
        with self._database.write() as session:
            row = _add(session, name, wanted, secret, by)
        return _record(row), secret

    def ensure_admin(self, secret: str | None = None) -> str | None:
        """On the first start make the admin key, with this secret or a new one, and return the secret.

        Returns None if there has ever been an admin key: a revoked secret never comes back by restarting.
        """
        if secret is not None and not _fits_a_header(secret):
            raise RegistryError(
                f"the admin key must be 1 to {_MAX_SECRET} visible ASCII characters, no space; choose another"
            )
        with self._database.write() as session:
            if any(ADMIN in row.scopes for row in session.scalars(select(KeyRow))):
                session.rollback()
                return None
            chosen = secret or _new_secret()
            _add(session, "first admin", frozenset({ADMIN, INFERENCE}), chosen, Actor("first start"))
        if len(chosen) < _STRONG_SECRET:
            _log.warning(
                "the chosen admin key has %d characters; %d or more resist guessing",
                len(chosen),
                _STRONG_SECRET,
            )
        return chosen

    def verify(self, secret: str) -> KeyRecord | None:
        """The key with this secret, or None if there is none or it was revoked."""
        if not _fits_a_header(secret):
            return None
        digest = _sha256(secret)
        with self._database.read() as session:
            row = session.scalar(select(KeyRow).where(KeyRow.secret_sha256 == digest))
        # The index compares hashes, which tell nothing of the secret; this comparison leaks no time either.
        if row is None or not hmac.compare_digest(row.secret_sha256, digest) or row.revoked_at is not None:
            return None
        return _record(row)

    def get(self, id: str) -> KeyRecord:
        """The key, revoked or not. Raises KeyNotFound."""
        with self._database.read() as session:
            return _record(_require(session, id))

    def page(self, *, after: str | None = None, limit: int = 100) -> tuple[KeyRecord, ...]:
        """Keys, revoked ones too, oldest first: those that follow `after`. Raises KeyNotFound for no such key."""
        wanted = select(KeyRow).order_by(KeyRow.created_at, KeyRow.id).limit(max(1, min(limit, MAX_PAGE)))
        with self._database.read() as session:
            if after is not None:
                last = _require(session, after)
                wanted = wanted.where(tuple_(KeyRow.created_at, KeyRow.id) > tuple_(last.created_at, last.id))
            return tuple(_record(row) for row in session.scalars(wanted))

    def list(self) -> tuple[KeyRecord, ...]:
        """Every key, revoked ones too, oldest first."""
        with self._database.read() as session:
            rows = session.scalars(select(KeyRow).order_by(KeyRow.created_at, KeyRow.id)).all()
        return tuple(_record(row) for row in rows)

    def revoke(self, id: str, *, by: Actor, if_match: IfMatch | None = None) -> KeyRecord:
        """End a key for good; ending it twice changes nothing.

        Raises KeyNotFound, ChangedMeanwhile, and RegistryError for the last admin key, which would lock everybody out.
        """
        with self._database.write() as session:
            row = _require(session, id)
            if if_match is not None:
                there = _record(row)
                revoked = {"revision": there.revision, "revoked": there.revoked_at is not None}
                if_match.require(f"key {id}", there.revision, revoked)
            if row.revoked_at is not None:
                record = _record(row)
                session.rollback()
                return record
            active = session.scalars(select(KeyRow).where(KeyRow.revoked_at.is_(None), KeyRow.id != id))
            if ADMIN in row.scopes and not any(ADMIN in other.scopes for other in active):
                raise RegistryError(f"key {id!r} is the last admin key; create another one before revoking it")
            row.revoked_at = datetime.now(UTC)
            note(session, by, Action.KEY_REVOKED, before=_shown(row))
        return _record(row)


def _require(session: Session, id: str) -> KeyRow:
    row = session.get(KeyRow, id) if _ID.fullmatch(id) else None
    if row is None:
        raise KeyNotFound(f"no API key has the id {id[:80]!r}; list them with `loradock keys list`")
    return row


def _add(session: Session, name: str, scopes: frozenset[str], secret: str, by: Actor) -> KeyRow:
    row = KeyRow(
        id=f"key-{secrets.token_hex(6)}",
        name=name,
        scopes=sorted(scopes),
        # Never more than a third, for secrets that somebody chose.
        prefix=secret[: min(11, len(secret) // 3)],
        secret_sha256=_sha256(secret),
        created_at=datetime.now(UTC),
        revoked_at=None,
    )
    session.add(row)
    note(session, by, Action.KEY_CREATED, after=_shown(row))
    return row


def _shown(row: KeyRow) -> dict[str, object]:
    return {"id": row.id, "name": row.name, "scopes": row.scopes}


def _new_secret() -> str:
    return f"ld-{secrets.token_urlsafe(32)}"


def _fits_a_header(secret: str) -> bool:
    return 1 <= len(secret) <= _MAX_SECRET and secret.isascii() and secret.isprintable() and " " not in secret


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode("ascii")).hexdigest()


def _record(row: KeyRow) -> KeyRecord:
    return KeyRecord(row.id, row.name, frozenset(row.scopes), row.prefix, row.created_at, row.revoked_at)
