"""API keys: who may call. Secrets leave this module once, when they are made; the tables have their SHA-256.

It knows no HTTP: what a key's settings mean for a request, the gateway knows.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import bindparam, delete, func, or_, select, tuple_, update
from sqlalchemy.orm import Session

from loradock_adapters.errors import InvalidSettings, KeyConflict, KeyNotFound, RegistryError
from loradock_adapters.faults import Fault
from loradock_adapters.key_settings import ADMIN, INFER, KeySettings
from loradock_adapters.rate_limits import NO_LIMITS, RateLimits
from loradock_adapters.registry.audit import MAX_PAGE, Action, Actor, note
from loradock_adapters.registry.conditions import IfMatch
from loradock_adapters.registry.database import Database
from loradock_adapters.registry.key_ring import Held, KeyRecord, KeyRing
from loradock_adapters.registry.key_secrets import (
    MAX_SECRET,
    STRONG_SECRET,
    fits_a_header,
    new_secret,
    prefix_of,
    sha256_of,
)
from loradock_adapters.registry.tables import KeyRow, OldSecretRow, StateRow

GRACE = timedelta(hours=24)
MAX_GRACE = timedelta(days=30)

_ID = re.compile(r"key-[0-9a-f]{12}")
_log = logging.getLogger(__name__)


class KeyTable:
    """The registry's API keys; thread-safe. Every method may raise RegistryError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, said: Mapping[str, Any], *, by: Actor) -> tuple[KeyRecord, str]:
        """Make a key and return it with its secret, which cannot be read again. Raises InvalidSettings."""
        settings = KeySettings.new(said, datetime.now(UTC))
        secret = new_secret()
        with self._database.write() as session:
            row = _add(session, settings, secret, by)
        return _record(row), secret

    def ensure_admin(self, secret: str | None = None) -> str | None:
        """On the first start make the admin key, with this secret or a new one, and return the secret.

        Returns None if there has ever been an admin key: a revoked secret never comes back by restarting.
        """
        if secret is not None and not fits_a_header(secret):
            raise RegistryError(
                f"the admin key must be 1 to {MAX_SECRET} visible ASCII characters, no space; choose another"
            )
        with self._database.write() as session:
            if any(ADMIN in row.scopes for row in session.scalars(select(KeyRow))):
                session.rollback()
                return None
            chosen = secret or new_secret()
            settings = KeySettings(name="first admin", scopes=(ADMIN, INFER))
            _add(session, settings, chosen, Actor("first start"))
        if len(chosen) < STRONG_SECRET:
            _log.warning(
                "the chosen admin key has %d characters; %d or more resist guessing", len(chosen), STRONG_SECRET
            )
        return chosen

    def ring(self, since: KeyRing | None = None) -> KeyRing:
        """Every secret that opens something now. With an earlier ring only the keys that changed are read."""
        before = since or KeyRing()
        with self._database.read() as session:
            revision = session.scalars(select(StateRow.revision)).one()
            if revision == before.revision:
                return before
            changed = KeyRow.revision > before.revision
            rows = session.scalars(select(KeyRow).where(changed)).all()
            old = session.scalars(select(OldSecretRow).join(KeyRow, KeyRow.id == OldSecretRow.key_id).where(changed))
            ended = list(old)
        records = {row.id: _record(row) for row in rows}
        if not records:
            return KeyRing(revision, before.secrets)
        found = {digest: held for digest, held in before.secrets.items() if held.key.id not in records}
        for row in rows:
            if row.revoked_at is None:
                digest = bytes.fromhex(row.secret_sha256)
                found[digest] = Held(records[row.id], digest)
        for one in ended:
            if records[one.key_id].revoked_at is None:
                digest = bytes.fromhex(one.secret_sha256)
                found[digest] = Held(records[one.key_id], digest, one.ends_at)
        return KeyRing(revision, found)

    def get(self, id: str) -> KeyRecord:
        """The key, revoked or not. Raises KeyNotFound."""
        with self._database.read() as session:
            return _shown(session, [_require(session, id)])[0]

    def page(self, *, after: str | None = None, limit: int = 100, begins: str = "") -> tuple[KeyRecord, ...]:
        """Keys, revoked ones too, oldest first: those that follow `after`, and whose prefix `begins` so.

        Raises KeyNotFound for no such key as `after`.
        """
        wanted = select(KeyRow).order_by(KeyRow.created_at, KeyRow.id).limit(max(1, min(limit, MAX_PAGE)))
        if begins:
            wanted = wanted.where(func.substr(KeyRow.prefix, 1, len(begins)) == begins)
        with self._database.read() as session:
            if after is not None:
                last = _require(session, after)
                wanted = wanted.where(tuple_(KeyRow.created_at, KeyRow.id) > tuple_(last.created_at, last.id))
            return tuple(_shown(session, session.scalars(wanted)))

    def list(self) -> tuple[KeyRecord, ...]:
        """Every key, revoked ones too, oldest first."""
        with self._database.read() as session:
            return tuple(_shown(session, session.scalars(select(KeyRow).order_by(KeyRow.created_at, KeyRow.id))))

    def change(
        self, id: str, patch: Mapping[str, Any], *, by: Actor, if_match: IfMatch | None = None
    ) -> tuple[KeyRecord, bool]:
        """Merge a JSON merge patch into what is said of a key; False with it when that changes nothing.

        Raises KeyNotFound, InvalidSettings, ChangedMeanwhile, and KeyConflict for a revoked key or the last admin key.
        """
        now = datetime.now(UTC)
        with self._database.write() as session:
            row = _require(session, id)
            _meet(if_match, row)
            before = _settings(row)
            after = before.patched(patch, now)
            if after == before:
                record = _shown(session, [row])[0]
                session.rollback()
                return record, False
            _require_unrevoked(row)
            if _is_lasting_admin(row) and (ADMIN not in after.scopes or after.expires_at is not None):
                _require_another_admin(session, row, "taking the admin scope from it or letting it expire")
            _say(row, after)
            row.revision = session.info["revision"]
            old, new = before.document(), after.document()
            names = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
            note(
                session,
                by,
                Action.KEY_CHANGED,
                before={"id": row.id, **{name: old.get(name) for name in names}},
                after={"id": row.id, **{name: new.get(name) for name in names}},
            )
            record = _shown(session, [row])[0]
        return record, True

    def rotate(
        self, id: str, *, by: Actor, grace: timedelta = GRACE, if_match: IfMatch | None = None
    ) -> tuple[KeyRecord, str]:
        """Give a key a new secret, which is returned with it. Earlier ones end after `grace`, at once for none.

        Raises KeyNotFound, ChangedMeanwhile, InvalidSettings for a grace that is too long, KeyConflict for a revoked
        or expired key.
        """
        if not timedelta() <= grace <= MAX_GRACE:
            limit = f"must be from 0 to {int(MAX_GRACE.total_seconds())} seconds"
            value = str(int(grace.total_seconds()))
            raise InvalidSettings((Fault("invalid_setting", "grace", value, limit, "give fewer"),))
        now = datetime.now(UTC)
        secret, ends_at = new_secret(), now + grace
        with self._database.write() as session:
            row = _require(session, id)
            _meet(if_match, row)
            _require_unrevoked(row)
            if row.expires_at is not None and row.expires_at <= now:
                raise KeyConflict(
                    f"key {id!r} expired at {row.expires_at.isoformat()}; give it a later expiry before a new secret"
                )
            session.execute(delete(OldSecretRow).where(OldSecretRow.key_id == id, OldSecretRow.ends_at <= now))
            earlier = update(OldSecretRow).where(OldSecretRow.key_id == id, OldSecretRow.ends_at > ends_at)
            session.execute(earlier.values(ends_at=ends_at))
            if grace:
                session.add(OldSecretRow(secret_sha256=row.secret_sha256, key_id=id, ends_at=ends_at))
            before = row.prefix
            row.secret_sha256, row.prefix = sha256_of(secret).hex(), prefix_of(secret)
            row.revision = session.info["revision"]
            grace_seconds = int(grace.total_seconds())
            note(
                session,
                by,
                Action.KEY_ROTATED,
                before={"id": row.id, "name": row.name, "prefix": before},
                after={"id": row.id, "name": row.name, "prefix": row.prefix, "grace_seconds": grace_seconds},
            )
            session.flush()
            record = _shown(session, [row])[0]
        return record, secret

    def revoke(self, id: str, *, by: Actor, if_match: IfMatch | None = None) -> KeyRecord:
        """End a key for good, with every secret it has; ending it twice changes nothing.

        Raises KeyNotFound, ChangedMeanwhile, and KeyConflict for the last admin key, which would lock everybody out.
        """
        with self._database.write() as session:
            row = _require(session, id)
            _meet(if_match, row)
            if row.revoked_at is not None:
                record = _shown(session, [row])[0]
                session.rollback()
                return record
            if _is_lasting_admin(row):
                _require_another_admin(session, row, "revoking it")
            row.revoked_at = datetime.now(UTC)
            row.revision = session.info["revision"]
            session.execute(delete(OldSecretRow).where(OldSecretRow.key_id == id))
            note(session, by, Action.KEY_REVOKED, before=_told(row))
        return _record(row)

    def note_uses(self, uses: Mapping[str, datetime]) -> None:
        """Keys by id that were used, and when last; an earlier moment than is known changes nothing."""
        if not uses:
            return
        later = or_(KeyRow.last_used_at.is_(None), KeyRow.last_used_at < bindparam("at"))
        noted = update(KeyRow.__table__).where(KeyRow.id == bindparam("key"), later)  # type: ignore[arg-type]
        # In one order, so that gateways which do this at the same time do not wait for each other in a ring.
        rows = [{"key": id, "at": uses[id]} for id in sorted(uses)]
        with self._database.aside() as session:
            session.connection().execute(noted.values(last_used_at=bindparam("at")), rows)


