"""Which servers are there: each renews a lease every second, and one that lapses no longer counts.

All times are by the clock of the catalog: those of the servers may differ.
"""

from __future__ import annotations

from typing import Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from lagar.registry.tables import servers as table

LEASE_S: Final = 10.0
_KEEP_S: Final = 3600.0
"""How long a server that is gone is still listed."""


class Server(msgspec.Struct, frozen=True):
    """One server on this catalog."""

    server_id: str
    url: str
    generation: int | None
    """What it serves; None while it starts: then no change waits for it."""
    ready: bool
    reason: str
    """Why it is not ready."""
    since: float
    """When it was first seen, or came back after a lapse."""
    expires_at: float
    alive: bool
    """False when its lease has lapsed."""


def renew(
    connection: Connection, server_id: str, url: str, generation: int | None, ready: bool, reason: str, now: float
) -> tuple[bool, bool]:
    """(whether the lease had lasted until now, whether anything is new that others should see)."""
    row = connection.execute(sa.select(table).where(table.c.server_id == server_id)).first()
    unbroken = row is not None and row.expires_at > now
    said = {"url": url, "generation": generation, "ready": ready, "reason": reason}
    values = {**said, "expires_at": now + LEASE_S}
    if row is None:
        connection.execute(table.delete().where(table.c.expires_at < now - _KEEP_S))
        connection.execute(table.insert().values(server_id=server_id, since=now, **values))
    else:
        since = row.since if unbroken else now
        connection.execute(table.update().where(table.c.server_id == server_id).values(since=since, **values))
    news = row is None or not unbroken or any(row._mapping[name] != value for name, value in said.items())
    return unbroken, news


def release(connection: Connection, server_id: str) -> None:
    """The server has ended: nothing waits for it any more."""
    connection.execute(table.delete().where(table.c.server_id == server_id))


def list_servers(connection: Connection, now: float) -> list[Server]:
    """All servers seen within the last hour, by address."""
    rows = connection.execute(sa.select(table).where(table.c.expires_at > now - _KEEP_S).order_by(table.c.url))
    return [Server(**row._mapping, alive=row.expires_at > now) for row in rows]


def quorum(connection: Connection, now: float) -> dict[str, str]:
    """Server id → address of those that a change of traffic waits for: a lease that lasts, and something served."""
    return {
        server.server_id: server.url
        for server in list_servers(connection, now)
        if server.alive and server.generation is not None
    }
