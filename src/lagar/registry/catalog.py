"""The catalog: what Lagar remembers, in SQL. Opened by supervisor, control and the command line, never by a worker.

SQLite with a write-ahead log in the home. Every write begins with BEGIN IMMEDIATE: a deferred transaction that reads
and then writes fails at once when another has written meanwhile, whatever the busy time-out.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.engine import Connection, Engine

import lagar
from lagar import settings
from lagar.errors import HomeError, SettingsError
from lagar.registry.home import Home, open_home

REVISIONS: Final = ("0001",)
"""Every revision of the schema that this Lagar knows; it works with the last. One script each in migrations/."""
BUSY_TIMEOUT_S: Final = 10.0

metadata = sa.MetaData()

keys = sa.Table(
    "keys",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("scopes", sa.Text, nullable=False),  # JSON list
    sa.Column("created_at", sa.Double, nullable=False),  # times are Unix seconds
    sa.Column("created_by", sa.Text, nullable=False),
    sa.Column("expires_at", sa.Double),
    sa.Column("revoked_at", sa.Double),
    sa.Column("revoked_by", sa.Text),
)

settings_table = sa.Table(
    "settings",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),  # JSON
    sa.Column("updated_at", sa.Double, nullable=False),
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("what", sa.Text, nullable=False),  # "key.create"
    sa.Column("subject", sa.Text, nullable=False),  # the key's id
    sa.Column("details", sa.Text, nullable=False),  # JSON object, never a secret
    sqlite_autoincrement=True,
)

WRITER: Final = "lagar_version"
"""The setting that names the Lagar which last changed the schema."""


class Catalog:
    """An open catalog; close it, or use it as a context manager."""

    def __init__(self, engine: Engine, path: Path) -> None:
        self._engine = engine
        self.path = path
        self._watch_lock = threading.Lock()
        self._watch = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=BUSY_TIMEOUT_S)
        self._seen = self._data_version()

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the catalog."""
        with _explained(self.path), self._engine.connect() as connection, connection.begin():
            yield connection

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that may write, alone from its first statement; it waits for another's end."""
        writing = self._engine.execution_options(lagar_write=True)
        with _explained(self.path), writing.connect() as connection, connection.begin():
            yield connection

    def changed(self) -> bool:
        """Whether anything was committed, by any process, since the last call or the opening: microseconds."""
        with self._watch_lock, _explained(self.path):
            seen, self._seen = self._seen, self._data_version()
            return seen != self._seen

    def _data_version(self) -> int:
        row = self._watch.execute("PRAGMA data_version").fetchone()
        return int(row[0])

    def close(self) -> None:
        self._watch.close()
        self._engine.dispose()

    def __enter__(self) -> Catalog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_catalog(home: Path | Home, url: str | None = None) -> Catalog:
    """The catalog of a home, created and brought to this Lagar's schema; safe when several processes start at once.

    `url` is what LAGAR_CATALOG says. Raises HomeError (cannot be written, newer than this Lagar, on a network disk)
    and SettingsError (a URL that is not served yet).
    """
    refuse_url(url)
    place = home if isinstance(home, Home) else open_home(home)
    refuse_network_disk(place.path)
    engine = _engine(place.catalog)
    try:
        with _explained(place.catalog):
            # an empty file is not even looked at: a reader would hinder whoever is switching it to the log
            if place.catalog.stat().st_size == 0 or _revision(place.catalog) != REVISIONS[-1]:
                with place.locked():
                    _migrate(engine, place.catalog)
        return Catalog(engine, place.catalog)
    except BaseException:
        engine.dispose()
        raise


def refuse_url(url: str | None) -> None:
    """Refuse a catalog that is not the home's SQLite file."""
    if url is None:
        return
    scheme = url.partition(":")[0]
    if scheme.startswith("postgres"):
        raise SettingsError(
            "LAGAR_CATALOG names a PostgreSQL catalog: that comes with stored versions and is not in this Lagar "
            f"({lagar.__version__}); unset it to use the SQLite catalog in the home"
        )
    if scheme == "sqlite":
        raise SettingsError("LAGAR_CATALOG names an SQLite file: the catalog lies in the home, set LAGAR_HOME instead")
    raise SettingsError(f"LAGAR_CATALOG must be a postgresql:// URL, got one that begins with {scheme!r}")


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


# ---- opening -----------------------------------------------------------------------------------------------------


def _engine(path: Path) -> Engine:
    if not path.exists():  # SQLite would create it with the umask's mode
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(path)), connect_args={"timeout": BUSY_TIMEOUT_S, "isolation_level": None}
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