def _require(session: Session, id: str) -> KeyRow:
    row = session.get(KeyRow, id) if _ID.fullmatch(id) else None
    if row is None:
        raise KeyNotFound(f"no API key has the id {id[:80]!r}; list them with `loradock keys list`")
    return row


def _require_unrevoked(row: KeyRow) -> None:
    if row.revoked_at is not None:
        raise KeyConflict(f"key {row.id!r} was revoked at {row.revoked_at.isoformat()}, for good; make another one")


def _meet(if_match: IfMatch | None, row: KeyRow) -> None:
    if if_match is not None:
        there = {"revision": row.revision, "revoked": row.revoked_at is not None, "settings": _settings(row).document()}
        if_match.require(f"key {row.id}", row.revision, there)


def _is_lasting_admin(row: KeyRow) -> bool:
    return ADMIN in row.scopes and row.revoked_at is None and row.expires_at is None


def _require_another_admin(session: Session, row: KeyRow, before_what: str) -> None:
    others = session.scalars(select(KeyRow).where(KeyRow.revoked_at.is_(None), KeyRow.id != row.id))
    if not any(_is_lasting_admin(other) for other in others):
        raise KeyConflict(
            f"key {row.id!r} is the last admin key that does not expire; create another one before {before_what}"
        )


def _add(session: Session, settings: KeySettings, secret: str, by: Actor) -> KeyRow:
    row = KeyRow(
        id=f"key-{secrets.token_hex(6)}",
        prefix=prefix_of(secret),
        secret_sha256=sha256_of(secret).hex(),
        created_at=datetime.now(UTC),
        revoked_at=None,
        last_used_at=None,
        revision=session.info["revision"],
    )
    _say(row, settings)
    session.add(row)
    note(session, by, Action.KEY_CREATED, after=_told(row))
    return row


