"""What the processes of one server tell each other, over one Unix socket pair per child.

Each message is one tagged JSON object behind a 4-byte big-endian length. The supervisor is at one end of every channel.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable

import msgspec

from lagar.registry.model import Asked, FormSource, ModelInfo, ModelSource
from lagar.registry.proof import Violation
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
    keys: tuple[KeyRow, ...] | None
    """None: they will be told, and no connection may be accepted before."""
    port: int
    """The bound port."""
    weights: dict[str, dict[str, int]] = {}
    """Model → version → share of the traffic, for models whose traffic is split."""
    generation: int = 0
    memory_bytes: int = 0
    """What its versions may take; 0: no bound."""
    from_catalog: bool = False
    """True: control knows versions beyond `sources`, and says where they lie."""
    hold: bool = False
    """True: load, but accept no connection before Commit."""
    whole: bool = False
    """True: load all of the set or fail, whatever the memory's bound: it is to go live as one."""


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
    asked: Asked = Asked()
    """The paths that were given; none: this server answers with what the catalog says is in production."""
    cores: int = 1
    """How many models may be taken in at once."""
    sources: tuple[ModelSource, ...] = ()
    """What the workers answer with, for a control process that takes another one's place."""
    server_id: str = ""
    """The server's name in the catalog, the same for every control process of its life."""
    generation: int = -1
    """What the workers answer with, for a control process that takes another one's place; -1 at the start."""


class Loaded(msgspec.Struct, frozen=True, tag="loaded"):
    """Worker → supervisor → control: every model is loaded and warm; the worker accepts connections."""

    models: tuple[ModelInfo, ...]


class Alive(msgspec.Struct, frozen=True, tag="alive"):
    """Child → supervisor, every `BEAT_S` from its ready message on, and supervisor → control: its event loop turns."""

    waiting: float = 0.0
    """Of a worker: requests that waited for their turn since the last beat, on average."""
    busy: float = 0.0
    """Share of the time since then in which it computed."""


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """Child → supervisor: it cannot start; the message is for the person at the terminal."""

    code: str
    message: str


class Prepare(msgspec.Struct, frozen=True, tag="prepare"):
    """Control → supervisor → workers: load what is new in this set beside the one in use, and say whether it would
    serve.

    Only some of what is live is in `sources`: all that was not live before, and what a new process loads at its start.
    """

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


class Want(msgspec.Struct, frozen=True, tag="want"):
    """Worker → supervisor → control: which version of the catalog is meant, and where its files lie."""

    number: int
    """The worker's own, for the answer."""
    model: str
    ref: str
    """A label or an alias."""
    lay_out: bool = True
    """False: only its label is asked for."""
    worker: int = 0
    """The pid of who asks; the supervisor fills it in."""


class Have(msgspec.Struct, frozen=True, tag="have"):
    """Control → supervisor → worker: the answer to Want."""

    number: int
    worker: int
    version: str = ""
    """The label."""
    source: ModelSource | None = None
    code: str = ""
    """Why there is none, as the error's code: "not_found" where nobody knows or may load the version."""
    message: str = ""


class Changed(msgspec.Struct, frozen=True, tag="changed"):
    """Control → supervisor → workers: the catalog has changed; what was asked of it before may not hold any more."""


class Violated(msgspec.Struct, frozen=True, tag="violated"):
    """Worker → supervisor → control and every worker: a version's forms were wrong on a live row, and are given up."""

    model: str
    version: str
    forms: tuple[FormSource, ...]
    """Those that were given up: what was proved anew since is not meant."""
    violation: Violation
    at: str
    """UTC, ISO 8601."""


class Lapsed(msgspec.Struct, frozen=True, tag="lapsed"):
    """Control → supervisor: why this server cannot follow the catalog; "" when it can again."""

    reason: str


class Abandon(msgspec.Struct, frozen=True, tag="abandon"):
    """Control → supervisor → workers: forget what was prepared."""

    generation: int


class ControlReady(msgspec.Struct, frozen=True, tag="control_ready"):
    """Control → supervisor: the catalog is open, and whoever asks on its socket is answered."""


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
    | Prepare | Prepared | Commit | Abandon | Lapsed | Want | Have | Changed | Violated
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

    async def beat(self, pulse: Callable[[], Alive] = Alive) -> None:
        """Say for ever that this process lives, in the words of `pulse`."""
        while True:
            self.send(pulse())
            await asyncio.sleep(BEAT_S)

    async def close(self) -> None:
        """Send what is queued and close; a peer that has died is no error."""
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()
