"""A change of traffic over several servers: prepared by all that live, then committed once, or not at all.

prepare ──every live server has reported ok──→ committed
   ├──one could not load it────────────────→ failed
   └──60 s are over────────────────────────→ expired
"""

from __future__ import annotations

import json
from typing import Any, Final, Literal

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from lagar.errors import NotFound, PromoteRefused
from lagar.registry import leases, traffic
from lagar.registry.catalog import record
from lagar.registry.records import Who
from lagar.registry.tables import generations as table
from lagar.registry.tables import reports
from lagar.registry.traffic import Action, Split

PREPARE_S: Final = 60.0
State = Literal["prepare", "committed", "failed", "expired"]
_STATES: Final[dict[str, State]] = {
    "prepare": "prepare", "committed": "committed", "failed": "failed", "expired": "expired",
}  # fmt: skip


class Generation(msgspec.Struct, frozen=True):
    """One state of all traffic, proposed or real; times are Unix seconds by the catalog's clock."""

    n: int
    state: State
    traffic: dict[str, Split]
    """Everything that is live in it: model → weights and shadow."""
    reason: str = ""
    """Why it failed or expired."""
    model: str = ""
    """The model whose traffic it changes; "" for generation 0, where nothing has ever been live."""
    by: str = ""
    host: str = ""
    action: str = ""
    note: str = ""
    created_at: float = 0.0
    decided_at: float | None = None
    waiting: tuple[str, ...] = ()
    """Addresses of the live servers that have not reported; of one in preparation only."""


def propose(
    connection: Connection, model: str, split: Split, who: Who, *, action: Action, note: str, before: int | None,
    now: float,
) -> int:  # fmt: skip
    """A new generation in preparation, or committed at once where no server has to prepare it; its number."""
    expire(connection, now)
    other = connection.execute(sa.select(table).where(table.c.state == "prepare")).first()
    if other is not None:
        left = max(other.created_at + PREPARE_S - now, 0.0)
        raise PromoteRefused(
            f"{other.by} on {other.host} is changing the traffic of {other.model} to "
            f"{traffic.describe(_split(other))} (generation {other.n}, since {now - other.created_at:.0f} s): "
            f"try again when it is done, at the latest in {left:.0f} s"
        )
    n = int(connection.scalar(sa.select(sa.func.coalesce(sa.func.max(table.c.n), 0))) or 0) + 1
    connection.execute(
        table.insert().values(
            n=n, state="prepare", reason="", model=model, weights=json.dumps(split.weights), shadow=split.shadow,
            by=who.name, host=who.host, action=action, note=note, before=before, created_at=now,
        )
    )  # fmt: skip
    if not leases.quorum(connection, now):
        decide(connection, n, now)
    return n


def report(connection: Connection, n: int, server_id: str, ok: bool, reason: str, now: float) -> None:
    """What a server says of a generation; one that lives and could not prepare it makes it fail."""
    row = _row(connection, n)
    if row.state != "prepare":
        return
    where = (reports.c.generation == n, reports.c.server_id == server_id)
    connection.execute(reports.delete().where(*where))
    connection.execute(reports.insert().values(generation=n, server_id=server_id, ok=ok, reason=reason, at=now))
    url = leases.quorum(connection, now).get(server_id)
    if not ok and url is not None:
        _end(connection, row, "failed", f"{url}: {reason}", now)


def decide(connection: Connection, n: int, now: float) -> State:
    """Commit the generation if all have reported that must; its state after that. Who comes first decides."""
    row = _row(connection, n)
    if row.state != "prepare":
        return _state(row.state)
    if now >= row.created_at + PREPARE_S:
        expire(connection, now)
        return "expired"
    if waiting_for(connection, n, now):
        return "prepare"
    _end(connection, row, "committed", "", now)
    traffic.insert(
        connection,
        row.model,
        _split(row),
        generation=n,
        before=row.before,
        values={"at": now, "by": row.by, "host": row.host, "action": row.action, "note": row.note},
    )
    return "committed"


def expire(connection: Connection, now: float) -> bool:
    """End a preparation that has taken too long; whether there was one."""
    row = connection.execute(
        sa.select(table).where(table.c.state == "prepare", table.c.created_at <= now - PREPARE_S)
    ).first()
    if row is not None:
        _end(connection, row, "expired", _overdue(connection, row, now), now)
    return row is not None


def waiting_for(connection: Connection, n: int, now: float) -> tuple[str, ...]:
    """Addresses of the live servers that have not yet said that they are prepared."""
    done = set(connection.scalars(sa.select(reports.c.server_id).where(reports.c.generation == n, reports.c.ok)))
    return tuple(url for server_id, url in leases.quorum(connection, now).items() if server_id not in done)


def get(connection: Connection, n: int, now: float) -> Generation:
    """A generation as it stands; raises NotFound."""
    if n == 0:
        return Generation(n=0, state="committed", traffic={})
    row = _row(connection, n)
    overdue = row.state == "prepare" and now >= row.created_at + PREPARE_S
    snapshot = {model: line.split for model, line in traffic.at(connection, n).items()}
    if row.state != "committed":
        snapshot.pop(row.model, None)
        if row.weights != "{}":
            snapshot[row.model] = _split(row)
    return Generation(
        n=n,
        state="expired" if overdue else _state(row.state),
        traffic=dict(sorted(snapshot.items())),
        reason=_overdue(connection, row, now) if overdue else row.reason,
        model=row.model,
        by=row.by,
        host=row.host,
        action=row.action,
        note=row.note,
        created_at=row.created_at,
        decided_at=row.decided_at,
        waiting=waiting_for(connection, n, now) if row.state == "prepare" and not overdue else (),
    )


def last(connection: Connection) -> int:
    """The number of the last committed generation; 0 where nothing has ever been live."""
    return int(connection.scalar(sa.select(sa.func.max(table.c.n)).where(table.c.state == "committed")) or 0)


def in_preparation(connection: Connection, now: float) -> int | None:
    """The number of the generation that waits for servers."""
    query = sa.select(table.c.n).where(table.c.state == "prepare", table.c.created_at > now - PREPARE_S)
    return connection.scalar(query)


def _end(connection: Connection, row: Row[Any], state: State, reason: str, now: float) -> None:
    connection.execute(
        table.update()
        .where(table.c.n == row.n, table.c.state == "prepare")
        .values(state=state, reason=reason, decided_at=now)
    )
    connection.execute(reports.delete().where(reports.c.generation < row.n))
    what = row.action if state == "committed" else f"{row.action}.{state}"
    details = {"weights": json.loads(row.weights), "shadow": row.shadow, "generation": row.n, "host": row.host}
    if reason:
        details["reason"] = reason
    record(connection, what, row.model, row.by, **details)


def _overdue(connection: Connection, row: Row[Any], now: float) -> str:
    late = waiting_for(connection, row.n, now)
    whom = f"not answered: {', '.join(late)}" if late else "the servers that prepared it have ended"
    return f"not committed within {PREPARE_S:.0f} s; {whom}"


def _row(connection: Connection, n: int) -> Row[Any]:
    known = 0 <= n < 1 << 31  # what every database can be asked for
    row = connection.execute(sa.select(table).where(table.c.n == n)).first() if known else None
    if row is None:
        raise NotFound(f"there is no generation {n}")
    return row


def _split(row: Row[Any]) -> Split:
    return Split(json.loads(row.weights), row.shadow)


def _state(text: str) -> State:
    return _STATES[text]
