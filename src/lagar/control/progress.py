"""How the intake of models at the start is shown: a line per model at a terminal, the log otherwise."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import TextIO

from lagar.intake.paths import Progress
from lagar.logs import Log


class Lines:
    """On a terminal: a finished line per model, and below them what is being done."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._running: dict[str, str] = {}
        self._lock = threading.Lock()

    def step(self, path: str, step: str) -> None:
        with self._lock:
            self._running[path] = step
            self._write("")

    def taken(self, path: str, version: str, seconds: float) -> None:
        with self._lock:
            self._running.pop(path, None)
            self._write(f"lagar: {_name(path)} is {version}, taken in in {seconds:.1f} s\n")

    def left(self, path: str) -> None:
        with self._lock:
            self._running.pop(path, None)
            self._stream.write("\r\x1b[K")  # for the line of the log that says why
            self._stream.flush()

    def said(self, text: str) -> None:
        with self._lock:
            self._write(f"lagar: {text}\n")

    def _write(self, line: str) -> None:
        running = ", ".join(f"{_name(path)} ({step})" for path, step in self._running.items())
        below = f"lagar: taking in {running}"[:99] if running else ""
        self._stream.write(f"\r\x1b[K{line}{below}")
        self._stream.flush()


class Logged:
    """In the log: what has been taken in."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def step(self, path: str, step: str) -> None:
        self._log.debug("intake", path=path, step=step)

    def taken(self, path: str, version: str, seconds: float) -> None:
        self._log.info("taken in", path=path, version=version, seconds=round(seconds, 2))

    def left(self, path: str) -> None:
        self._log.debug("intake has ended without a version", path=path)

    def said(self, text: str) -> None:
        self._log.warning(text)


class Given:
    """Tells another of paths as people gave them: what lies in a mirror by its URL."""

    def __init__(self, progress: Progress, as_given: Callable[[str], str]) -> None:
        self._progress = progress
        self._as_given = as_given

    def step(self, path: str, step: str) -> None:
        self._progress.step(self._as_given(path), step)

    def taken(self, path: str, version: str, seconds: float) -> None:
        self._progress.taken(self._as_given(path), version, seconds)

    def left(self, path: str) -> None:
        self._progress.left(self._as_given(path))

    def said(self, text: str) -> None:
        self._progress.said(self._as_given(text))


def _name(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def progress(log: Log, *, plain: bool, stream: TextIO = sys.stderr) -> Progress:
    """Lines on a terminal that may be written over; `plain` where the person asked for none of that."""
    return Logged(log) if plain or not stream.isatty() else Lines(stream)
