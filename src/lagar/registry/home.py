"""The home: the folder that holds what Lagar remembers.

$LAGAR_HOME  (default ~/.lagar, created with mode 0700)
├─ server.toml      settings, written by its owner; may be missing
├─ catalog.db       the catalog, SQLite (with -wal and -shm beside it while in use)
├─ catalog.lock     held while the catalog is created or migrated
├─ artifacts/       the files of all versions, by their SHA-256; none where LAGAR_STORE names another place
├─ cache/           versions laid out as folders, to be loaded from
├─ uploads/         one folder per version on its way in over HTTP
└─ run/             one folder per running server: Unix sockets, metric files
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from lagar.errors import HomeError

MAX_SOCKET_PATH: Final = 100
"""Bytes of a Unix socket's path that every kernel takes (Linux 107, macOS 103)."""
LONGEST_SOCKET_NAME: Final = 24
_LOCK_NAME: Final = "owner.lock"
FULL: Final = (errno.ENOSPC, errno.EDQUOT)
"""What a full disk says."""


class Home:
    """A home that exists and can be written to."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def catalog(self) -> Path:
        return self.path / "catalog.db"

    @property
    def catalog_lock(self) -> Path:
        return self.path / "catalog.lock"

    @property
    def artifacts(self) -> Path:
        return self.path / "artifacts"

    @property
    def cache(self) -> Path:
        return self.path / "cache"

    @property
    def run(self) -> Path:
        return self.path / "run"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Alone among all processes on this home, for as long as the block runs."""
        with explained(self.path, "cannot be locked"):
            descriptor = os.open(self.catalog_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def upload_folder(self) -> Iterator[Path]:
        """A folder for the files of one push, removed at the end; those of servers that have died are removed first."""
        uploads = self.path / "uploads"
        with contextlib.ExitStack() as stack:
            with explained(self.path, "cannot hold a pushed version"), self.locked():
                uploads.mkdir(mode=0o700, exist_ok=True)
                _sweep(uploads)
                folder = Path(tempfile.mkdtemp(prefix="push-", dir=uploads))
                descriptor = os.open(folder / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                stack.callback(os.close, descriptor)
                stack.callback(_remove, folder)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield folder

    @contextlib.contextmanager
    def run_folder(self) -> Iterator[Path]:
        """A folder of this server's own for sockets and metric files, removed at the end.

        It lies in `run/`; where the home's path is too long for a Unix socket, a link lies there and the folder in the
        system's temporary one. Folders of servers that have died are removed first.
        """
        with contextlib.ExitStack() as stack:
            with explained(self.path, "cannot hold a server's run folder"), self.locked():
                self.run.mkdir(mode=0o700, exist_ok=True)
                _sweep(self.run)
                place = folder = Path(tempfile.mkdtemp(prefix="server-", dir=self.run))
                if len(os.fsencode(folder)) + 1 + LONGEST_SOCKET_NAME > MAX_SOCKET_PATH:
                    folder = Path(tempfile.mkdtemp(prefix="lagar-", dir=_short_temporary_folder()))
                    place.rmdir()
                    place.symlink_to(folder)
                descriptor = os.open(folder / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                stack.callback(os.close, descriptor)
                stack.callback(_remove, place)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield folder


def open_home(path: Path, *, full: bool = False) -> Home:
    """The home at path, created with mode 0700 when it is not there.

    Raises HomeError, one line, when it is a file, cannot be created, cannot be written to, or its disk is full; with
    `full` that is none: what lies there can be read.
    """
    with explained(path, "cannot be used"):
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        else:
            if not stat.S_ISDIR(mode):
                raise HomeError(f"the home {path} is a file, a folder is wanted: move it, or set LAGAR_HOME")
        # access(2) says yes to root on a read-only disk and nothing about a full one: only writing tells
        try:
            with tempfile.NamedTemporaryFile(prefix=".probe-", dir=path) as probe:
                probe.write(bytes(4096))
                probe.flush()
        except OSError as error:
            if not full or error.errno not in FULL:
                raise
    return Home(path)


@contextlib.contextmanager
def explained(path: Path, what: str) -> Iterator[None]:
    """Turn an operating system's error into a HomeError that says what to do."""
    try:
        yield
    except OSError as error:
        raise HomeError(f"the home {path} {what}: {reason_of(error)}") from None


def reason_of(error: OSError) -> str:
    """Why, and the next step."""
    code = error.errno
    if code is None:  # of a folder that was copied: words for each of its files
        code = next((known for known in FULL if os.strerror(known) in str(error)), None)
    if code in FULL:
        return "the disk is full; free some space, or set LAGAR_HOME to a folder on another disk"
    if code in (errno.EACCES, errno.EPERM):
        return "it is not writable for this user; set LAGAR_HOME to a folder that is"
    if code == errno.EROFS:
        return "it lies on a read-only disk; set LAGAR_HOME to a folder that can be written to"
    if code in (errno.ENOTDIR, errno.EEXIST):
        return "a part of its path is a file; set LAGAR_HOME to a folder"
    return f"{error.strerror or error}; set LAGAR_HOME to another folder"


def _short_temporary_folder() -> str:
    """Where sockets fit: TMPDIR may be as long as the home."""
    usual = tempfile.gettempdir()
    return usual if len(os.fsencode(usual)) <= 40 else "/tmp"  # noqa: S108 - mkdtemp makes a private folder there


def _sweep(run: Path) -> None:
    """Remove the folders whose owner is gone: their lock is free."""
    for place in run.iterdir():
        with contextlib.suppress(OSError):
            descriptor = os.open(place / _LOCK_NAME, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(place)
            finally:
                os.close(descriptor)


def _remove(place: Path) -> None:
    """Remove a run folder, and the link that leads to it; what others own is left alone."""
    folder = place.resolve()
    with contextlib.suppress(OSError):
        if folder.stat().st_uid == os.getuid():
            shutil.rmtree(folder, ignore_errors=True)
    if place.is_symlink():
        place.unlink(missing_ok=True)
