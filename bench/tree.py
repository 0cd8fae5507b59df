"""A server under measurement: its whole process tree on one core, its readiness, its memory."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

READY_WITHIN_S = 120.0
STOP_WITHIN_S = 10.0


class ServerTree:
    """A command and all its descendants, pinned to one core; the pinning is inherited and checked."""

    def __init__(self, command: list[str], environment: dict[str, str], core: int, log: Path) -> None:
        self._command = command
        self._log = log
        self.started = time.monotonic()
        self.ready_s = 0.0
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                ["taskset", "-c", str(core), *command],
                stdout=out,
                stderr=subprocess.STDOUT,
                env=os.environ | environment,
                start_new_session=True,
            )

    def wait_for(self, url: str, body: bytes) -> None:
        """Return when url answers body with 2xx; end the program with the server's log when it never does."""
        deadline = self.started + READY_WITHIN_S
        while True:
            if self._process.poll() is not None:
                sys.exit(f"{' '.join(self._command)}\nended with {self._process.returncode}:\n{self._last_words()}")
            try:
                self.post(url, body)
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    sys.exit(f"no 2xx from {url} in {READY_WITHIN_S:.0f} s ({error}):\n{self._last_words()}")
                time.sleep(0.05)
        self.ready_s = time.monotonic() - self.started

    def post(self, url: str, body: bytes) -> bytes:
        """The answer's body; raises OSError for anything but 2xx."""
        request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.read()

    def check_core(self, core: int) -> None:
        """End the program when a process of the tree may run elsewhere: the comparison would not be fair."""
        for process in self._members():
            status = _read(process / "status")
            allowed = re.search(r"^Cpus_allowed_list:\s*(\S+)", status, re.MULTILINE)
            if allowed and allowed[1] != str(core):
                sys.exit(f"process {process.name} of {self._command[0]} may run on cores {allowed[1]}, not only {core}")

    def pss_mb(self) -> float:
        """Proportional set size of the whole tree."""
        sizes = [
            re.search(r"^Pss:\s+(\d+)", _read(process / "smaps_rollup"), re.MULTILINE) for process in self._members()
        ]
        return sum(int(size[1]) for size in sizes if size) / 1024

    def stop(self) -> None:
        """SIGTERM to the leader, then SIGKILL to whatever of the tree is left."""
        members = set(self._members())  # before the leader goes: a daemon with a session of its own loses its parent
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_WITHIN_S)
        for process in members | set(self._members()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process.name), signal.SIGKILL)
        self._process.wait()

    def _members(self) -> Iterator[Path]:
        """The /proc folders of the processes in the session that the command leads, and of their descendants."""
        parents: dict[int, int] = {}
        members: set[int] = set()
        for stat in Path("/proc").glob("[0-9]*/stat"):
            fields = _read(stat).rpartition(")")[2].split()
            if not fields:
                continue
            pid = int(stat.parent.name)
            parents[pid] = int(fields[1])
            if int(fields[3]) == self._process.pid:
                members.add(pid)
        grown = True
        while grown:
            more = {pid for pid, parent in parents.items() if parent in members} - members
            members |= more
            grown = bool(more)
        return (Path("/proc") / str(pid) for pid in sorted(members))

    def _last_words(self) -> str:
        return "".join(self._log.read_text(errors="replace").splitlines(keepends=True)[-30:])


def free_port() -> int:
    """A port with its two successors free, since MLServer wants three; below the range of outgoing connections."""
    for port in random.sample(range(18_000, 30_000, 10), k=100):
        if all(_is_free(port + offset) for offset in range(3)):
            return port
    sys.exit("no three free ports in a row between 18000 and 30000")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
        return True


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
