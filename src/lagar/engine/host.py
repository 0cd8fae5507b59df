"""A model in a process of its own, as a predictor: one that would hold the worker's interpreter, or one whose libraries
are not the worker's.

The worker's model thread sends rows over a Unix socket and waits for the answer without the GIL. A host that dies or is
killed fails the call it was in and is started again for the next one. It belongs to the worker that started it, or, by
way of the supervisor (`server/hosts.py`), to all workers of a server.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lagar.engine import wire
from lagar.engine.cost import Cost
from lagar.engine.wire import Answer, Ask, Boot, Bye, Hook, Message, Place, Ready, Refusal, Shaped, Want
from lagar.errors import InvalidInput, LagarError, LoadFailed
from lagar.registry import environments
from lagar.registry.model import ModelSource
from lagar.types import Handlers, Outputs, Predictor, Record, Rows

MAX_PAUSE_S = 0.020
"""A model that stops the event loop for longer while it runs in a thread gets a host."""
_PROBE_S = 0.100
_PROBE_ROWS = 4096
_TRIALS = 3
_ATTEMPTS = 3
_START_TIMEOUT_S = 300.0


class HostFailed(LagarError):
    """The host process died, or its model raised."""

    code = "host_failed"


class _HostTraceback(Exception):
    """The traceback of the host, as the cause of what is raised in the worker: the log then has both."""

    def __str__(self) -> str:
        return f"in the host process\n{self.args[0]}"


class HostedPredictor:
    """A predictor whose model lives in another process (types.Predictor).

    `python` is the interpreter of another environment, None for this one. Without `hosts` the process is this one's
    own until it is closed. With `hosts`, the path of a server's `wire.HOSTS_SOCKET`, it is shared by all that ask for
    the same source and interpreter, ended when it is idle, and started again by the next call; with `yields` the
    processor is everybody else's first. It is started here unless `start` is False: then by the first call. Calls come
    from one thread at a time; `kill` from any.

    Raises LoadFailed when the model cannot be loaded there.
    """

    def __init__(
        self,
        source: ModelSource,
        threads: int,
        *,
        python: str | None = None,
        hosts: Path | None = None,
        start: bool = True,
        yields: bool = False,
    ) -> None:
        self._source = source
        self._python = python
        self._reach: _Own | _Shared = (
            _Own(source, threads, python) if hosts is None else _Shared(Want(source, python, threads, yields), hosts)
        )
        self._socket: socket.socket | None = None
        self._closed = False
        self._ready: Ready | None = None
        if start:
            self._start()

    @property
    def facts(self) -> Ready:
        """What the host said of its model when it was started last."""
        if self._ready is None:
            self._start()
        assert self._ready is not None
        return self._ready

    @property
    def handlers(self) -> Handlers | None:
        """The user's handlers, which run beside the model."""
        return HostedHandlers(self, self.facts) if self.facts.handled else None

    def predict(self, rows: Rows, outputs: tuple[str, ...]) -> Outputs:
        """The named outputs; raises HostFailed when the host is gone, InvalidInput as the model does."""
        columns = rows.columns
        ask = Ask(
            rows.n,
            outputs,
            None if rows.matrix is None else wire.pack(rows.matrix),
            None if columns is None else {name: wire.pack(column) for name, column in columns.items()},
        )
        answer = self.ask(ask)
        assert isinstance(answer, Answer)
        return {name: wire.unpack(array) for name, array in answer.outputs.items()}

    def ask(self, message: Message) -> Message:
        """What the host answers; raises as `predict` does."""
        for _ in range(_ATTEMPTS):
            answer = self._asked(message)
            if not isinstance(answer, Bye):
                break
            self._stop()  # it has ended since the last call, for idleness or not, and never saw this one
        if isinstance(answer, Bye):
            raise HostFailed(f"the host process of model '{self._source.name}' ends as soon as it has started")
        if isinstance(answer, Refusal):
            if answer.caller:
                raise InvalidInput(answer.message, field=answer.field, row=answer.row)
            raise HostFailed(answer.message) from _HostTraceback(answer.traceback)
        return answer

    def _asked(self, message: Message) -> Message:
        if self._socket is None:
            self._start()
        assert self._socket is not None
        try:
            try:
                wire.send(self._socket, message)
            except ConnectionError:
                return Bye()  # it is gone, and cannot have got all of it
            return wire.receive(self._socket)
        except OSError:
            self._stop()
            raise HostFailed(f"the host process of model '{self._source.name}' died while it predicted") from None

    def kill(self) -> None:
        """End the call it is in, from any thread."""
        self._reach.kill()

    def close(self) -> None:
        self._closed = True
        self._stop()

    def _start(self) -> None:
        if self._closed:
            raise HostFailed(f"the host process of model '{self._source.name}' is closed")
        sock = self._reach.connect()
        sock.settimeout(_START_TIMEOUT_S)
        try:
            answer = wire.receive(sock)
        except OSError as error:
            sock.close()
            self._stop()
            why = "did not load it in time" if isinstance(error, TimeoutError) else "ended while it loaded"
            raise LoadFailed(f"the host process of model '{self._source.name}' {why}") from None
        if isinstance(answer, Bye):  # it ended in the moment in which it was found
            sock.close()
            return self._start()
        if isinstance(answer, Refusal):
            sock.close()
            self._stop()
            raise LoadFailed(answer.message)
        assert isinstance(answer, Ready)
        sock.settimeout(None)
        self._reach.pid = answer.pid
        self._socket, self._ready = sock, answer
        return None

    def _stop(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._reach.stop()


class _Own:
    """A process of this worker's own."""

    def __init__(self, source: ModelSource, threads: int, python: str | None) -> None:
        self._boot = Boot(source, threads)
        self._python = python
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self.pid = 0

    def connect(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs, self._lock:
            self._process = environments.spawn(self._python, wire.HOSTING, [theirs.fileno()])
        with contextlib.suppress(OSError):  # it may have ended already: who waits for its answer notices
            wire.send(ours, self._boot)
        return ours

    def kill(self) -> None:
        with self._lock:
            if self._process is not None:
                self._process.kill()

    def stop(self) -> None:
        with self._lock:
            if self._process is not None:
                self._process.kill()
                self._process.wait()
                self._process = None


class _Shared:
    """A process of the whole server; the supervisor starts it and reaps it."""

    def __init__(self, want: Want, hosts: Path) -> None:
        self._want = want
        self._hosts = hosts
        self.pid = 0

    def connect(self) -> socket.socket:
        try:
            with _connected(self._hosts) as desk:
                wire.send(desk, self._want)
                answer = wire.receive(desk)
            assert isinstance(answer, Place)
            return _connected(Path(answer.path))
        except OSError as error:
            name = self._want.source.name
            raise HostFailed(f"the server starts no host process for model '{name}': {error}") from None

    def kill(self) -> None:
        pid, self.pid = self.pid, 0
        if pid:
            try:
                descriptor = os.pidfd_open(pid)
            except ProcessLookupError:
                return
            try:
                if wire.HOSTING.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():  # not a number used again
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            except OSError:
                return
            finally:
                os.close(descriptor)

    def stop(self) -> None:
        """The others may go on with it."""
        self.pid = 0


def _connected(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.connect(str(path))
    except OSError:
        sock.close()
        raise
    return sock


class HostedHandlers:
    """The user's handlers beside a hosted model (types.Handlers)."""

    def __init__(self, predictor: HostedPredictor, facts: Ready) -> None:
        self._predictor = predictor
        self.has_preprocess = facts.has_preprocess
        self.has_postprocess = facts.has_postprocess

    def preprocess(self, records: list[Record]) -> list[Record]:
        return self._shaped(Hook(records))  # type: ignore[no-any-return]

    def postprocess(self, outputs: Mapping[str, Any], records: list[Record], single: bool = False) -> Any:
        return self._shaped(Hook(records, dict(outputs), single))

    def _shaped(self, hook: Hook) -> Any:
        answer = self._predictor.ask(hook)
        assert isinstance(answer, Shaped)
        return answer.value


async def longest_pause(predictor: Predictor, example: Rows, outputs: tuple[str, ...], cost: Cost) -> float:
    """Seconds for which the running loop stands still while the model predicts a block in a thread; 0 for quick ones.

    The least of three trials: a pause that the rest of the machine made does not come three times.
    """
    size = max(1, min(cost.rows_within(_PROBE_S), _PROBE_ROWS))
    if cost.of(size) < MAX_PAUSE_S:
        return 0.0
    block = Rows.join([example.slice(0, 1)] * size)
    least = float("inf")
    for _ in range(_TRIALS):
        longest, before = 0.0, time.perf_counter()  # before the start: a new thread may take the interpreter at once
        work = asyncio.get_running_loop().run_in_executor(None, predictor.predict, block, outputs)
        while before:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            longest, before = max(longest, now - before), 0.0 if work.done() else now
        await work
        least = min(least, longest)
        if least <= MAX_PAUSE_S:
            break
    return least
