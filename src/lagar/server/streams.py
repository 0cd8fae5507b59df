"""One call of a gRPC client, between the connection that carries it and what answers it."""

from __future__ import annotations

import struct
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

from lagar.engine.batcher import Call
from lagar.server.frames import STATUS_200, Head, literal

if TYPE_CHECKING:
    from lagar.server.grpc import Method
    from lagar.server.http2 import Connection

WINDOW_BYTES: Final = 256 * 1024
"""What a client may send for a call before it has said how long its message is."""
PREFIX: Final = struct.Struct(">BI")
"""What stands before each message: whether it is compressed, and its length."""
PREFIX_BYTES: Final = PREFIX.size
_FIRST_BLOCK: Final = STATUS_200 + literal(b"content-type", b"application/grpc")


class Stream:
    """One call of a client, as the connection sees it; it is also the sink of its prediction."""

    __slots__ = (
        "allowed", "begun", "call", "complete", "connection", "data", "endless", "endpoint", "granted", "head", "id",
        "live", "method", "moved", "on_gone", "opened", "pending", "request_id", "trailer", "wanted", "window",
    )  # fmt: skip

    def __init__(self, connection: Connection, number: int, head: Head, window: int) -> None:
        self.connection = connection
        self.id = number
        self.head = head
        self.window = window
        """Bytes that may still be sent."""
        self.allowed = WINDOW_BYTES
        """Bytes that the client may still send."""
        self.granted = 0
        """What it may send beyond the first window, out of the connection's budget."""
        self.data: bytes | bytearray = b""
        """What has come of the message that is arriving, and behind it."""
        self.wanted = 0
        """Bytes of the message that is arriving, with its prefix; 0: its prefix is not there yet."""
        self.complete = False
        """The client has sent all that it will."""
        self.live = True
        """False once it was answered, or the client has left."""
        self.begun = False
        """True once the first header block of the answer is out."""
        self.pending: deque[memoryview] = deque()
        self.moved = 0.0
        """When the client last let some of that through, on time.monotonic."""
        self.trailer: bytes | None = None
        self.opened = time.perf_counter()
        self.request_id = ""
        self.method: Method = cast("Method", None)
        self.endless = False
        """True: its answers have no end of their own, a drain ends it."""
        self.on_gone: Callable[[], object] | None = None
        """Called when the client takes the call back, or is gone."""
        self.call: Call | None = None
        self.endpoint: Any = None
        """The version that answers it, once that is known: an Endpoint."""

    @property
    def first_block(self) -> bytes:
        """The header block that every answer begins with."""
        return _FIRST_BLOCK + literal(b"x-request-id", self.request_id.encode("ascii"))

    @property
    def unsent(self) -> int:
        """Bytes of its answers that the client has not let through."""
        return sum(map(len, self.pending))

    @property
    def size(self) -> int:
        """Bytes of messages that are there."""
        return len(self.data)

    def take(self, payload: bytes) -> None:
        """More bytes have come; a message in many frames grows in one place, for each of them could be a byte long."""
        if not self.data:
            self.data = payload
            return
        if isinstance(self.data, bytes):
            self.data = bytearray(self.data)
        self.data += payload

    def first_message(self) -> tuple[bool, bytes]:
        """Whether the message that is whole is compressed, and the message; the next one begins behind it."""
        data, stop = self.data, self.wanted
        packed, message = data[0] == 1, bytes(data[PREFIX_BYTES:stop])
        self.data = data[stop:] if len(data) > stop else b""
        return packed, message

    @property
    def deadline(self) -> float | None:
        """When the client stops waiting, on time.perf_counter."""
        return None if self.head.timeout_s is None else self.opened + self.head.timeout_s

    def answered(self, call: Call) -> None:
        """The engine is done with the prediction of this stream (engine.batcher.Sink)."""
        self.connection.server.calls.answered(self, call)

    def answer(self, message: bytes) -> None:
        """One message and OK: the whole answer of most calls."""
        if self.live:
            self.connection.answer(self, message)

    def send(self, message: bytes) -> None:
        """One of several messages of an answer."""
        if self.live:
            self.connection.send(self, message)

    def finish(self, status: int, headers: bytes = b"") -> None:
        """The end of the answer: a gRPC status, and header literals beside it."""
        if self.live:
            self.connection.finish(self, literal(b"grpc-status", b"%d" % status) + headers)