def _say(row: KeyRow, settings: KeySettings) -> None:
    row.name, row.scopes, row.tenant = settings.name, list(settings.scopes), settings.tenant
    row.adapters = None if settings.adapters is None else list(settings.adapters)
    row.expires_at, row.limits = settings.expires_at, settings.limits.document()


def _settings(row: KeyRow) -> KeySettings:
    # Not judged again: what was right when it was said may not lock a key out after the rules have changed.
    return KeySettings.model_construct(
        name=row.name,
        scopes=tuple(row.scopes),
        tenant=row.tenant,
        adapters=None if row.adapters is None else tuple(row.adapters),
        expires_at=row.expires_at and row.expires_at.astimezone(UTC),
        limits=RateLimits.read(row.limits) if row.limits else NO_LIMITS,
    )


def _told(row: KeyRow) -> dict[str, object]:
    return {"id": row.id, **_settings(row).document()}


def _record(row: KeyRow, old_secret_until: datetime | None = None) -> KeyRecord:
    return KeyRecord(
        row.id,
        _settings(row),
        row.prefix,
        row.revision,
        row.created_at,
        row.revoked_at,
        row.last_used_at,
        old_secret_until,
    )


def _shown(session: Session, rows: Iterable[KeyRow]) -> list[KeyRecord]:
    """Records with what is known of earlier secrets; of all that are good, not of these rows only."""
    good = select(OldSecretRow.key_id, func.max(OldSecretRow.ends_at)).where(OldSecretRow.ends_at > datetime.now(UTC))
    until = {key: ends_at for key, ends_at in session.execute(good.group_by(OldSecretRow.key_id))}
    return [_record(row, until.get(row.id)) for row in rows]
