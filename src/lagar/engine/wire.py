"""What a worker, a host process and the supervisor say to each other about a hosted model.

Each message is tagged msgpack behind an 8-byte big-endian length. Nothing is pickled: arrays travel as their bytes,
texts as JSON has them. The supervisor does without numpy, so it is imported where arrays are.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import msgspec

from lagar.registry.model import ModelSource

if TYPE_CHECKING:
    from lagar.types import Array


class PackedArray(msgspec.Struct, array_like=True):
    """An array on the wire: raw bytes of a numeric dtype, or the items of an object array."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes | list[Any]


class Boot(msgspec.Struct, tag="boot"):
    """First message to a host, from who has started it."""

    source: ModelSource
    threads: int
    idle_s: float | None = None
    """A host on a listening socket ends itself when it is asked nothing for so long."""
    yields: bool = False
    """True: whatever else this machine computes goes first; for a host that no request waits for."""


class Want(msgspec.Struct, tag="want"):
    """Worker → supervisor: where does the server's host of this model listen?"""

    source: ModelSource
    python: str | None
    """The interpreter of its environment; None for Lagar's own."""
    threads: int
    yields: bool = False
    """As in Boot."""


class Place(msgspec.Struct, tag="place"):
    """Supervisor → worker: on this Unix socket; whoever connects starts the host if there is none."""

    path: str


class Ready(msgspec.Struct, tag="ready"):
    """A host has loaded its model: to who has started it, and to everybody who connects."""

    pid: int
    libraries: dict[str, str]
    """Library → version that the model runs on."""
    installed: dict[str, str]
    """Distribution → version of the host's environment, for those that the version's record names."""
    warnings: tuple[str, ...]
    has_preprocess: bool = False
    has_postprocess: bool = False
    handled: bool = False
    """True when the model has handlers."""


class Ask(msgspec.Struct, tag="ask"):
    """Rows to predict."""

    n: int
    outputs: tuple[str, ...]
    matrix: PackedArray | None
    columns: dict[str, PackedArray] | None


class Answer(msgspec.Struct, tag="answer"):
    outputs: dict[str, PackedArray]


class Hook(msgspec.Struct, tag="hook"):
    """A call of the user's handlers: preprocess without outputs, postprocess with them."""

    records: list[dict[str, Any]]
    outputs: dict[str, Any] | None = None
    single: bool = False


class Shaped(msgspec.Struct, tag="shaped"):
    """What a handler has made."""

    value: Any


class Refusal(msgspec.Struct, tag="refusal"):
    """The model raised, or could not be loaded; `caller` when it is the caller's mistake."""

    message: str
    caller: bool = False
    field: str | None = None
    row: int | None = None
    traceback: str = ""


class Bye(msgspec.Struct, tag="bye"):
    """A host was idle and ends: what was sent to it meanwhile it has not looked at."""


Message = Boot | Want | Place | Ready | Ask | Answer | Hook | Shaped | Refusal | Bye
encode = msgspec.msgpack.Encoder().encode
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)
decode = _decoder.decode
HEAD_BYTES = 8
HOSTING = "lagar.engine.hosting"
"""The module that a host process runs."""
HOSTS_SOCKET = "hosts.sock"
"""In the server's run folder: there the supervisor says where a shared host listens."""


def send(sock: socket.socket, message: Message) -> None:
    """Send one message; raises OSError when the other end is gone."""
    data = encode(message)
    sock.sendall(len(data).to_bytes(HEAD_BYTES, "big") + data)


def receive(sock: socket.socket) -> Message:
    """The next message; raises ConnectionError when the other end is gone."""
    size = int.from_bytes(_exactly(sock, HEAD_BYTES), "big")
    return decode(_exactly(sock, size))


def _exactly(sock: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    view, got = memoryview(data), 0
    while got < size:
        count = sock.recv_into(view[got:])
        if count == 0:
            raise ConnectionError("the other end is gone")
        got += count
    return data


def pack(array: Array) -> PackedArray:
    """An array for the wire."""
    import numpy as np

    if array.dtype.hasobject or array.dtype.kind in "US":
        return PackedArray("object" if array.dtype.hasobject else array.dtype.str, array.shape, array.ravel().tolist())
    return PackedArray(array.dtype.str, array.shape, np.ascontiguousarray(array).tobytes())


def unpack(array: PackedArray) -> Array:
    """The array that was packed; one of numbers cannot be written to."""
    import numpy as np

    if isinstance(array.data, bytes):
        return np.frombuffer(array.data, dtype=array.dtype).reshape(array.shape)
    flat: Array = np.empty(len(array.data), dtype=array.dtype)
    flat[:] = array.data
    return flat.reshape(array.shape)
