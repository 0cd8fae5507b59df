"""The catalog in the home: an SQLite file with a write-ahead log.

Every write begins with BEGIN IMMEDIATE: a deferred transaction that reads and then writes fails at once when another
has written meanwhile, whatever the busy time-out.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.engine import Connection

from lagar.errors import CatalogAway, HomeError
from lagar.registry.disks import refuse_network_disk
from lagar.registry.home import Home, explained

BUSY_TIMEOUT_S: Final = 10.0
_LOOK_INTERVAL_S: Final = 0.1


class SqliteDatabase:
    """The file `catalog.db` of a home."""

    def __init__(self, home: Home) -> None:
        refuse_network_disk(home.path)
        self.home = home
        self.path: Path | None = home.catalog
        self.name = f"the catalog {home.catalog}"
        self._file = home.catalog
        self._how = "mode=rw"  # rw: SQLite would make an empty file where one was moved away
        with explained(home.path, "cannot hold a catalog"):
            self.engine = _engine(home.catalog, self._how)
        self._place = _place(home.catalog)
        self._watch_lock = threading.Lock()
        self._watch: sqlite3.Connection | None = None
        self._watched = self._place
        self._version = self._count = -1

    def revision(self) -> str | None:
        """The revision of the schema, None for a new file; without SQLAlchemy, since every command asks."""
        # an empty file is not even looked at: a reader would hinder whoever is switching it to the log
        if self._file.stat().st_size == 0:
            return None
        try:
            return self._revision()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname not in _NO_ROOM or _has_log(self._file):
                raise
            self._read_only()
            return self._revision()

    def _revision(self) -> str | None:
        with contextlib.closing(self._connect()) as connection:
            try:
                row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
            except sqlite3.OperationalError as error:
                if "no such table" in str(error):
                    return None
                raise
            return str(row[0]) if row else None

    def _read_only(self) -> None:
        """Read a catalog on a disk with no room for what SQLite keeps beside it: nobody else can write either."""
        self._how = _ALONE
        self.engine.dispose()
        self.engine = _engine(self._file, self._how)

    @contextlib.contextmanager
    def migrating(self) -> Iterator[Connection]:
        """A transaction that is alone with the file, which is switched to its log."""
        with self.home.locked():
            with contextlib.closing(self._connect()) as bare:
                mode = bare.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            if mode != "wal":
                raise HomeError(f"{self.name} cannot use a write-ahead log here: set LAGAR_HOME to a local disk")
            with self.writing() as connection:
                yield connection

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that sees one state."""
        self._follow_file()
        with self.engine.connect() as connection, connection.begin():
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that is alone from its first statement."""
        if self._how == _ALONE:
            raise HomeError(f"{self.name} {_FULL}")
        self._follow_file()
        with self.engine.execution_options(lagar_write=True).connect() as connection, connection.begin():
            yield connection

    def announce(self, connection: Connection) -> None:
        """Nothing to do: whoever watches sees that the file has changed."""

    def now(self, connection: Connection) -> float:
        """All who use the file are on one machine, and share its clock."""
        return time.time()

    def changed(self) -> bool:
        """Whether the count of changes is another one than at the last call; microseconds while nothing is written."""
        with self._watch_lock, self.explained():
            self._follow_file()
            if self._watch is not None and self._watched != self._place:
                self._watch.close()
                self._watch = None
            if self._watch is None:
                self._watch, self._watched = self._connect(), self._place
                self._version = -1
            version = int(self._watch.execute("PRAGMA data_version").fetchone()[0])
            if version == self._version:
                return False
            count = int(self._watch.execute("SELECT n FROM changes").fetchone()[0])
            seen, self._version, self._count = self._count, version, count
            return count != seen

    def wait_changed(self, timeout_s: float) -> bool:
        """Look ten times a second, for at most this long: SQLite tells nobody."""
        deadline = time.monotonic() + timeout_s
        pause = threading.Event()
        while not self.changed():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            pause.wait(min(left, _LOOK_INTERVAL_S))
        return True

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Turn SQLite's errors about its file into errors with a next step; others are ours and go on."""
        try:
            yield
        except (exc.DatabaseError, sqlite3.DatabaseError) as error:
            if isinstance(error, (exc.IntegrityError, sqlite3.IntegrityError)):
                raise
            cause = str(getattr(error, "orig", None) or error).lower()
            if "locked" in cause:
                raise CatalogAway(f"{self.name} {_BUSY}") from None
            reason = next((reason for sign, reason in _REASONS if sign in cause), None)
            if reason is None:
                raise
            raise HomeError(f"{self.name} {reason}") from None

    def close(self) -> None:
        with self._watch_lock:
            if self._watch is not None:
                self._watch.close()
                self._watch = None
        self.engine.dispose()

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(
            f"{self._file.absolute().as_uri()}?{self._how}",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            timeout=BUSY_TIMEOUT_S,
        )

    def _follow_file(self) -> None:
        """Leave a file that was moved away: SQLite would go on with it, and the others with the one at its place."""
        place = _place(self._file)
        if place is None:
            raise HomeError(f"{self.name} is gone: bring it back, or start the server again for a new one")
        if place != self._place:
            self._place = place
            self.engine.dispose()


def _engine(path: Path, how: str) -> sa.Engine:
    if not path.exists():  # SQLite would create it with the umask's mode
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=path.absolute().as_uri(), query={"uri": "true"} | dict(parse_qsl(how))),
        connect_args={"timeout": BUSY_TIMEOUT_S, "isolation_level": None},
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = FULL")  # a key that was printed must survive a power cut

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writing = connection.get_execution_options().get("lagar_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

    return engine


def _has_log(path: Path) -> bool:
    """Whether some of the catalog lies in its write-ahead log only."""
    try:
        return path.with_name(f"{path.name}-wal").stat().st_size > 0
    except FileNotFoundError:
        return False


def _place(path: Path) -> tuple[int, int] | None:
    """Which file is at a path now."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


_BUSY: Final = f"was kept busy by another process for {BUSY_TIMEOUT_S:.0f} s: try again, or see who has it open"
_ALONE: Final = "mode=ro&immutable=1"
_NO_ROOM: Final = (
    "SQLITE_FULL",
    "SQLITE_CANTOPEN",
    "SQLITE_IOERR_SHMOPEN",
    "SQLITE_IOERR_SHMSIZE",
    "SQLITE_IOERR_WRITE",
)
_FULL: Final = "cannot be written: the disk is full; free some space, or set LAGAR_HOME to another disk"
_REASONS: Final = (
    ("full", _FULL),
    ("readonly", "is not writable for this user: set LAGAR_HOME to a folder that is"),
    ("unable to open", "cannot be opened: look at the folder's permissions, or set LAGAR_HOME"),
    ("not a database", "is not an SQLite file: move it away, and Lagar makes a new one"),
    ("malformed", "is damaged: restore it from a backup, or move it away, and Lagar makes a new one"),
    ("disk i/o", "cannot be read or written (disk I/O error): look at the disk, or set LAGAR_HOME"),
)
