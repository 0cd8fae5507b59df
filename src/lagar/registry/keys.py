"""API keys in the catalog: created, listed, revoked. Only the SHA-256 of a key's secret part is stored."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

import msgspec
import sqlalchemy as sa

from lagar.errors import SetupError
from lagar.registry import tables
from lagar.registry.catalog import Catalog, record
from lagar.registry.catalog import who as own_name
from lagar.registry.secret import SCOPES, digest_of, new_key, write_key

MAX_NAME_LENGTH = 100


class InvalidKey(SetupError):
    """A key that cannot be created, or does not exist."""

    code = "key"


class Key(msgspec.Struct, frozen=True):
    """A key as the catalog knows it; times are Unix seconds."""

    id: str
    name: str
    digest: str
    scopes: tuple[str, ...]
    created_at: float
    created_by: str
    expires_at: float | None = None
    revoked_at: float | None = None
    revoked_by: str | None = None

    def state(self, now: float) -> str:
        """One of "active", "expired", "revoked"."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "active"


def create_key(
    catalog: Catalog, name: str, scopes: Sequence[str], *, expires_in_s: float | None = None, who: str | None = None
) -> tuple[Key, str]:
    """A new key and its text, `lagar_<id>_<secret>`, which is not stored and cannot be shown again."""
    if not name.strip() or len(name) > MAX_NAME_LENGTH or not name.isprintable():
        raise InvalidKey(f"a key's name must be 1 to {MAX_NAME_LENGTH} printable characters, got {name!r}")
    if not scopes:
        raise InvalidKey(f"a key needs at least one scope of {', '.join(SCOPES)}")
    for scope in scopes:
        if scope not in SCOPES:
            raise InvalidKey(f"a scope is one of {', '.join(SCOPES)}, got {scope!r}")
    author = who or own_name()
    now = time.time()
    key_id, secret = new_key()
    key = Key(
        id=key_id,
        name=name,
        digest=digest_of(secret),
        scopes=tuple(scope for scope in SCOPES if scope in scopes),
        created_at=now,
        created_by=author,
        expires_at=None if expires_in_s is None else now + expires_in_s,
    )
    with catalog.write() as connection:
        connection.execute(
            tables.keys.insert().values(
                id=key.id,
                name=key.name,
                digest=key.digest,
                scopes=json.dumps(key.scopes),
                created_at=key.created_at,
                created_by=key.created_by,
                expires_at=key.expires_at,
            )
        )
        record(connection, "key.create", key.id, author, name=name, scopes=key.scopes, expires_at=key.expires_at)
    return key, write_key(key_id, secret)


def list_keys(catalog: Catalog) -> list[Key]:
    """All keys, revoked ones too, oldest first."""
    with catalog.read() as connection:
        found = connection.execute(sa.select(tables.keys).order_by(tables.keys.c.created_at, tables.keys.c.id))
        return [Key(**{**row._mapping, "scopes": tuple(json.loads(row.scopes))}) for row in found]


def revoke_key(catalog: Catalog, key_id: str, *, who: str | None = None) -> Key:
    """Make a key invalid from now on; one that already is stays as it is. An unknown id is refused."""
    author = who or own_name()
    table = tables.keys
    with catalog.write() as connection:
        known = connection.execute(sa.select(table.c.revoked_at).where(table.c.id == key_id)).first()
        if known is None:
            raise InvalidKey(f"there is no key with the id {key_id!r}: `lagar keys list` shows the ids")
        if known.revoked_at is None:
            now = time.time()
            connection.execute(table.update().where(table.c.id == key_id).values(revoked_at=now, revoked_by=author))
            record(connection, "key.revoke", key_id, author)
    return next(key for key in list_keys(catalog) if key.id == key_id)
