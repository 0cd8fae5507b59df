"""The catalog: what Lagar remembers, in SQL. Opened by supervisor, control and the command line, never by a worker.

An SQLite file in the home (`sqlite.py`), or PostgreSQL where LAGAR_CATALOG names one (`postgres.py`). On both, writers
take turns: what a write reads is true until it commits.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Connection, Engine

import lagar
from lagar import settings
from lagar.errors import HomeError, SettingsError
from lagar.registry.home import Home, open_home
from lagar.registry.tables import audit, changes
from lagar.registry.tables import settings as settings_table

REVISIONS: Final = ("0001", "0002")
"""Every revision of the schema that this Lagar knows; it works with the last. One script each in migrations/."""
WRITER: Final = "lagar_version"
"""The setting that names the Lagar which last changed the schema."""


class Database(Protocol):
    """What SQLite and PostgreSQL do each in its own way."""

    name: str
    """How errors call it: "the catalog ~/.lagar/catalog.db", without a password."""
    path: Path | None
    """The file, where it is one."""
    engine: Engine

    def revision(self) -> str | None: ...
    def migrating(self) -> contextlib.AbstractContextManager[Connection]: ...
    def reading(self) -> contextlib.AbstractContextManager[Connection]: ...
    def writing(self) -> contextlib.AbstractContextManager[Connection]: ...
    def announce(self, connection: Connection) -> None: ...
    def now(self, connection: Connection) -> float: ...
    def changed(self) -> bool: ...
    def wait_changed(self, timeout_s: float) -> bool: ...
    def explained(self) -> contextlib.AbstractContextManager[None]: ...
    def close(self) -> None: ...


class Catalog:
    """An open catalog; close it, or use it as a context manager. Threads may share it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.name = database.name
        self.path = database.path
        self.changed()  # from here on

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the catalog. Raises CatalogAway when it cannot be reached."""
        with self._database.explained(), self._database.reading() as connection:
            yield connection

    @contextlib.contextmanager
    def write(self, *, quiet: bool = False) -> Iterator[Connection]:
        """A transaction that may write, alone from its first statement; it waits for another's end.

        `quiet` is for what nobody has to look at: `changed` does not tell of it. Raises CatalogAway.
        """
        with self._database.explained(), self._database.writing() as connection:
            yield connection
            if not quiet:
                self.tell(connection)

    def tell(self, connection: Connection) -> None:
        """Make this transaction one that `changed` tells of; for a quiet one that has found something to say."""
        connection.execute(changes.update().values(n=changes.c.n + 1))
        self._database.announce(connection)

    def now(self, connection: Connection) -> float:
        """Unix seconds by the one clock that all servers on this catalog share."""
        return self._database.now(connection)

    def changed(self) -> bool:
        """Whether anything was committed, by any process, since the last call or the opening.

        Microseconds while nothing is written. Raises CatalogAway.
        """
        return self._database.changed()

    def wait_changed(self, timeout_s: float) -> bool:
        """Like `changed`, but waits for a change at most this long. Raises CatalogAway at once."""
        return self._database.wait_changed(timeout_s)

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> Catalog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_catalog(home: Path | Home, url: str | None = None) -> Catalog:
    """The catalog of a home, created and brought to this Lagar's schema; safe when several processes start at once.

    `url` is what LAGAR_CATALOG says. Raises HomeError (cannot be written, newer than this Lagar, on a network disk),
    CatalogAway (PostgreSQL does not answer), SettingsError (another kind of URL) and MissingLibrary.
    """
    database = _database(home, url)
    try:
        with database.explained():
            if database.revision() != REVISIONS[-1]:
                with database.migrating() as connection:
                    _migrate(database, connection)
            return Catalog(database)
    except BaseException:
        database.close()
        raise


def _database(home: Path | Home, url: str | None) -> Database:
    scheme = None if url is None else url.partition(":")[0]
    if scheme in ("postgresql", "postgres"):
        from lagar.registry.postgres import PostgresDatabase

        assert url is not None
        return PostgresDatabase(url)
    if scheme == "sqlite":
        raise SettingsError("LAGAR_CATALOG names an SQLite file: the catalog lies in the home, set LAGAR_HOME instead")
    if scheme is not None:
        raise SettingsError(f"LAGAR_CATALOG must be a postgresql:// URL, got one that begins with {scheme!r}")
    from lagar.registry.sqlite import SqliteDatabase

    return SqliteDatabase(home if isinstance(home, Home) else open_home(home, full=True))


def who() -> str:
    """The user of this process, for the audit."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"


def record(connection: Connection, what: str, subject: str, who: str, **details: Any) -> None:
    """Write into the audit, in the transaction that does what is recorded."""
    connection.execute(
        audit.insert().values(at=time.time(), who=who, what=what, subject=subject, details=json.dumps(details))
    )


def _migrate(database: Database, connection: Connection) -> None:
    """Bring the catalog to the last revision in this transaction; nobody else does so meanwhile."""
    revision = database.revision()
    if revision == REVISIONS[-1]:
        return
    if revision is not None and revision not in REVISIONS:
        raise HomeError(
            f"{database.name} has schema {revision}, written by {_writer(database)}; this is Lagar "
            f"{lagar.__version__}, which knows schemas up to {REVISIONS[-1]}: upgrade Lagar, or use another catalog "
            "(LAGAR_HOME, LAGAR_CATALOG)"
        )
    import alembic.command
    import alembic.config

    config = alembic.config.Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    alembic.command.upgrade(config, "head")
    connection.execute(settings_table.delete().where(settings_table.c.name == WRITER))
    connection.execute(
        settings_table.insert().values(name=WRITER, value=json.dumps(lagar.__version__), updated_at=time.time())
    )


def _writer(database: Database) -> str:
    """Which Lagar changed the schema last, as far as a newer schema lets us read it."""
    try:
        with database.reading() as connection:
            value = connection.scalar(sa.select(settings_table.c.value).where(settings_table.c.name == WRITER))
        return f"Lagar {json.loads(value)}" if value else "a newer Lagar"
    except (exc.SQLAlchemyError, ValueError):
        return "a newer Lagar"


def open_default() -> Catalog:
    """The catalog that LAGAR_HOME and LAGAR_CATALOG name."""
    return open_catalog(settings.home_path()[0], settings.catalog_url())
