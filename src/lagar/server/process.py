"""A child process of the server: how it is started, what it promises, how its end is noticed.

A child inherits sockets, `--channel-fd N --socket NAME=N …`: its end of the channel to the supervisor and those that
it is to serve. It never outlives the supervisor.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from enum import Enum

from lagar.server.channel import Channel, Failed

SILENT_S = 5.0
"""A child that is not heard of for longer does not count as ready."""
_PR_SET_PDEATHSIG = 1


class Phase(Enum):
    """Where a process, or the whole server, is in its life."""

    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"
    ENDED = "ended"


_STEPS = {
    Phase.STARTING: (Phase.SERVING, Phase.DRAINING, Phase.ENDED),
    Phase.SERVING: (Phase.DRAINING, Phase.ENDED),
    Phase.DRAINING: (Phase.ENDED,),
    Phase.ENDED: (),
}


def advance(phase: Phase, to: Phase) -> Phase:
    """The one place where a phase changes; raises RuntimeError for a step that life does not have."""
    if to not in _STEPS[phase]:
        raise RuntimeError(f"a process that is {phase.value} cannot become {to.value}")
    return to


class Child:
    """A started child process, its channel and its phase."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], channel: Channel) -> None:
        self.name = name
        self.channel = channel
        self.phase = Phase.STARTING
        self.failure: Failed | None = None
        """What it said before it gave up."""
        self.switches = 0
        """How many switches the server had gone through when it was started, or when it took part in the last."""
        self.metrics_slot: int | None = None
        """Two workers of one post answer side by side during a reload: each has metric files of its own."""
        self.serving_since: float | None = None
        """time.monotonic() of its becoming ready."""
        self.silent_s = 0.0
        """For how long nothing was heard of it, once it serves; the supervisor counts."""
        self.waiting = 0.0
        """Requests that waited for their turn in the second before its last word, on average."""
        self.busy = 0.0
        """Share of that second in which it computed."""
        self._process = process
        loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[int] = loop.create_future()
        """Its return code as subprocess has it: -9 for a process killed by signal 9."""
        self.settled: asyncio.Future[bool] = loop.create_future()
        """True once it serves, False when it ended without."""
        self._pidfd = os.pidfd_open(process.pid)
        loop.add_reader(self._pidfd, self._reap)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return not self.exited.done()

    @property
    def responds(self) -> bool:
        """Its event loop turns, as far as we know."""
        return self.silent_s < SILENT_S

    def serves(self) -> None:
        """It said that it can answer."""
        self.phase = advance(self.phase, Phase.SERVING)
        self.serving_since = time.monotonic()
        self.settled.set_result(True)

    def drains(self) -> None:
        self.phase = advance(self.phase, Phase.DRAINING)

    def kill(self) -> None:
        """End it at once; does nothing to a process that has ended, nor to another one that got its number."""
        if self.alive:
            self._process.kill()

    def _reap(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        code = self._process.wait()  # it has ended: this returns at once, and reaps this child only
        self.phase = advance(self.phase, Phase.ENDED)
        self.exited.set_result(code)
        if not self.settled.done():
            self.settled.set_result(False)

    def describe_end(self) -> str:
        """How it ended, in words: "was killed by SIGKILL", "ended with exit code 3"."""
        code = self.exited.result()
        if code >= 0:
            return f"ended with exit code {code}"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


async def start_child(
    name: str, module: str, listeners: Mapping[str, socket.socket], environment: Mapping[str, str]
) -> Child:
    """Start `python -m module` with a channel and its listening sockets, by what is spoken there."""
    ours, theirs = socket.socketpair()
    with theirs:
        channel = await Channel.open(ours)  # nothing is awaited after the spawn: a cancelled start leaves no process
        named = [part for what, sock in listeners.items() for part in ("--socket", f"{what}={sock.fileno()}")]
        fds = (theirs.fileno(), *(sock.fileno() for sock in listeners.values()))
        # The mask is inherited: a Ctrl-C during the child's imports waits until `begin_child` has decided about it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            process = subprocess.Popen(  # noqa: ASYNC220 - a spawn is a millisecond, and nothing is waited for
                [sys.executable, "-m", module, "--channel-fd", str(fds[0]), *named],
                pass_fds=fds,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return Child(name, process, channel)


def begin_child(arguments: Sequence[str] | None = None) -> tuple[socket.socket, dict[str, socket.socket]]:
    """The first call of a child's main function; returns its channel's socket and its listening sockets.

    Ctrl-C and, under systemd, SIGTERM reach every process of the server at once; only the supervisor decides what they
    mean, so a child lets them pass. The child is killed with the supervisor, even while a model holds its main thread.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        # not SIG_IGN, which the user's own subprocesses would inherit
        signal.signal(number, _pass)
        signal.siginterrupt(number, False)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    parser = argparse.ArgumentParser(description="A process of a Lagar server; `lagar serve` starts it.")
    parser.add_argument("--channel-fd", type=int, required=True)
    parser.add_argument("--socket", action="append", default=[], metavar="NAME=FD")
    given = parser.parse_args(arguments)
    pairs = [text.split("=") for text in given.socket]
    return _inherited(given.channel_fd), {name: _inherited(int(fd)) for name, fd in pairs}


def _inherited(fd: int) -> socket.socket:
    os.set_inheritable(fd, False)  # not for the processes that a model may start
    return socket.socket(fileno=fd)


def _pass(number: int, frame: object) -> None:
    """A signal that is the supervisor's business."""
