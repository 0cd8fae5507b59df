"""One step in a forked child with caps of its own: what hangs, crashes or eats memory there costs only itself.

The child has the loaded original and everything else of its parent, and sends back bytes. It is for a process with one
thread, as the confined one of intake is: fork copies only the thread that calls it.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, NamedTuple

import msgspec

Say = Callable[[str], None]
"""Told what the child is about to do: the word that stands in the report when it does not come back."""
Job = Callable[[Say], bytes]
_PIECE: Final = 1 << 16
_RESULT: Final = b"\x01"
_PHASE: Final = b"\x02"
_MEMORY_EXIT: Final = 87


class Caps(msgspec.Struct, frozen=True):
    """What one step may take."""

    wall_s: float = 180.0
    memory_bytes: int = 4 * 1024**3
    """Beyond what the parent has."""
    cpu_s: int = 180


class Ending(NamedTuple):
    """How a step ended; `result` is there for "done"."""

    end: Literal["done", "time", "cpu", "memory", "crash", "error"]
    result: bytes
    words: str
    """"" for done, else what it was doing and how it ended."""


def run(job: Job, caps: Caps) -> Ending:
    """Run the job in a child and wait for it, never longer than its caps."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read_end)
        _child(job, caps, write_end)
    os.close(write_end)
    try:
        data, in_time = _read(read_end, time.monotonic() + caps.wall_s)
    finally:
        os.close(read_end)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        _, status, used = os.wait4(pid, 0)
    return _ending(data, in_time, os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime, caps)


def _child(job: Job, caps: Caps, write_end: int) -> None:
    """Never returns. What is written: phases and at last the result, each with its kind and length."""
    code = 1
    try:
        os.setpgid(0, 0)
        _cap(caps)
        result = job(lambda phase: _write(write_end, _PHASE, phase.encode()))
        _write(write_end, _RESULT, result)
        code = 0
    except MemoryError:
        code = _MEMORY_EXIT
    except BaseException as error:  # a converter may raise anything, SystemExit too
        words = "".join(traceback.format_exception_only(error)).strip()
        if "bad_alloc" in words or "Unable to allocate" in words or "Failed to allocate" in words:
            code = _MEMORY_EXIT
        with contextlib.suppress(BaseException):
            _write(write_end, b"\x03", words[-2000:].encode())
    finally:
        os._exit(code)  # no exit handlers of the parent's, no threads to wait for


def _cap(caps: Caps) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    memory = pages * resource.getpagesize() + caps.memory_bytes
    spent = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = int(spent.ru_utime + spent.ru_stime) + caps.cpu_s
    for kind, amount in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, cpu_s)):
        soft, hard = resource.getrlimit(kind)
        least = min(value for value in (amount, soft, hard) if value != resource.RLIM_INFINITY)
        resource.setrlimit(kind, (least, hard))


def _write(descriptor: int, kind: bytes, data: bytes) -> None:
    left = memoryview(kind + len(data).to_bytes(8, "little") + data)
    while left:
        left = left[os.write(descriptor, left) :]


def _read(descriptor: int, until: float) -> tuple[bytes, bool]:
    """All that was written, and whether it was closed in time."""
    data = bytearray()
    while True:
        left = until - time.monotonic()
        if left <= 0 or not select.select([descriptor], [], [], left)[0]:
            return bytes(data), False
        piece = os.read(descriptor, _PIECE)
        if not piece:
            return bytes(data), True
        data += piece


def _ending(data: bytes, in_time: bool, code: int, cpu_s: float, caps: Caps) -> Ending:
    result, phase, words = _messages(data)
    if result is not None:
        return Ending("done", result, "")
    doing = phase or "starting"
    if not in_time:
        return Ending("time", b"", f"{doing} was not done after {caps.wall_s:g} s and was ended")
    if code == -signal.SIGXCPU or (code == -signal.SIGKILL and cpu_s >= caps.cpu_s):
        return Ending("cpu", b"", f"{doing} took more than {caps.cpu_s} s of computing and was ended")
    if code == _MEMORY_EXIT:
        return Ending("memory", b"", f"{doing} took more than {caps.memory_bytes / 1024**3:.3g} GiB of memory")
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return Ending("crash", b"", f"{doing} crashed the process ({name})")
    if words:
        return Ending("error", b"", f"{doing} failed: {' '.join(words.split())[:400]}")
    return Ending("crash", b"", f"{doing} ended the process (exit code {code})")


def _messages(data: bytes) -> tuple[bytes | None, str, str]:
    """The result, the last phase, and the words of an error."""
    result: bytes | None = None
    phase = words = ""
    while len(data) >= 9:
        size = int.from_bytes(data[1:9], "little")
        kind, body, data = data[:1], data[9 : 9 + size], data[9 + size :]
        if len(body) < size:
            break
        if kind == _RESULT:
            result = body
        elif kind == _PHASE:
            phase = body.decode("utf-8", "replace")
        else:
            words = body.decode("utf-8", "replace")
    return result, phase, words
