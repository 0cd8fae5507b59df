"""What lies on disk, by the look of it: whether it has changed, and whether somebody still writes it."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

MAX_FILES = 20_000
"""More than this under one path are not looked at: a home folder given by mistake must not cost a core."""

_SKIPPED = {"__pycache__", "node_modules"}
_UNFINISHED = (".part", ".partial", ".tmp", ".crdownload", ".download", ".filepart", "~")
"""How the files of copies and downloads that go on are called."""

Stamp = dict[str, tuple[int, int, int]]
"""Path → (modification time in ns, size, inode)."""


def stamp(paths: Iterable[Path]) -> Stamp:
    """What is known of every file at or below the paths; those that cannot be read count as absent."""
    found: Stamp = {}
    for path in paths:
        for file in _files(path):
            try:
                status = os.stat(file)
            except OSError:
                continue
            found[file] = (status.st_mtime_ns, status.st_size, status.st_ino)
            if len(found) >= MAX_FILES:
                return found
    return found


def is_unfinished(files: Iterable[str]) -> bool:
    """Whether a copy of these files goes on: by their names, or because one of them is open for writing."""
    return any(file.endswith(_UNFINISHED) or _is_written(file) for file in files)


def _is_written(file: str) -> bool:
    """Whether a process has the file open for writing, as far as the system tells: not on every file system it does.

    A read lease is granted on a file that nobody has open for writing; it is given back at once.
    """
    if sys.platform != "linux":
        return False
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        # whoever opens the file for writing just now is no reason to end this process: that signal is ignored
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    finally:
        os.close(descriptor)
    return False


def _files(path: Path) -> Iterator[str]:
    if not path.is_dir():
        yield str(path)
        return
    for folder, folders, files in os.walk(path):
        folders[:] = [name for name in folders if name not in _SKIPPED and not name.startswith(".")]
        for name in files:
            if not name.startswith("."):  # an editor's swap files
                yield os.path.join(folder, name)
