"""What the commands write: data on stdout, words and progress on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any

import msgspec

from lagar import settings


def write_json(value: Any) -> None:
    """A value as indented JSON on stdout."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value, enc_hook=str), indent=2).decode() + "\n")


def write_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns aligned by blanks on stdout; the words of a table are its meaning, there is no colour in it."""
    lines = [list(headers), *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headers))]
    for line in lines:
        sys.stdout.write("  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip() + "\n")


def say(text: str) -> None:
    """One line for the person, on stderr."""
    sys.stderr.write(f"lagar: {text}\n")
    sys.stderr.flush()


def moment(unix_s: float | None) -> str:
    """A time in UTC, "never" without one."""
    return "never" if unix_s is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix_s))


class Progress:
    """A line on stderr that grows while work is done: only on a terminal, and only when it takes over a second."""

    def __init__(self, what: str, total: int | None = None) -> None:
        """`total` is the work in the unit that `advance` counts, None when it is not known."""
        self._what = what
        self.total = total
        self._done = 0
        self._rows = 0
        self._started = time.monotonic()
        self._shown_at = self._started
        self._on = sys.stderr.isatty() and not settings.no_colour()
        self._shown = False

    def advance(self, work: int, rows: int) -> None:
        self._done += work
        self._rows += rows
        now = time.monotonic()
        if self._on and now - self._started > 1.0 and now - self._shown_at > 0.2:
            self._shown_at = now
            self._shown = True
            sys.stderr.write(f"\r\x1b[K{self._line(now)}")
            sys.stderr.flush()

    def _line(self, now: float) -> str:
        speed = self._rows / (now - self._started)
        text = f"{self._what}  {self._rows:,} rows  {speed:,.0f} rows/s"
        if not self.total:
            return text
        share = min(self._done / self.total, 1.0)
        filled = int(share * 24)
        left_s = (now - self._started) * (1 - share) / share if share else 0.0
        return f"{text}  [{'#' * filled}{'.' * (24 - filled)}] {share:.0%}  {left_s:.0f} s left"

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
