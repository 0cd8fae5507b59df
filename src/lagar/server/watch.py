"""Whether files on disk have changed, for `lagar serve --debug`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

MAX_FILES = 20_000
"""More than this under the watched paths are not looked at: a home folder given by mistake must not cost a core."""

_SKIPPED = {"__pycache__", "node_modules"}

Stamp = dict[str, tuple[int, int, int]]
"""Path → (modification time in ns, size, inode)."""


class Watch:
    """Says once that the files below some paths have changed, when they have been still for one look."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = tuple(paths)
        self._reported = self._seen = stamp(self._paths)

    def settled_change(self) -> bool:
        """True when the files differ from those last reported and are as they were at the look before.

        A copy in progress changes from look to look, so a half-written file is not reported.
        """
        now = stamp(self._paths)
        still, self._seen = now == self._seen, now
        if not still or now == self._reported:
            return False
        self._reported = now
        return True


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


def _files(path: Path) -> Iterator[str]:
    if not path.is_dir():
        yield str(path)
        return
    for folder, folders, files in os.walk(path):
        folders[:] = [name for name in folders if name not in _SKIPPED and not name.startswith(".")]
        for name in files:
            if not name.startswith("."):  # an editor's swap files
                yield os.path.join(folder, name)
