"""HTTP/1.1 on one port of one worker: framing, limits, time-outs, and the fast lane.

The connection frames requests itself: a head is what stands before the first empty line, a body is as long as its
head says. So what comes next is never guessed by a parser that ran ahead, and there is exactly one unanswered request
per connection, hot or cold. A hot request (a JSON prediction on the exact path of a loaded model) goes straight to the
engine; every other one becomes an ASGI exchange and must get the same answers.
"""

from __future__ import annotations

import asyncio
import enum
import itertools
import logging
import secrets
import time
from collections.abc import Callable
from email.utils import formatdate
from functools import partial
from typing import Any, Protocol, cast

from lagar.engine.batcher import Batcher, Call
from lagar.errors import HeadersTooLarge, InvalidInput, RequestError, RequestTimeout
from lagar.metrics import Registry
from lagar.protocols.base import JSON, OCTETS, Encoded
from lagar.server.exchange import MIN_BODY_BYTES_PER_S, STATUS_LINES, Application, Exchange
from lagar.server.heads import Head, Heads
from lagar.server.lane import OFF_LOOP_ROWS
from lagar.settings import ServerSettings

OFF_LOOP_BODY_BYTES = 256 * 1024
"""Larger bodies are parsed in a thread: 1 MB of JSON takes 3 to 10 ms."""
LINGER_S = 2.0
"""How long a closing connection reads on, so that its answer is not lost to a reset."""
LINGER_BYTES = 1024 * 1024
FRESH_GRACE_S = 1.0
"""While draining, a connection accepted but still silent gets this long to send its request."""
IDLE_GRACE_S = 5.0
"""With a successor in place, kept connections have so long to send one more request, whose answer says `close`: one
that is closed in the instant in which its client sends is a lost request."""

log = logging.getLogger("lagar.http")


class HotEndpoint(Protocol):
    """A prediction on an exact path: opens calls from bodies and encodes their answers."""

    @property
    def retired(self) -> bool: ...

    def admits(self, head: Head) -> bool: ...

    def open(self, body: bytes | memoryview, head: Head, request_id: str, sink: Any, received: float) -> Call: ...

    def encode(self, call: Call) -> Encoded: ...

    def refuse(self, error: BaseException, request_id: str) -> tuple[int, list[tuple[bytes, bytes]], bytes]: ...

    def count(self, error: BaseException | None, status: int) -> None: ...


class State(enum.IntEnum):
    """What the next byte of a connection belongs to."""

    HEAD = 0
    BODY = 1
    """The body of a hot request."""
    BUSY = 2
    """A hot request is being answered."""
    COLD = 3
    """An ASGI exchange runs; its body may still be arriving."""
    LINGER = 4
    """Answered and half closed: bytes are read and dropped until the client closes."""
    CLOSED = 5


_OK = STATUS_LINES[200] + b"content-type: %b\r\nx-request-id: "
_OK_AS = {media: _OK % media.encode() for media in (JSON, OCTETS)}


class HttpServer:
    """What the connections of one worker share."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        settings: ServerSettings,
        heads: Heads,
        app: Application,
        batcher: Batcher,
        metrics: Registry,
        refuse: Any,
    ) -> None:
        self.loop = loop
        self.settings = settings
        self.heads = heads
        self.app = app
        self.batcher = batcher
        self.refuse = refuse
        """(error, path, request_id) → (status, headers, body): for errors found before any route was."""
        self.connections: set[Connection] = set()
        self.draining = False
        self.patient = False
        """While draining: another worker has taken over, nobody waits for the end of this one."""
        self.port = 0
        self.now = time.monotonic()
        self.date_line = b""
        self.connection_gauge = metrics.counter("lagar_connections")
        self.accepted = metrics.counter("lagar_connections_accepted")
        self._metrics = metrics
        self._boot = secrets.token_hex(6)
        self._ids = itertools.count(1)
        self._drained = asyncio.Event()
        self.sweep()

    def next_id(self) -> str:
        """A request id that no other worker or start of the server gives."""
        return f"{self._boot}-{next(self._ids):x}"

    def sweep(self) -> None:
        """Once a second: the clock, the Date header, and every connection's time-outs."""
        self.now = time.monotonic()
        self.date_line = f"date: {formatdate(usegmt=True)}\r\n\r\n".encode("ascii")
        for connection in list(self.connections):
            connection.check_time(self.now)
        self.loop.call_later(1.0, self.sweep)

    def count_refusal(self, status: int) -> None:
        self._metrics.counter("lagar_http_rejected", str(status)).add()

    def forgotten(self, connection: Connection) -> None:
        """A connection has ended."""
        self.connections.discard(connection)
        self.connection_gauge.add(-1)
        if self.draining and not self.connections:
            self._drained.set()

    async def drain(self, timeout_s: float, *, patient: bool = False) -> bool:
        """Answer what was accepted, close what is idle, if `patient` after `IDLE_GRACE_S`; False when time ran out."""
        self.draining = True
        self.patient = patient
        for connection in list(self.connections):
            connection.drain()
        try:
            async with asyncio.timeout(timeout_s):
                while self.connections:  # for a moment there may have been none, and who waited was accepted since
                    self._drained.clear()
                    await self._drained.wait()
        except TimeoutError:
            return False
        return True

    def hurry(self) -> None:
        """No more patience with idle connections of a drain that is under way."""
        self.patient = False
        for connection in list(self.connections):
            connection.drain()


