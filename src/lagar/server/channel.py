"""What the processes of one server tell each other, over one Unix socket pair per child.

Each message is one tagged JSON object behind a 4-byte big-endian length. The supervisor is at one end of every channel.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import msgspec

from lagar.registry.model import ModelInfo, ModelSource
from lagar.settings import ServerSettings


class KeyRow(msgspec.Struct, frozen=True):
    """An API key as workers know it: never the secret itself."""

    id: str
    digest: str
    """Hex SHA-256 of the secret part."""
    scopes: tuple[str, ...]
    expires_at: float | None = None
    """Unix seconds."""


class WorkerBoot(msgspec.Struct, frozen=True, tag="worker_boot"):
    """First message to a worker."""

    slot: int
    workers: int
    threads: int
    """For BLAS, OpenMP and ONNX Runtime."""
    settings: ServerSettings
    sources: tuple[ModelSource, ...]
    live: dict[str, str]
    """Model → the version that answers when none is named."""
    control_socket: str
    metrics_dir: str
    keys: tuple[KeyRow, ...]
    port: int
    """The bound port."""
    weights: dict[str, dict[str, int]] = {}
    """Model → version → share of the traffic, for models whose traffic is split."""
    generation: int = 0
    hold: bool = False
    """True: load, but accept no connection before Commit."""


class ControlBoot(msgspec.Struct, frozen=True, tag="control_boot"):
    """First message to the control process."""

    settings: ServerSettings
    control_socket: str
    metrics_dir: str
    home: str
    workers: int
    port: int
    url: str = ""
    """The server's own address, for its lease."""
    from_catalog: bool = False
    """True: this server answers with what the catalog says is in production."""
    server_id: str = ""
    """The server's name in the catalog, the same for every control process of its life."""
    generation: int = -1
    """What the workers answer with, for a control process that takes another one's place; -1 at the start."""


class Loaded(msgspec.Struct, frozen=True, tag="loaded"):
    """Worker → supervisor → control: every model is loaded and warm; the worker accepts connections."""

    models: tuple[ModelInfo, ...]


class Alive(msgspec.Struct, frozen=True, tag="alive"):
    """Child → supervisor, every `BEAT_S` from its ready message on, and supervisor → control: its event loop turns."""


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """Child → supervisor: it cannot start; the message is for the person at the terminal."""

    code: str
    message: str


class Prepare(msgspec.Struct, frozen=True, tag="prepare"):
    """Control → supervisor → workers: load this set beside the one in use, and say whether it would serve."""

    generation: int
    sources: tuple[ModelSource, ...]
    live: dict[str, str]
    weights: dict[str, dict[str, int]] = {}


class Prepared(msgspec.Struct, frozen=True, tag="prepared"):
    """Worker → supervisor → control: the outcome of Prepare."""

    generation: int
    ok: bool
    reason: str = ""
    fresh: bool = False
    """From a worker: a process that starts anew should load this set, since loading here would slow requests down."""


class Commit(msgspec.Struct, frozen=True, tag="commit"):
    """Control → supervisor → workers: from now on the prepared set answers."""

    generation: int


class Lapsed(msgspec.Struct, frozen=True, tag="lapsed"):
    """Control → supervisor: why this server cannot follow the catalog; "" when it can again."""

    reason: str


class Abandon(msgspec.Struct, frozen=True, tag="abandon"):
    """Control → supervisor → workers: forget what was prepared."""

    generation: int


class ControlReady(msgspec.Struct, frozen=True, tag="control_ready"):
    """Control → supervisor: its socket answers."""


class ServerState(msgspec.Struct, frozen=True, tag="state"):
    """Supervisor → everyone: the truth about readiness."""

    ready: bool
    reason: str = ""
    workers_ready: int = 0
    workers: int = 0


class Models(msgspec.Struct, frozen=True, tag="models"):
    """Supervisor → control: what is loaded."""

    models: tuple[ModelInfo, ...]


class Keys(msgspec.Struct, frozen=True, tag="keys"):
    """Control → supervisor → workers: the keys that are valid from now on."""

    keys: tuple[KeyRow, ...]


class Drain(msgspec.Struct, frozen=True, tag="drain"):
    """Supervisor → child: stop accepting, answer what was accepted, exit 0."""

    successor: bool = False
    """True: another process answers in its place, so the server is ready, and idle connections are given time."""


Message = (
    WorkerBoot | ControlBoot | Loaded | Alive | Failed | ControlReady | ServerState | Models | Keys | Drain
    | Prepare | Prepared | Commit | Abandon | Lapsed
)  # fmt: skip

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)
BEAT_S = 1.0
MAX_MESSAGE_BYTES = 256 * 1024 * 1024


class Channel:
    """One end of a socket pair, on an event loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, sock: socket.socket) -> Channel:
        sock.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=sock)
        return cls(reader, writer)

    def send(self, message: Message) -> None:
        """Queue a message; a peer that has died is noticed by `receive`, not here."""
        if self._writer.is_closing():
            return
        data = _encoder.encode(message)
        self._writer.write(len(data).to_bytes(4, "big") + data)

    async def receive(self) -> Message | None:
        """The next message; None when the other end is gone."""
        try:
            size = int.from_bytes(await self._reader.readexactly(4), "big")
            return _decoder.decode(await self._reader.readexactly(size))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    async def messages(self) -> AsyncIterator[Message]:
        while (message := await self.receive()) is not None:
            yield message

    async def beat(self) -> None:
        """Say for ever that this process lives."""
        while True:
            self.send(Alive())
            await asyncio.sleep(BEAT_S)

    async def close(self) -> None:
        """Send what is queued and close; a peer that has died is no error."""
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()
