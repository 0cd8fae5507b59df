"""The catalog in PostgreSQL, for several servers on one catalog.

Writers take turns, as on SQLite: each locks the one row of `changes` first, and READ COMMITTED lets every statement
after that see all that was committed before. So there is no serialisation failure that a caller would have to repeat.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.engine import Connection

from lagar.errors import CatalogAway, MissingLibrary, SettingsError
from lagar.registry.tables import changes

if TYPE_CHECKING:
    import psycopg

CHANNEL: Final = "lagar_changed"
CONNECT_TIMEOUT_S: Final = 5
LOCK_TIMEOUT_S: Final = 10
_IDLE_TIMEOUT_S: Final = 60
"""A writer that stands still, stopped or cut off, is thrown out: the others wait for its lock."""
_MIGRATION_LOCK: Final = 5_240_271
_NETWORK: Final = {
    "connect_timeout": CONNECT_TIMEOUT_S,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
"""A server that vanishes without a word is noticed within about ten seconds."""


class PostgresDatabase:
    """The database that a postgresql:// URL names."""

    def __init__(self, url: str) -> None:
        try:
            import psycopg
        except ImportError:
            raise MissingLibrary(
                "LAGAR_CATALOG names a PostgreSQL catalog, which needs psycopg: pip install 'lagar[postgres]'"
            ) from None
        self._psycopg = psycopg
        self.url = _parsed(url)
        self.path: Path | None = None
        self.name = f"the catalog {self.url.set(drivername='postgresql').render_as_string(hide_password=True)}"
        self.engine = sa.create_engine(
            self.url,
            isolation_level="READ COMMITTED",
            pool_pre_ping=True,  # a restarted server costs one look, not one failed call
            pool_timeout=LOCK_TIMEOUT_S,
            connect_args=dict(_NETWORK),
        )
        event.listen(self.engine, "connect", _prepare)
        self._watch_lock = threading.Lock()
        self._watch: psycopg.Connection[Any] | None = None
        self._count = -1

    def revision(self) -> str | None:
        """The revision of the schema, None for an empty database."""
        with self.engine.connect() as connection:
            if connection.scalar(sa.text("SELECT to_regclass('alembic_version')")) is None:
                return None
            found = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
            return None if found is None else str(found)

    @contextlib.contextmanager
    def migrating(self) -> Iterator[Connection]:
        """A transaction that is alone among all that would change the schema."""
        with self.engine.connect() as connection, connection.begin():
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
            yield connection

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that sees one state."""
        snapshot = self.engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        with snapshot.connect() as connection, connection.begin():
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that is alone from its first statement."""
        with self.engine.connect() as connection, connection.begin():
            connection.execute(sa.select(changes.c.n).with_for_update())
            yield connection

    def announce(self, connection: Connection) -> None:
        """Tell everyone who listens, when this transaction is committed."""
        connection.execute(sa.select(sa.func.pg_notify(CHANNEL, "")))

    def now(self, connection: Connection) -> float:
        """The database's clock: those of the servers may differ."""
        return float(connection.execute(_NOW).scalar_one())

    def changed(self) -> bool:
        """Whether the count of changes is another one than at the last call; no question is sent while nothing is."""
        return self._look(0.0)

    def wait_changed(self, timeout_s: float) -> bool:
        """Wait until someone tells of a change, for at most this long."""
        deadline = time.monotonic() + timeout_s
        while not self._look(max(deadline - time.monotonic(), 0.0)):
            if time.monotonic() >= deadline:
                return False
        return True

    def _look(self, timeout_s: float) -> bool:
        with self._watch_lock, self.explained():
            try:
                if self._watch is None:
                    self._watch = self._listen()
                elif not list(self._watch.notifies(timeout=timeout_s, stop_after=1)):
                    return False
                row = self._watch.execute("SELECT n FROM changes").fetchone()
            except self._psycopg.Error:
                self._stop_watching()  # the next look connects again, and compares the count
                raise
            seen, self._count = self._count, int(row[0]) if row else 0
            return self._count != seen

    def _listen(self) -> psycopg.Connection[Any]:
        plain = self.url.set(drivername="postgresql").render_as_string(hide_password=False)
        connection = self._psycopg.connect(plain, autocommit=True, **_NETWORK)  # type: ignore[arg-type]
        connection.execute(f"LISTEN {CHANNEL}")
        return connection

    def _stop_watching(self) -> None:
        if self._watch is not None:
            with contextlib.suppress(self._psycopg.Error):
                self._watch.close()
            self._watch = None

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Turn the database's errors about itself into errors with a next step; others are ours and go on."""
        try:
            yield
        except (exc.DBAPIError, exc.TimeoutError, self._psycopg.Error) as error:
            cause = getattr(error, "orig", None) or error
            state = getattr(cause, "sqlstate", None)
            if state == "55P03":
                raise CatalogAway(
                    f"{self.name} was kept busy by another writer for {LOCK_TIMEOUT_S} s: try again, "
                    "or see pg_stat_activity for who holds it"
                ) from None
            if state == "42501":
                raise SettingsError(f"{self.name} refuses this user: {_line(cause)}; grant it the rights") from None
            if isinstance(cause, (self._psycopg.OperationalError, self._psycopg.InterfaceError, exc.TimeoutError)):
                raise CatalogAway(
                    f"{self.name} cannot be reached: {_line(cause)}; see that PostgreSQL runs there "
                    "and that LAGAR_CATALOG names it"
                ) from None
            raise

    def close(self) -> None:
        with self._watch_lock:
            self._stop_watching()
        self.engine.dispose()


_NOW: Final = sa.text("SELECT CAST(extract(epoch FROM clock_timestamp()) AS double precision)")


def _prepare(connection: psycopg.Connection[Any], _record: object) -> None:
    """Time-outs of a new connection; not as start-up options, which a pooler in between refuses."""
    connection.execute(f"SET lock_timeout = '{LOCK_TIMEOUT_S}s'")
    connection.execute(f"SET idle_in_transaction_session_timeout = '{_IDLE_TIMEOUT_S}s'")
    connection.commit()


def _parsed(url: str) -> sa.URL:
    try:
        return sa.make_url(url).set(drivername="postgresql+psycopg")
    except (exc.ArgumentError, ValueError):
        raise SettingsError(
            "LAGAR_CATALOG cannot be read as a URL: postgresql://USER:PASSWORD@HOST:5432/DATABASE is wanted"
        ) from None


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].strip().rstrip(".") if lines else type(error).__name__