class Connection(asyncio.Protocol):
    """One client connection."""

    __slots__ = (
        "_body", "_body_got", "_buffer", "_call", "_endpoint", "_eof", "_exchange", "_head", "_linger_bytes",
        "_paused_reading", "_reading", "_request_id", "_requests", "_since", "_state", "_writable",
        "server", "tls", "transport",
    )  # fmt: skip

    def __init__(self, server: HttpServer, *, tls: bool) -> None:
        self.server = server
        self.tls = tls
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._state = State.HEAD
        self._since = server.now
        self._buffer = b""
        self._reading = False
        self._paused_reading = False
        self._writable = True
        self._eof = False
        self._head: Head = cast(Head, None)
        self._endpoint: HotEndpoint = cast(HotEndpoint, None)
        self._request_id = ""
        self._body: list[bytes] = []
        self._body_got = 0
        self._call: Call | None = None
        self._exchange: Exchange | None = None
        self._requests = 0
        self._linger_bytes = 0

    # -- the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        server = self.server
        if server.draining:
            self._since = time.monotonic()  # the sweep's clock is up to a second old: all the time it is given
        server.connections.add(self)
        server.accepted.add()
        server.connection_gauge.add()
        if len(server.connections) > server.settings.max_connections:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._state = State.CLOSED
        if self._call is not None:
            self.server.batcher.cancel(self._call)
            self._call = None
        if self._exchange is not None:
            self._exchange.disconnected()
            self._exchange = None
        self._buffer = b""
        self._body = []
        self.server.forgotten(self)

    def eof_received(self) -> bool:
        """The client will send no more; what it asked is still answered, unless others need its place."""
        self._eof = True
        if self._state in (State.HEAD, State.BODY, State.LINGER):
            return False
        if self._call is not None:
            self.server.batcher.left(self._call)
        if self._exchange is not None:
            self._exchange.feed_eof()
        return not self.tls

    def pause_writing(self) -> None:
        self._writable = False
        self._since = self.server.now

    def resume_writing(self) -> None:
        self._writable = True
        if self._exchange is not None:
            self._exchange.writable.set()
        elif self._state is State.HEAD:
            self._continue()

    def data_received(self, data: bytes) -> None:
        state = self._state
        if state is State.HEAD:
            if self._buffer:
                data = self._buffer + data
            elif self._requests:
                self._since = self.server.now
            self._buffer = data
            self._read()
        elif state is State.BODY:
            self._read_body(data)
        elif state is State.COLD:
            rest = self._exchange.feed(data) if self._exchange is not None else data
            if rest:
                self._buffer += rest
                self.pause_reading()
        elif state is State.BUSY:
            # One unanswered request per connection: what follows waits, unread beyond this piece.
            self._buffer += data
            self.pause_reading()
        elif state is State.LINGER:
            self._linger_bytes += len(data)
            if self._linger_bytes > LINGER_BYTES:
                self.transport.abort()

    def pause_reading(self) -> None:
        if not self._paused_reading and self._state is not State.CLOSED:
            self._paused_reading = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self._paused_reading and self._state is not State.CLOSED:
            self._paused_reading = False
            self.transport.resume_reading()

    # -- heads

    def _read(self) -> None:
        """Take requests from the buffer until one is on its way, or more bytes are needed."""
        if not self._writable:
            self.pause_reading()
            return
        self._reading = True
        while self._state is State.HEAD and self._buffer:
            data = self._buffer
            if data[0] in b"\r\n":
                data = self._buffer = data.lstrip(b"\r\n")
                continue
            end = data.find(b"\r\n\r\n") + 4
            if end == 3 or end > self.server.settings.max_header_bytes:
                self._check_partial_head(data, end)
                break
            self._requests += 1
            self._since = self.server.now
            head = self.server.heads.get(data[:end])
            if head.error is not None:
                self._refuse_head(head.error, head)
                break
            self._begin(head, data, end)
        self._reading = False

    def _begin(self, head: Head, data: bytes, end: int) -> None:
        self._head = head
        self._request_id = head.request_id or self.server.next_id()
        if (refusal := self.server.heads.check_length(head)) is not None:
            self._refuse(refusal)
        elif head.route is None:
            self._buffer = b""
            self._start_cold(head, data[end:])
        else:
            self._endpoint = head.route.pick()
            have = len(data) - end
            if have >= head.length:
                stop = end + head.length
                self._buffer = data[stop:]
                # Tensors are copied from where they stand into rows: no other copy of them is made.
                tensors = head.envelope.header_length is not None
                self._start_hot(memoryview(data)[end:stop] if tensors else data[end:stop])
            elif not self._endpoint.admits(head):
                # The ASGI lane refuses a key before it reads a body: nothing is kept for those who have none.
                self._buffer = b""
                self._start_cold(head, data[end:])
            else:
                self._buffer = b""
                self._body = [data[end:]]
                self._body_got = have
                self._state = State.BODY

    def _check_partial_head(self, data: bytes, end: int) -> None:
        """Not a whole head yet: refuse what can never become one."""
        limit = self.server.settings.max_header_bytes
        if len(data) > limit or end > limit:
            self._refuse_head(HeadersTooLarge(f"the request head is larger than the limit of {limit} bytes"))
        elif b"\n\n" in data or (b"\n" in data and not _starts_like_http(data)):
            self._refuse_head(InvalidInput("the bytes received are not an HTTP/1.1 request"))

    # -- the fast lane

    def _read_body(self, data: bytes) -> None:
        self._body.append(data)
        self._body_got += len(data)
        length = self._head.length
        if self._body_got < length:
            return
        whole = b"".join(self._body)
        self._body = []
        self._buffer = whole[length:]
        self._start_hot(whole[:length] if self._buffer else whole)
        if self._state is State.HEAD:
            self._read()

    def _start_hot(self, body: bytes | memoryview) -> None:
        self._state = State.BUSY
        head = self._head
        if self._endpoint.retired and not self._route_again(body):
            return
        received = time.perf_counter()
        if len(body) > OFF_LOOP_BODY_BYTES:
            self._open_off_loop(head, body, received)
            return
        try:
            call = self._endpoint.open(body, head, self._request_id, self, received)
            self._call = call
            self.server.batcher.submit(call)
        except Exception as error:
            self._call = None
            self._refuse_hot(self._logged(error, "a request could not be read"))

    def _route_again(self, body: bytes | memoryview) -> bool:
        """A switch took place while the body came: the version that is live now answers; False when none is hot."""
        route = self.server.heads.route(self._head)
        if route is None:
            self._start_cold(self._head, bytes(body))
            return False
        self._endpoint = route.pick()
        return True

    def _logged(self, error: BaseException, event: str) -> BaseException:
        """The error; one that is not meant for the caller goes to the log, and is answered without its text."""
        if not isinstance(error, RequestError):
            log.error(event, exc_info=error, extra={"request_id": self._request_id})
        return error

    def _open_off_loop(self, head: Head, body: bytes | memoryview, received: float) -> None:
        opened = self.server.loop.run_in_executor(
            None, self._endpoint.open, body, head, self._request_id, self, received
        )
        opened.add_done_callback(lambda future: self._opened(future, body))

    def _opened(self, future: asyncio.Future[Call], body: bytes | memoryview) -> None:
        failed = future.exception()
        if self._state is State.CLOSED:
            return
        if self._endpoint.retired:
            self._start_hot(body)
            return
        try:
            if failed is not None:
                raise failed
            self._call = future.result()
            self.server.batcher.submit(self._call)
        except Exception as error:
            self._call = None
            self._refuse_hot(self._logged(error, "a request could not be read"))

    def answered(self, call: Call) -> None:
        """The engine is done with the call of this connection (engine.batcher.Sink)."""
        self._call = None
        if call.error is not None:
            self._refuse_hot(call.error)
        elif call.n > OFF_LOOP_ROWS:
            encoded = self.server.loop.run_in_executor(None, self._endpoint.encode, call)
            encoded.add_done_callback(lambda future: self._answer(call, future.result))
        else:
            self._answer(call, partial(self._endpoint.encode, call))

    def _answer(self, call: Call, encoded: Callable[[], Encoded]) -> None:
        if self._state is State.CLOSED:
            return
        try:
            body, media, lines = encoded()
        except Exception as error:
            self._refuse_hot(self._logged(error, "an answer could not be written"))
            return
        server = self.server
        closing = self._eof or server.draining
        self.transport.write(
            b"%b%b\r\n%bcontent-length: %d\r\n%b%b%b"
            % (
                _OK_AS.get(media) or _OK % media.encode("ascii"),
                self._request_id.encode("ascii"),
                lines,
                len(body),
                b"connection: close\r\n" if closing else b"",
                server.date_line,
                body,
            )
        )
        call.deployment.request_seconds.observe(time.perf_counter() - call.received)
        self._endpoint.count(None, 200)
        self._next(keep=not closing)

    def _refuse_hot(self, error: BaseException) -> None:
        route = self._endpoint
        status, headers, body = route.refuse(error, self._request_id)
        route.count(error, status)
        self._write(status, headers, body, keep=not (self._eof or self.server.draining))

    # -- the ASGI lane

    def _start_cold(self, head: Head, data: bytes) -> None:
        self._state = State.COLD
        self._exchange = exchange = Exchange(self, head, self._request_id)
        rest = exchange.feed(data)
        if rest:
            self._buffer = rest
            self.pause_reading()
        exchange.start(self.server.app)

    def exchange_done(self, *, keep: bool, unread: bool) -> None:
        """The ASGI application has answered; `keep` is False when its answer said `connection: close`."""
        self._exchange = None
        if self._state is not State.CLOSED:
            self._next(keep=keep, unread=unread)

    @property
    def may_keep(self) -> bool:
        return self._head.keep_alive and not self._eof and not self.server.draining

    @property
    def writable(self) -> bool:
        return self._writable

    # -- answers and ends

    def _refuse_head(self, error: RequestError, head: Head | None = None) -> None:
        """Answer a head that is no request, with its own id where that could be read: never that of the one before."""
        self._head = head or Head()
        self._request_id = self._head.request_id or self.server.next_id()
        self._refuse(error)

    def _refuse(self, error: RequestError) -> None:
        """Answer a request whose framing is not to be trusted, or that is too large, and close."""
        status, headers, body = self.server.refuse(error, self._head.path, self._request_id)
        self.server.count_refusal(status)
        self._write(status, headers, b"" if self._head.method == "HEAD" else body, keep=False, unread=True)

    def _write(
        self, status: int, headers: list[tuple[bytes, bytes]], body: bytes, *, keep: bool, unread: bool = False
    ) -> None:
        lines = [STATUS_LINES[status]]
        lines += [b"%b: %b\r\n" % header for header in headers]
        lines.append(b"content-length: %d\r\n" % len(body))
        if not keep:
            lines.append(b"connection: close\r\n")
        self.transport.write(b"".join(lines) + self.server.date_line + body)
        self._next(keep=keep, unread=unread)

    def _next(self, *, keep: bool, unread: bool = False) -> None:
        """The request is answered: read the next one, or end; `unread`: the client may still be sending this one."""
        if not keep:
            self._close(unread=unread)
            return
        self._state = State.HEAD
        self._since = self.server.now
        if not self._reading and self._writable:
            self._continue()

    def _continue(self) -> None:
        self.resume_reading()
        if self._buffer:
            self._read()

    def _close(self, *, unread: bool) -> None:
        # Closing over unread bytes makes the kernel send a reset, which can overtake the answer.
        unread = unread or bool(self._buffer) or self._paused_reading
        self._buffer = b""
        if unread and not self._eof and not self.tls and self.transport.can_write_eof():
            self._state = State.LINGER
            self._since = self.server.now
            self.transport.write_eof()
            self.resume_reading()
        else:
            self._state = State.LINGER
            self.transport.close()

    def drain(self) -> None:
        """The server is going: close if idle, at once or after a while, else with the answer."""
        if self._state is not State.HEAD or self._buffer:
            return
        if self._requests and not self.server.patient:
            self.transport.close()
        else:
            self._since = time.monotonic()

    def check_time(self, now: float) -> None:
        """Close or answer a connection that has been in one state for too long."""
        waited = now - self._since
        settings = self.server.settings
        if not self._writable:
            if waited > settings.write_timeout_s:
                self.transport.abort()
        elif self._state is State.HEAD:
            self._check_head_time(waited)
        elif self._state is State.BODY:
            if waited > settings.body_timeout_s + self._body_got / MIN_BODY_BYTES_PER_S:
                self._body = []
                self._refuse(RequestTimeout(f"the body did not arrive within {settings.body_timeout_s:g} s"))
        elif self._state is State.COLD and self._exchange is not None:
            self._exchange.check_time(waited, settings.body_timeout_s)
        elif self._state is State.LINGER and waited > LINGER_S:
            self.transport.abort()

    def _check_head_time(self, waited: float) -> None:
        settings = self.server.settings
        if self._buffer:
            if waited > settings.header_timeout_s:
                limit_s = settings.header_timeout_s
                self._refuse_head(RequestTimeout(f"the request head did not arrive within {limit_s:g} s"))
        elif self.server.draining:
            grace_s = 0.0 if self._requests else FRESH_GRACE_S
            if waited > (IDLE_GRACE_S if self.server.patient else grace_s):
                self.transport.close()
        elif waited > (settings.keep_alive_timeout_s if self._requests else settings.header_timeout_s):
            self.transport.close()


def _starts_like_http(data: bytes) -> bool:
    line = data.partition(b"\n")[0].rstrip(b"\r")
    return line.count(b" ") == 2 and b" HTTP/1." in line
