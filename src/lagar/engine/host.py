"""A process of its own for a model that would hold the worker's interpreter: the GIL of the host is not the loop's.

The worker's model thread sends rows over a socket pair and waits for the answer without the GIL. Nothing is pickled:
arrays travel as their bytes, text as JSON. A host that dies or is killed fails the call it was in and is started again
for the next one.
"""

from __future__ import annotations

import asyncio
import ctypes
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from typing import Any

import msgspec
import numpy as np

from lagar.engine.cost import Cost
from lagar.errors import InvalidInput, LagarError, LoadFailed, RequestError
from lagar.registry.model import ModelSource
from lagar.types import Array, Outputs, Predictor, Rows

MAX_PAUSE_S = 0.020
"""A model that stops the event loop for longer while it runs in a thread gets a host."""
_PROBE_S = 0.100
_PROBE_ROWS = 4096
_TRIALS = 3
_SIGNALS = {signal.SIGINT, signal.SIGTERM}
_PR_SET_PDEATHSIG = 1
_START_TIMEOUT_S = 300.0


class _Array(msgspec.Struct, array_like=True):
    """An array on the wire: raw bytes of a numeric dtype, or the items of an object array."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes | list[Any]


class _Boot(msgspec.Struct, tag="boot"):
    source: ModelSource
    threads: int


class _Ask(msgspec.Struct, tag="ask"):
    n: int
    outputs: tuple[str, ...]
    matrix: _Array | None
    columns: dict[str, _Array] | None


class _Answer(msgspec.Struct, tag="answer"):
    outputs: dict[str, _Array]


class _Refusal(msgspec.Struct, tag="refusal"):
    """The model raised; `caller` when it is the caller's mistake."""

    message: str
    caller: bool = False
    field: str | None = None
    row: int | None = None
    traceback: str = ""


class _Ready(msgspec.Struct, tag="ready"):
    pass


_Message = _Boot | _Ask | _Answer | _Refusal | _Ready
_encode = msgspec.msgpack.Encoder().encode
_decoder: msgspec.msgpack.Decoder[_Message] = msgspec.msgpack.Decoder(_Message)


class HostFailed(LagarError):
    """The host process died, or its model raised."""

    code = "host_failed"


class _HostTraceback(Exception):
    """The traceback of the host, as the cause of what is raised in the worker: the log then has both."""

    def __str__(self) -> str:
        return f"in the host process\n{self.args[0]}"


class HostedPredictor:
    """A predictor whose model lives in another process (types.Predictor)."""

    def __init__(self, source: ModelSource, threads: int) -> None:
        self._source = source
        self._threads = threads
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()
        self._closed = False
        self._start()

    def predict(self, rows: Rows, outputs: tuple[str, ...]) -> Outputs:
        """The named outputs; raises HostFailed when the host is gone, InvalidInput as the model does."""
        if self._socket is None:
            self._start()
        assert self._socket is not None
        columns = rows.columns
        ask = _Ask(
            rows.n,
            outputs,
            None if rows.matrix is None else _pack(rows.matrix),
            None if columns is None else {name: _pack(column) for name, column in columns.items()},
        )
        try:
            _send(self._socket, ask)
            answer = _receive(self._socket)
        except OSError:
            self._stop()
            raise HostFailed(f"the host process of model '{self._source.name}' died while it predicted") from None
        if isinstance(answer, _Refusal):
            if answer.caller:
                raise InvalidInput(answer.message, field=answer.field, row=answer.row)
            raise HostFailed(answer.message) from _HostTraceback(answer.traceback)
        assert isinstance(answer, _Answer)
        return {name: _unpack(array) for name, array in answer.outputs.items()}

    def kill(self) -> None:
        """End the call it is in, from any thread."""
        with self._lock:
            if self._process is not None:
                self._process.kill()

    def close(self) -> None:
        self._closed = True
        self._stop()

    def _start(self) -> None:
        if self._closed:
            raise HostFailed(f"the host process of model '{self._source.name}' is closed")
        ours, theirs = socket.socketpair()
        # The mask is inherited: a Ctrl-C during the host's imports waits until it has decided to let it pass.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            with theirs, self._lock:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "lagar.engine.host", str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        ours.settimeout(_START_TIMEOUT_S)
        try:
            _send(ours, _Boot(self._source, self._threads))
            answer = _receive(ours)
        except OSError:
            ours.close()
            self._stop()
            raise LoadFailed(f"the host process of model '{self._source.name}' ended while it loaded") from None
        if isinstance(answer, _Refusal):
            ours.close()
            self._stop()
            raise LoadFailed(answer.message)
        ours.settimeout(None)
        self._socket = ours

    def _stop(self) -> None:
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None
            if self._process is not None:
                self._process.kill()
                self._process.wait()
                self._process = None


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


def _pack(array: Array) -> _Array:
    if array.dtype.hasobject or array.dtype.kind in "US":
        return _Array("object" if array.dtype.hasobject else array.dtype.str, array.shape, array.ravel().tolist())
    return _Array(array.dtype.str, array.shape, np.ascontiguousarray(array).tobytes())


def _unpack(array: _Array) -> Array:
    if isinstance(array.data, bytes):
        return np.frombuffer(array.data, dtype=array.dtype).reshape(array.shape)
    flat: Array = np.empty(len(array.data), dtype=array.dtype)
    flat[:] = array.data
    return flat.reshape(array.shape)


def _send(sock: socket.socket, message: _Message) -> None:
    data = _encode(message)
    sock.sendall(len(data).to_bytes(8, "big") + data)


def _receive(sock: socket.socket) -> _Message:
    size = int.from_bytes(_exactly(sock, 8), "big")
    return _decoder.decode(_exactly(sock, size))


def _exactly(sock: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    view, got = memoryview(data), 0
    while got < size:
        count = sock.recv_into(view[got:])
        if count == 0:
            raise ConnectionError("the other end is gone")
        got += count
    return data


def _answer(predictor: Predictor, ask: _Ask) -> _Message:
    try:
        rows = Rows(
            ask.n,
            None if ask.matrix is None else _unpack(ask.matrix),
            None if ask.columns is None else {name: _unpack(column) for name, column in ask.columns.items()},
        )
        outputs = predictor.predict(rows, ask.outputs)
        return _Answer({name: _pack(np.asarray(array)) for name, array in outputs.items()})
    except RequestError as error:
        return _Refusal(error.message, True, error.field, error.row)
    except BaseException as error:  # as in the batcher: sys.exit() of a model does not end its host
        return _Refusal(f"{type(error).__name__}: {error}", traceback=traceback.format_exc())


def serve(sock: socket.socket) -> None:
    """The host's life: load, say so, answer until the worker is gone."""
    from lagar import runtimes

    boot = _receive(sock)
    assert isinstance(boot, _Boot)
    try:
        predictor = runtimes.load(boot.source, threads=boot.threads).predictor
    except LagarError as error:
        _send(sock, _Refusal(error.message))
        return
    _send(sock, _Ready())
    while True:
        try:
            ask = _receive(sock)
        except ConnectionError:
            return
        assert isinstance(ask, _Ask)
        _send(sock, _answer(predictor, ask))


def main() -> None:
    """The process's entry: the worker decides when it ends; it dies with the worker even in the middle of a call."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    with socket.socket(fileno=int(sys.argv[1])) as sock:
        serve(sock)


if __name__ == "__main__":
    main()
