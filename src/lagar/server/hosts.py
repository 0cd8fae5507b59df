"""The host processes of a server: one per model that runs outside the workers' own environment, for all workers.

The supervisor is their parent, so none outlives the server. It holds the socket that each listens on: who connects to
one without a process has it started, whatever waits there while a process dies is answered by its successor, and a host
that ends because it is idle is no failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import socket
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final

from lagar.engine import wire
from lagar.engine.wire import Boot, Message, Place, Ready, Refusal, Want
from lagar.logs import Log
from lagar.registry import environments

LOAD_TIMEOUT_S: Final = 300.0
_BACKLOG: Final = 1024


class Hosts:
    """Says where hosts listen, starts them when somebody connects, and ends them with the server.

    Use it as an asynchronous context manager, in the main thread: its children end with the thread that started them.
    """

    def __init__(self, folder: Path, variables: Mapping[str, str], idle_s: float, log: Log) -> None:
        self._folder = folder
        self._variables = variables
        self._idle_s = idle_s
        self._log = log
        self._posts: dict[str, HostPost] = {}

    async def __aenter__(self) -> Hosts:
        path = self._folder / wire.HOSTS_SOCKET
        self._server = await asyncio.start_unix_server(self._answer, path=path)
        path.chmod(stat.S_IRUSR | stat.S_IWUSR)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for post in self._posts.values():
            await post.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            want = await receive(reader)
            assert isinstance(want, Want)
            send(writer, Place(str(self._post(want).path)))
            await writer.drain()
        writer.close()

    def _post(self, want: Want) -> HostPost:
        key = hashlib.sha256(wire.encode(want)).hexdigest()[:12]
        if key not in self._posts:
            boot = Boot(want.source, want.threads, self._idle_s, want.yields)
            path = self._folder / f"host-{key}.sock"
            self._posts[key] = HostPost(path, boot, want.python, self._variables, self._log)
        return self._posts[key]


class HostPost:
    """A place where a host listens, whether its process is there or not."""

    def __init__(self, path: Path, boot: Boot, python: str | None, variables: Mapping[str, str], log: Log) -> None:
        self.path = path
        self._boot = boot
        self._python = python
        self._variables = variables
        self._log = log
        self._name = f"{boot.source.name}@{boot.source.version}"
        self._process: subprocess.Popen[bytes] | None = None
        self._life: asyncio.Task[None] | None = None
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.setblocking(False)
        self._listener.bind(str(path))
        self._listener.listen(_BACKLOG)
        self._loop = asyncio.get_running_loop()
        self._watch()

    def _watch(self) -> None:
        self._loop.add_reader(self._listener, self._begin)

    def _begin(self) -> None:
        """Somebody has connected."""
        self._loop.remove_reader(self._listener)
        self._life = self._loop.create_task(self._live())

    async def _live(self) -> None:
        """One process from its start to its end."""
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        try:
            with theirs:
                ended = self._start(theirs)
            send(writer, self._boot)
            why = await self._loaded(reader)
            if why:
                self._refuse(why)
            await ended
            code = self._end()
            if code != 0 and not why:
                self._log.error(f"the host process of {self._name} {how(code)}; the next request starts it again")
        except OSError as error:  # no interpreter any more, or no more processes
            self._refuse(f"the host process of {self._name} cannot be started: {error}")
        finally:
            writer.close()
            self._end()
        self._watch()

    def _start(self, theirs: socket.socket) -> asyncio.Future[None]:
        """Start the process; done when it has ended."""
        self._process = environments.spawn(
            self._python, wire.HOSTING, [theirs.fileno(), self._listener.fileno()], self._variables
        )
        self._log.info(f"a host process for {self._name} starts", pid=self._process.pid, python=self._python)
        ended: asyncio.Future[None] = self._loop.create_future()
        watched = os.pidfd_open(self._process.pid)

        def notice() -> None:
            self._loop.remove_reader(watched)
            os.close(watched)
            if not ended.done():
                ended.set_result(None)

        self._loop.add_reader(watched, notice)
        return ended

    async def _loaded(self, reader: asyncio.StreamReader) -> str:
        """Why the process cannot answer; "" when it can."""
        assert self._process is not None
        try:
            async with asyncio.timeout(LOAD_TIMEOUT_S):
                message = await receive(reader)
        except TimeoutError:
            self._process.kill()
            return f"the host process of {self._name} did not load it within {LOAD_TIMEOUT_S:g} s"
        except (OSError, asyncio.IncompleteReadError):
            self._process.kill()
            return f"the host process of {self._name} ended while it loaded; the server's log has the reason"
        if isinstance(message, Refusal):
            return message.message
        assert isinstance(message, Ready)
        return ""

    def _refuse(self, why: str) -> None:
        """Tell everyone who waits on the socket."""
        self._log.error(why)
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            with peer, contextlib.suppress(OSError):
                peer.setblocking(False)
                wire.send(peer, Refusal(why))

    def _end(self) -> int:
        """End the process if it lives; its return code as subprocess has it."""
        process, self._process = self._process, None
        if process is None:
            return 0
        if process.poll() is None:
            process.kill()
        return process.wait()

    async def close(self) -> None:
        """End the process and close the socket."""
        self._loop.remove_reader(self._listener)
        if self._life is not None:
            self._life.cancel()
            await asyncio.wait({self._life})
        self._listener.close()
        self.path.unlink(missing_ok=True)


def how(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"ended with exit code {code}"
    return f"was killed by {signal.Signals(-code).name if -code in set(signal.Signals) else f'signal {-code}'}"


async def receive(reader: asyncio.StreamReader) -> Message:
    """One message of a host or a worker."""
    size = int.from_bytes(await reader.readexactly(wire.HEAD_BYTES), "big")
    return wire.decode(await reader.readexactly(size))


def send(writer: asyncio.StreamWriter, message: Message) -> None:
    data = wire.encode(message)
    writer.write(len(data).to_bytes(wire.HEAD_BYTES, "big") + data)