def _revision(path: Path) -> str | None:
    """The revision of the catalog at path, None for a new one; without SQLAlchemy, since every command asks."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=BUSY_TIMEOUT_S)) as connection:
        try:
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return None
            raise
        return str(row[0]) if row else None


def _migrate(engine: Engine, path: Path) -> None:
    """Bring the catalog to the last revision, all in one transaction; the home's lock is held."""
    revision = _revision(path)
    if revision == REVISIONS[-1]:
        return
    if revision is not None and revision not in REVISIONS:
        raise HomeError(
            f"the catalog {path} has schema {revision}, written by {_writer(path)}; this is Lagar {lagar.__version__}, "
            f"which knows schemas up to {REVISIONS[-1]}: upgrade Lagar, or set LAGAR_HOME to another home"
        )
    import alembic.command
    import alembic.config

    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=BUSY_TIMEOUT_S)) as bare:
        mode = bare.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise HomeError(f"the catalog {path} cannot use a write-ahead log here: set LAGAR_HOME to a local disk")
    config = alembic.config.Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    with engine.execution_options(lagar_write=True).connect() as connection, connection.begin():
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, "head")
        connection.execute(settings_table.delete().where(settings_table.c.name == WRITER))
        connection.execute(
            settings_table.insert().values(name=WRITER, value=json.dumps(lagar.__version__), updated_at=time.time())
        )


def _writer(path: Path) -> str:
    """Which Lagar changed the schema last, as far as a newer schema lets us read it."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=BUSY_TIMEOUT_S)) as connection:
        try:
            row = connection.execute("SELECT value FROM settings WHERE name = ?", (WRITER,)).fetchone()
            return f"Lagar {json.loads(row[0])}" if row else "a newer Lagar"
        except (sqlite3.Error, ValueError):
            return "a newer Lagar"


NETWORK_DISKS: Final = (
    "nfs", "nfs3", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "ncpfs", "afs", "coda", "ceph", "glusterfs",
    "lustre", "beegfs", "gpfs", "ocfs2", "gfs", "gfs2", "orangefs", "pvfs2", "drvfs", "davfs", "fuse.sshfs",
    "fuse.glusterfs", "fuse.cephfs", "fuse.ceph-fuse", "fuse.s3fs", "fuse.goofys", "fuse.gcsfuse", "fuse.rclone",
    "fuse.mount-s3", "fuse.blobfuse", "fuse.blobfuse2", "fuse.davfs", "fuse.juicefs", "fuse.nfs",
)  # fmt: skip
"""File systems on which the shared memory of a write-ahead log does not work between machines, or at all."""


def refuse_network_disk(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> None:
    """Raise HomeError when path lies on a network file system: SQLite's log would be corrupted there."""
    kind = disk_kind(path, mounts)
    if kind in NETWORK_DISKS:
        raise HomeError(
            f"the home {path} lies on a network disk ({kind}), where the catalog would be damaged: "
            "set LAGAR_HOME to a folder on a local disk"
        )


def disk_kind(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str | None:
    """The type of the file system under path (ext4, nfs4, …), None where the system does not say."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    real = path.resolve()
    best: tuple[int, str] | None = None
    for line in lines:
        left, _, right = line.partition(" - ")
        parts = left.split(" ")
        if len(parts) < 5 or not right:
            continue
        point = Path(parts[4].encode("latin-1", "surrogateescape").decode("unicode_escape", "replace"))
        # the last of equally deep ones lies on top
        if real.is_relative_to(point) and (best is None or len(point.parts) >= best[0]):
            best = (len(point.parts), right.split(" ")[0])
    return best[1] if best else None


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn the database's errors about its file into HomeErrors with a next step; others are ours and go on."""
    try:
        yield
    except (exc.OperationalError, exc.DatabaseError, sqlite3.DatabaseError) as error:
        if isinstance(error, (exc.IntegrityError, sqlite3.IntegrityError)):
            raise
        cause = getattr(error, "orig", None) or error
        reason = _reason(str(cause))
        if reason is None:
            raise
        raise HomeError(f"the catalog {path} {reason}") from None


_REASONS: Final = (
    ("locked", f"was kept busy by another process for {BUSY_TIMEOUT_S:.0f} s: try again, or see who has it open"),
    ("full", "cannot be written: the disk is full; free some space, or set LAGAR_HOME to another disk"),
    ("readonly", "is not writable for this user: set LAGAR_HOME to a folder that is"),
    ("unable to open", "cannot be opened: look at the folder's permissions, or set LAGAR_HOME"),
    ("not a database", "is not an SQLite file: move it away, and Lagar makes a new one"),
    ("malformed", "is damaged: restore it from a backup, or move it away, and Lagar makes a new one"),
    ("disk i/o", "cannot be read or written (disk I/O error): look at the disk, or set LAGAR_HOME"),
)


def _reason(message: str) -> str | None:
    low = message.lower()
    return next((reason for sign, reason in _REASONS if sign in low), None)


def open_default() -> Catalog:
    """The catalog that LAGAR_HOME and LAGAR_CATALOG name."""
    return open_catalog(settings.home_path()[0], settings.catalog_url())
