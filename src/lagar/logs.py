"""Structured logs on stderr: one event per line, for people (`console`) or for machines (`json`).

A `Log` is made once per process with `open_log` and handed to whoever writes; nothing happens at import. Each line is
one `write`, so the lines of several processes that share a stderr do not mix. Tracebacks stay here: they are never
part of an answer.
"""

from __future__ import annotations

import logging
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any, Final, Literal, TextIO

import msgspec

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["console", "json"]

LEVELS: Final[dict[str, int]] = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_COLOURS: Final[dict[str, str]] = {"debug": "\x1b[2m", "info": "\x1b[32m", "warning": "\x1b[33m", "error": "\x1b[31m"}
_RESET: Final = "\x1b[0m"
_DIM: Final = "\x1b[2m"
_encode_json = msgspec.json.Encoder(enc_hook=str).encode


class Log:
    """Writes events at or above a level; `bind` gives a log that adds fields to each of its events."""

    __slots__ = ("_bound", "_clock", "_colour", "_format", "_stream", "_threshold")

    def __init__(
        self,
        format: Format = "console",
        level: Level = "info",
        stream: TextIO | None = None,
        *,
        colour: bool = False,
        bound: dict[str, Any] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._format: Format = format
        self._threshold = LEVELS[level]
        self._stream = stream
        self._colour = colour
        self._bound = bound or {}
        self._clock = clock

    def bind(self, **fields: Any) -> Log:
        """The same log with more fields on every event."""
        bound = Log.__new__(Log)
        for name in Log.__slots__:
            setattr(bound, name, getattr(self, name))
        bound._bound = {**self._bound, **fields}
        return bound

    def enabled(self, level: Level) -> bool:
        """Whether an event of this level is written: ask before making an expensive field."""
        return LEVELS[level] >= self._threshold

    def debug(self, event: str, **fields: Any) -> None:
        if self._threshold <= 10:
            self._emit("debug", event, fields, None)

    def info(self, event: str, **fields: Any) -> None:
        if self._threshold <= 20:
            self._emit("info", event, fields, None)

    def warning(self, event: str, **fields: Any) -> None:
        if self._threshold <= 30:
            self._emit("warning", event, fields, None)

    def error(self, event: str, **fields: Any) -> None:
        self._emit("error", event, fields, None)

    def exception(self, event: str, error: BaseException, **fields: Any) -> None:
        """An error event with the exception's type, text and traceback."""
        fields["error"] = f"{type(error).__name__}: {error}"
        self._emit("error", event, fields, "".join(traceback.format_exception(error)))

    def _emit(self, level: Level, event: str, fields: dict[str, Any], trace: str | None) -> None:
        stream = self._stream or sys.stderr
        if stream is None:  # pythonw and daemons that closed it
            return
        now = self._clock()
        merged = {**self._bound, **fields} if self._bound else fields
        line = (
            _json_line(now, level, event, merged, trace)
            if self._format == "json"
            else _console_line(now, level, event, merged, trace, self._colour)
        )
        try:
            stream.write(line)
            stream.flush()
        except (OSError, ValueError):
            pass  # a closed or full stderr must not take the service down; there is nowhere left to say it


def open_log(format: Format, level: Level, *, no_colour: bool = False, **bound: Any) -> Log:
    """The log of this process on stderr; colour only where stderr is a terminal and NO_COLOR is not set.

    `no_colour` is what `settings.no_colour()` says; `bound` are fields of every event, e.g. `process="worker-0"`.
    """
    colour = format == "console" and not no_colour and sys.stderr is not None and sys.stderr.isatty()
    return Log(format, level, colour=colour, bound=bound)


def _json_line(now: float, level: Level, event: str, fields: dict[str, Any], trace: str | None) -> str:
    record: dict[str, Any] = {"time": _utc(now), "level": level, "event": event}
    for name, value in fields.items():
        if value is not None:
            record[name if name not in ("time", "level", "event", "traceback") else name + "_"] = value
    if trace is not None:
        record["traceback"] = trace
    try:
        return _encode_json(record).decode() + "\n"
    except (TypeError, ValueError, UnicodeError):  # keys that JSON has not, lone surrogates
        safe = {str(name): _safe(repr(value)) for name, value in record.items()}
        return _encode_json(safe | {"time": record["time"], "level": level, "event": _safe(event)}).decode() + "\n"


def _console_line(now: float, level: Level, event: str, fields: dict[str, Any], trace: str | None, colour: bool) -> str:
    clock = time.strftime("%H:%M:%S", time.localtime(now)) + f".{int(now * 1000) % 1000:03d}"
    words = " ".join(f"{name}={_word(value)}" for name, value in fields.items() if value is not None)
    if colour:
        head = f"{_DIM}{clock}{_RESET} {_COLOURS[level]}{level:<7}{_RESET} {_plain(event)}"
    else:
        head = f"{clock} {level:<7} {_plain(event)}"
    line = f"{head}  {words}\n" if words else head + "\n"
    if trace is None:
        return line
    return line + "".join(f"    {_plain(part)}\n" for part in trace.rstrip("\n").split("\n"))


def _word(value: Any) -> str:
    """A value as one word: quoted when it has blanks, quotes or control characters, so that a line stays a line."""
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    if text and text.isprintable() and " " not in text and '"' not in text:
        return text
    return _encode_json(_safe(text)).decode() if text.isascii() or text.isprintable() else ascii(text)


def _plain(text: str) -> str:
    """Text without control characters: what callers send must not move a terminal's cursor or forge a line."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _safe(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _utc(now: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03d}Z"


class _Relay(logging.Handler):
    """Brings the records of the standard library's logging into a Log."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        level: Level = (
            "error" if record.levelno >= 40 else "warning" if record.levelno >= 30
            else "info" if record.levelno >= 20 else "debug"
        )  # fmt: skip
        fields = {"logger": record.name, "request_id": getattr(record, "request_id", None)}
        try:
            if record.exc_info and record.exc_info[1] is not None:
                self._log.exception(record.getMessage(), record.exc_info[1], **fields)
            else:
                getattr(self._log, level)(record.getMessage(), **fields)
        except Exception:  # noqa: BLE001, RUF100 - a library's broken format string must not break its caller
            self._log.warning("log record that cannot be formatted", logger=record.name, message=repr(record.msg))


def capture_standard_logging(log: Log, *, level: int = logging.WARNING) -> None:
    """Route `logging` and `warnings` of libraries into log, for a process's main function only."""
    root = logging.getLogger()
    root.handlers[:] = [_Relay(log)]
    root.setLevel(level)
    logging.getLogger("lagar").setLevel(logging.DEBUG)  # of our own words, the log's level decides

    def show(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
    ) -> None:
        log.warning(str(message), category=category.__name__, at=f"{filename}:{lineno}")

    warnings.showwarning = show
