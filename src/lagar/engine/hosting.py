"""The life of a host process: it loads one model and answers the workers that ask it.

`python -m lagar.engine.hosting PARENT_FD [LISTENER_FD]`, perhaps with the interpreter of another environment: of Lagar
it takes what a runtime needs, of others numpy, msgspec and the model's own libraries. Without a listener it answers
on its parent's socket. It ends with its parent, and one with a listener when it is idle.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from typing import Any, Final

import msgspec
import numpy as np

from lagar.engine import wire
from lagar.engine.wire import Answer, Ask, Boot, Bye, Hook, Message, Ready, Refusal, Shaped
from lagar.errors import LagarError, RequestError
from lagar.registry import environments
from lagar.registry.model import LoadedModel
from lagar.types import Rows

ALONE_S: Final = 10.0
"""A host that no worker is connected to any more ends after so long: its version is in use no longer."""
_PEER_S: Final = 30.0
"""A worker that stands still in the middle of a message keeps the others waiting for at most so long."""
_PR_SET_PDEATHSIG: Final = 1
YIELDING: Final = 15
"""The nice value of a host that no request waits for: a thirtieth of a core that others want too. With a tenth its
imports showed in the slowest hundredth of the first ten seconds' answers."""


class Host:
    """A loaded model and everyone who may ask it."""

    def __init__(self, loaded: LoadedModel, boot: Boot, parent: socket.socket) -> None:
        self._loaded = loaded
        self._boot = boot
        self._parent = parent
        self.ready = Ready(
            os.getpid(),
            loaded.libraries,
            _installed(boot),
            tuple(loaded.warnings),
            has_preprocess=loaded.handlers is not None and loaded.handlers.has_preprocess,
            has_postprocess=loaded.handlers is not None and loaded.handlers.has_postprocess,
            handled=loaded.handlers is not None,
        )

    def answer(self, message: Message) -> Message:
        """What the model, or the user's handlers, make of a message."""
        try:
            if isinstance(message, Hook):
                return self._hook(message)
            assert isinstance(message, Ask)
            return self._predict(message)
        except RequestError as error:
            return Refusal(error.message, True, error.field, error.row)
        except BaseException as error:  # as in the batcher: sys.exit() of a model does not end its host
            return Refusal(f"{type(error).__name__}: {error}", traceback=traceback.format_exc())

    def _predict(self, ask: Ask) -> Answer:
        rows = Rows(
            ask.n,
            None if ask.matrix is None else wire.unpack(ask.matrix),
            None if ask.columns is None else {name: wire.unpack(column) for name, column in ask.columns.items()},
        )
        outputs = self._loaded.predictor.predict(rows, ask.outputs)
        return Answer({name: wire.pack(np.asarray(array)) for name, array in outputs.items()})

    def _hook(self, hook: Hook) -> Shaped:
        handlers = self._loaded.handlers
        assert handlers is not None
        if hook.outputs is None:
            return Shaped(msgspec.to_builtins(handlers.preprocess(hook.records), enc_hook=_plain))
        value = handlers.postprocess(hook.outputs, hook.records, hook.single)
        return Shaped(msgspec.to_builtins(value, enc_hook=_plain))

    def close(self) -> None:
        """Let the model put away what it holds."""
        with contextlib.suppress(Exception):
            self._loaded.predictor.close()

    def serve_parent(self) -> None:
        """Answer on the parent's socket until it is gone."""
        while True:
            try:
                message = wire.receive(self._parent)
            except ConnectionError:
                return
            wire.send(self._parent, self.answer(message))

    def serve(self, listener: socket.socket) -> None:
        """Answer everyone who connects, one call at a time, until the parent is gone or nobody asks any more."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._parent, selectors.EVENT_READ)
            selector.register(listener, selectors.EVENT_READ)
            peers: set[socket.socket] = set()
            asked_at = time.monotonic()
            while True:
                patience_s = self._boot.idle_s or ALONE_S if peers else ALONE_S
                found = selector.select(max(asked_at + patience_s - time.monotonic(), 0.0))
                if not found and time.monotonic() >= asked_at + patience_s:
                    break
                for key, _ in found:
                    sock = key.fileobj
                    assert isinstance(sock, socket.socket)
                    if sock is self._parent:
                        return
                    if sock is listener:
                        self._accept(listener, peers, selector)
                    elif not self._serve_peer(sock):
                        selector.unregister(sock)
                        peers.discard(sock)
                        sock.close()
                    asked_at = time.monotonic()
            for peer in peers:  # what they send from here on waits for the next host
                _send_quietly(peer, Bye())

    def _accept(self, listener: socket.socket, peers: set[socket.socket], selector: selectors.BaseSelector) -> None:
        try:
            peer, _ = listener.accept()
        except OSError:  # it has gone again
            return
        peer.settimeout(_PEER_S)
        if _send_quietly(peer, self.ready):
            peers.add(peer)
            selector.register(peer, selectors.EVENT_READ)

    def _serve_peer(self, peer: socket.socket) -> bool:
        """One message of a worker; False when the worker is gone."""
        try:
            message = wire.receive(peer)
        except OSError:
            return False
        return _send_quietly(peer, self.answer(message))


def _send_quietly(peer: socket.socket, message: Message) -> bool:
    try:
        wire.send(peer, message)
    except OSError:
        return False
    return True


def _plain(value: Any) -> Any:
    """What handlers return beside JSON's own types."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"a handler returned a {type(value).__name__}, which JSON has not; return text, numbers, lists")


def _installed(boot: Boot) -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version
    from pathlib import Path

    from lagar.registry import manifest as manifests

    if boot.source.manifest is None:
        return {}
    manifest = manifests.decode(Path(boot.source.manifest).read_bytes())
    found: dict[str, str] = {}
    for name in {**manifest.libraries, **manifest.original.libraries}:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def run(parent: socket.socket, listener: socket.socket | None) -> None:
    """Load, say so, answer until the end."""
    from lagar import runtimes

    boot = wire.receive(parent)
    assert isinstance(boot, Boot)
    if boot.yields:
        os.nice(YIELDING)  # in the server's own session: this is between it and the workers
    try:
        host = Host(runtimes.load(boot.source, threads=boot.threads), boot, parent)
    except LagarError as error:
        wire.send(parent, Refusal(error.message))
        return
    wire.send(parent, host.ready)
    if listener is None:
        host.serve_parent()
    else:
        host.serve(listener)
    host.close()


def main() -> None:
    """The process's entry: who has started it decides when it ends; it dies with that even in the middle of a call."""
    for number in environments.SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, environments.SIGNALS)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    sockets = [socket.socket(fileno=int(text)) for text in sys.argv[1:3]]
    for sock in sockets:
        sock.set_inheritable(False)
    run(sockets[0], sockets[1] if len(sockets) > 1 else None)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # a thread of the model must not hold the end up


if __name__ == "__main__":
    main()
