"""gRPC calls of one worker: which method is meant, whether it may be called, what it answers.

Predictions go the way that predictions over HTTP go: the same endpoint, batcher, gate and counters. Every method has a
twin among the HTTP routes, and needs the key that its twin needs.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from lagar.engine.batcher import Batcher, Call
from lagar.errors import DeadlineExceeded, InvalidInput, ModelFailed, PayloadTooLarge, RequestError
from lagar.metrics import Registry
from lagar.protocols import grpc
from lagar.protocols.base import PLAIN, error_headers, message_of, status_of
from lagar.protocols.schema import Message
from lagar.server.auth import Gate
from lagar.server.coding import LARGE_AT_ONCE
from lagar.server.demand import Demand
from lagar.server.frames import literal
from lagar.server.http2 import Connection
from lagar.server.lane import OFF_LOOP_ROWS, Endpoint
from lagar.server.serving import Serving
from lagar.server.streams import Stream
from lagar.settings import ServerSettings

OFF_LOOP_MESSAGE_BYTES: Final = 1024 * 1024
"""Larger messages are decoded in a thread."""
ASKED_BYTES: Final = 64 * 1024
"""What a message may have that holds no rows: some need no key, and are read where all calls are."""
OK, UNIMPLEMENTED = 0, 12

log = logging.getLogger("lagar.grpc")

Unary = Callable[[dict[str, Any], Stream], Awaitable[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Method:
    """One method of a service."""

    name: str
    """/PACKAGE.SERVICE/METHOD."""
    twin: tuple[str, str]
    """The method and path of the HTTP route that does the same: it says which key is needed."""
    begin: Callable[[Stream, bytes, bool], None]
    """Called with a message, and whether it is compressed."""
    streams: bool = False
    """True: a call sends several messages."""


class Calls:
    """What the streams of all connections are answered with."""

    def __init__(
        self,
        serving: Callable[[], Serving],
        batcher: Batcher,
        gate: Gate,
        demand: Demand,
        settings: ServerSettings,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._serving = serving
        self._batcher = batcher
        self._gate = gate
        self._demand = demand
        self._settings = settings
        self._timeout_s = settings.request_timeout_s
        self._loop = loop
        self._large = asyncio.Semaphore(LARGE_AT_ONCE)
        self._methods: dict[bytes, Method] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._predict = Method(grpc.INFER, ("POST", "/v2/models/any/infer"), self._infer)
        self.add(self._predict)

    def add(self, method: Method) -> None:
        """Answer one more method."""
        self._methods[method.name.encode("ascii")] = method

    def unary(self, name: str, twin: tuple[str, str], request: Message, answer: Message, run: Unary) -> None:
        """Answer one more method that takes a message and gives one."""

        def begin(stream: Stream, data: bytes, packed: bool) -> None:
            self._start(stream, self._run(stream, data, packed, request, answer, run))

        self.add(Method(name, twin, begin))

    # -- what connections say

    def begin(self, stream: Stream) -> None:
        """The headers of a call are there."""
        head = stream.head
        method = self._methods.get(head.path)
        if method is None:
            path = head.path[:200].decode("utf-8", "replace")
            words = f"{path} is no method of this server; reflection lists those that it has"
            stream.finish(UNIMPLEMENTED, _message(words))
            return
        stream.method = method
        if head.refusal is not None:  # not raised: a head is remembered, and its error would gather tracebacks
            self.refuse(stream, head.refusal)
            return
        try:
            if method is self._predict:
                self._gate.check_prediction(head.authorization)
            else:
                self._gate.check(*method.twin, head.authorization)
        except RequestError as error:
            self.refuse(stream, error)

    def message(self, stream: Stream, data: bytes, packed: bool) -> None:
        """A whole message has come, compressed or not."""
        try:
            stream.method.begin(stream, data, packed)
        except Exception as error:
            self.refuse(stream, self._logged(stream, error))

    def ended(self, stream: Stream) -> None:
        """A call that sends several messages has sent its last one."""
        stream.finish(OK)

    def no_message(self, stream: Stream) -> RequestError:
        """Why a call that ended without one whole message is refused."""
        got = f"{stream.size} bytes, {stream.wanted} are announced" if stream.wanted else f"{stream.size} bytes"
        return InvalidInput(f"a call of {stream.method.name} sends one message; what came has {got}")

    def too_large(self, stream: Stream, length: int) -> RequestError | None:
        """The refusal of a message that is announced, or packed, as larger than its method takes."""
        if length <= (most := self._most(stream)):
            return None
        if stream.method is self._predict:
            step = "send fewer rows per request, or raise the server's max_body_bytes"
        else:
            step = "it needs no more; models are pushed with `lagar push`"
        return PayloadTooLarge(
            f"a message of {stream.method.name} has {length} bytes, the limit is {most} bytes; {step}"
        )

    def _most(self, stream: Stream) -> int:
        most = self._settings.max_body_bytes
        return most if stream.method is self._predict else min(most, ASKED_BYTES)

    def too_late(self, stream: Stream) -> RequestError:
        """The refusal of a call whose own deadline has passed."""
        return DeadlineExceeded(f"the call's deadline of {stream.head.timeout_s:g} s has passed")

    def gone(self, stream: Stream) -> None:
        """Nobody waits for the answer any more."""
        if stream.call is not None:
            self._batcher.cancel(stream.call)
            stream.call = None
        if stream.on_gone is not None:
            stream.on_gone()

    def drain(self, streams: list[Stream]) -> None:
        """The connection takes no more calls: those that would never end, end."""
        for stream in streams:
            if stream.method.streams or stream.endless:
                stream.finish(grpc.STATUS["not_ready"], _message("the server is going; call again"))

    def refuse(self, stream: Stream, error: BaseException) -> None:
        """End a call with the status of an error."""
        endpoint: Endpoint | None = stream.endpoint
        if endpoint is not None:
            endpoint.count(error if isinstance(error, RequestError) else None, status_of(error))
        text = message_of(error)
        if status_of(error) == 500:
            text = f"{text} (request {stream.request_id})"
        headers = b"".join(literal(k.encode(), v.encode("latin-1")) for k, v in error_headers(error) if k in _KEPT)
        stream.finish(grpc.status_of(error), _message(text) + headers)

    # -- predictions

    def _infer(self, stream: Stream, data: bytes, packed: bool) -> None:
        """One ModelInfer, on the loop from beginning to end unless something has to be waited for."""
        received = time.perf_counter()
        deployment = None
        if not packed and len(data) <= OFF_LOOP_MESSAGE_BYTES:
            name, version = grpc.address(data)
            serving = self._serving()
            deployment = serving.router.get(name, version or serving.router.pick(name))
        if deployment is None:
            self._start(stream, self._infer_later(stream, data, packed, received))
            return
        stream.endpoint = endpoint = serving.endpoint(deployment, "grpc")
        call = self._opened(stream, endpoint, data, received)
        self._batcher.submit(call)
        stream.call = call

    def _opened(self, stream: Stream, endpoint: Endpoint, data: bytes, received: float) -> Call:
        """The call of a decoded message; raises RequestError."""
        request = endpoint.decode(data, stream.request_id, PLAIN)
        if stream.deadline is not None:
            left = stream.deadline - received
            if left <= 0:
                raise self.too_late(stream)
            request.timeout_s = left if request.timeout_s is None else min(left, request.timeout_s)
        return endpoint.call(request, stream, received)

    def _opened_plain(self, stream: Stream, endpoint: Endpoint, data: bytes, packed: bool, received: float) -> Call:
        return self._opened(stream, endpoint, self.plain(stream, data, packed), received)

    async def _infer_later(self, stream: Stream, data: bytes, packed: bool, received: float) -> None:
        """The same for a message that is large or compressed, or whose version is to be loaded first."""
        if packed:
            async with self._large:
                name, version = await asyncio.to_thread(lambda: grpc.address(self.plain(stream, data, packed)))
        else:
            name, version = grpc.address(data)
        deadline = received + self._timeout_s
        if stream.deadline is not None:
            deadline = min(deadline, stream.deadline)
        while True:
            async with self._demand.version(name, version or None, deadline) as deployment:
                stream.endpoint = endpoint = self._serving().endpoint(deployment, "grpc")
                if packed or len(data) > OFF_LOOP_MESSAGE_BYTES:
                    async with self._large:  # unpacked once more: what waits for its version, or for room, is small
                        call = await asyncio.to_thread(self._opened_plain, stream, endpoint, data, packed, received)
                else:
                    call = self._opened(stream, endpoint, data, received)
                if not endpoint.retired:  # by a switch, while the message was decoded
                    stream.call = call
                    self._batcher.submit(call)
                    return

    def answered(self, stream: Stream, call: Call) -> None:
        """The engine is done with the call of a stream."""
        stream.call = None
        if not stream.live:
            return
        endpoint: Endpoint = stream.endpoint
        if call.error is not None:
            self.refuse(stream, call.error)
        elif call.n > OFF_LOOP_ROWS:
            encoded = self._loop.run_in_executor(None, endpoint.encode, call)
            encoded.add_done_callback(lambda future: self._answer(stream, endpoint, call, future.result))
        else:
            self._answer(stream, endpoint, call, partial(endpoint.encode, call))

    def _answer(self, stream: Stream, endpoint: Endpoint, call: Call, encoded: Callable[[], Any]) -> None:
        if not stream.live:
            return
        try:
            body = encoded()[0]
        except Exception as error:
            self.refuse(stream, self._logged(stream, error))
            return
        stream.answer(body)
        call.deployment.request_seconds.observe(time.perf_counter() - call.received)
        endpoint.count(None, 200)

    # -- everything else

    def _start(self, stream: Stream, work: Any) -> None:
        """Do something for a stream that has to be waited for; it ends when nobody waits for the answer any more."""
        task = self._loop.create_task(self._guarded(stream, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        stream.on_gone = task.cancel

    async def _guarded(self, stream: Stream, work: Any) -> None:
        try:
            await work
        except Exception as error:
            self.refuse(stream, self._logged(stream, error))

    async def _run(
        self, stream: Stream, data: bytes, packed: bool, request: Message, answer: Message, run: Unary
    ) -> None:
        if packed:
            data = await asyncio.to_thread(self.plain, stream, data, packed)
        asked = request.decode(data)
        left = None if stream.deadline is None else stream.deadline - time.perf_counter()
        try:
            async with asyncio.timeout(left):
                given = await run(asked, stream)
        except TimeoutError:
            raise self.too_late(stream) from None
        stream.answer(answer.encode(given))

    def _logged(self, stream: Stream, error: BaseException) -> BaseException:
        """The error; one that is not meant for the caller goes to the log, and is answered without its text."""
        if not isinstance(error, RequestError):
            log.error("a call failed", exc_info=error, extra={"request_id": stream.request_id})
            return ModelFailed("the server failed on this request; its log has the reason")
        return error

    def plain(self, stream: Stream, data: bytes, packed: bool) -> bytes:
        """A message as it was before it was compressed, as large as any other may be; raises RequestError."""
        return unpacked(data, stream.head.encoding, self._most(stream)) if packed else data


_KEPT: Final = frozenset({"retry-after"})


def unpacked(data: bytes, encoding: bytes, most: int) -> bytes:
    """A gzip or deflate message; raises PayloadTooLarge for one of more than `most` bytes, and InvalidInput."""
    if encoding == b"identity":
        raise InvalidInput("the message is marked as compressed, and grpc-encoding does not say how")
    engine = zlib.decompressobj(wbits=31 if encoding == b"gzip" else 15)
    try:
        plain = engine.decompress(data, most + 1)
    except zlib.error as error:
        raise InvalidInput(f"the message is no {encoding.decode()} data: {error}") from None
    if len(plain) > most:
        raise PayloadTooLarge(
            f"the message has more than {most} bytes once unpacked, which is the limit; send fewer rows per request, "
            "or raise the server's max_body_bytes"
        )
    if not engine.eof or engine.unused_data:
        raise InvalidInput(f"the message is no whole {encoding.decode()} data")
    return plain


def _message(text: str) -> bytes:
    """The header grpc-message, percent-encoded, cut where clients would refuse it."""
    raw = text.encode("utf-8")[:4096]
    return literal(b"grpc-message", b"".join(_PERCENT[byte] for byte in raw))


_PERCENT: Final = [bytes((byte,)) if 0x20 <= byte <= 0x7E and byte != 0x25 else b"%%%02X" % byte for byte in range(256)]


class GrpcServer:
    """What the gRPC connections of one worker share."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        settings: ServerSettings,
        calls: Calls,
        changed: Callable[[], None],
        metrics: Registry,
    ) -> None:
        self.loop = loop
        self.settings = settings
        self.calls = calls
        self.changed = changed
        """To be called when readiness, or what is live, may have changed."""
        self.connections: set[Connection] = set()
        self.draining = False
        self.now = time.monotonic()
        self._boot = secrets.token_hex(6)
        self._ids = 0
        self._drained = asyncio.Event()
        self._gauge = metrics.counter("lagar_connections")
        self._accepted = metrics.counter("lagar_connections_accepted")
        self.sweep()

    def connection(self) -> Connection:
        """The protocol of one more connection."""
        return Connection(self)

    def sweep(self) -> None:
        """Once a second: the clock, and every connection's time-outs."""
        self.now = time.monotonic()
        for connection in list(self.connections):
            connection.check_time(self.now)
        self.loop.call_later(1.0, self.sweep)

    def next_id(self) -> str:
        """A request id that no other worker or start of the server gives."""
        self._ids += 1
        return f"{self._boot}-{self._ids:x}"

    def arrived(self, connection: Connection) -> bool:
        """A connection was accepted; False when there are too many."""
        self.connections.add(connection)
        self._gauge.add()
        self._accepted.add()
        return len(self.connections) <= self.settings.max_connections

    def forgotten(self, connection: Connection) -> None:
        """A connection has ended."""
        self.connections.discard(connection)
        self._gauge.add(-1)
        if self.draining and not self.connections:
            self._drained.set()

    async def drain(self, timeout_s: float) -> bool:
        """Answer what was begun, send every client elsewhere; False when time ran out."""
        self.draining = True
        for connection in list(self.connections):
            connection.drain()
        try:
            async with asyncio.timeout(timeout_s):
                while self.connections:  # one that waited to be accepted may come when there was none for a moment
                    self._drained.clear()
                    await self._drained.wait()
        except TimeoutError:
            return False
        return True
