"""One cold request of a connection as an ASGI exchange: receive, send, flow control, and the chunked coding."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from lagar.errors import InvalidInput, ModelFailed, RequestError, RequestTimeout
from lagar.server.heads import Head

if TYPE_CHECKING:
    from lagar.server.http import Connection

BUFFERED_BODY_BYTES = 256 * 1024
"""Body bytes held before the application asks for them; reading pauses above."""
MAX_CHUNK_LINE_BYTES = 256
MAX_TRAILER_BYTES = 8 * 1024
MIN_BODY_BYTES_PER_S = 16 * 1024
"""A body may take body_timeout_s plus its size over this."""

log = logging.getLogger("lagar.http")


def status_line(status: int) -> bytes:
    """The first line of an answer."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Status"
    return f"HTTP/1.1 {status} {phrase}\r\n".encode("ascii")


STATUS_LINES = {status.value: status_line(status.value) for status in HTTPStatus}

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class Exchange:
    """From a head to the end of its answer."""

    def __init__(self, connection: Connection, head: Head, request_id: str) -> None:
        self._connection = connection
        self._head = head
        self._request_id = request_id
        self._chunked = ChunkedBody() if head.chunked else None
        self._remaining = head.length
        self._complete = not head.chunked and head.length == 0
        self._parts: list[bytes] = []
        self._buffered = 0
        self._got = 0
        self._body_error: RequestError | None = None
        self._arrived = asyncio.Event()
        self.writable = asyncio.Event()
        self._gone = False
        self._started = False
        self._done = False
        self._ends: str = "length"
        self._keep = True
        self._pending_start: Message | None = None
        self._continue_due = head.expect_continue
        self._task: asyncio.Task[None] | None = None

    # -- the connection's side

    def start(self, app: Application) -> None:
        """Run the application on this exchange."""
        self._task = self._connection.server.loop.create_task(self._run(app))

    def feed(self, data: bytes) -> bytes:
        """Body bytes from the wire; returns what lies behind the body's end."""
        if self._complete or self._body_error is not None:
            return data
        if self._chunked is not None:
            try:
                payload, rest = self._chunked.feed(data)
            except InvalidInput as error:
                self._fail(error)
                return b""
            self._complete = self._chunked.complete
        else:
            payload, rest = data[: self._remaining], data[self._remaining :]
            self._remaining -= len(payload)
            self._complete = self._remaining == 0
        self._got += len(payload)
        if self._got > self._head.max_body_bytes:
            self._fail(self._connection.server.heads.too_large(self._head))
            return rest
        if payload:
            self._parts.append(payload)
            self._buffered += len(payload)
        if payload or self._complete:
            self._arrived.set()
        if self._buffered > BUFFERED_BODY_BYTES and not self._complete:
            self._connection.pause_reading()
        return rest

    def feed_eof(self) -> None:
        """The client half-closed before its body was whole: there will never be an answerable request."""
        if not self._complete:
            self._gone = True
            self._arrived.set()

    def disconnected(self) -> None:
        self._gone = True
        self._arrived.set()
        self.writable.set()
        if self._task is not None:
            self._task.cancel()

    def check_time(self, waited: float, body_timeout_s: float) -> None:
        """Refuse a body that comes too slowly while the application waits for it."""
        slow = waited > body_timeout_s + self._got / MIN_BODY_BYTES_PER_S
        if not self._complete and slow and self._body_error is None and not self._buffered:
            self._fail(RequestTimeout(f"the body did not arrive within {body_timeout_s:g} s"))

    def _fail(self, error: RequestError) -> None:
        self._body_error = error
        self._parts = []
        self._buffered = 0
        self._arrived.set()

    # -- the application's side

    async def _run(self, app: Application) -> None:
        try:
            await app(self._scope(), self._receive, self._send)
        except asyncio.CancelledError:
            return
        except RequestError as error:
            await self._answer_error(error)
        except Exception:
            log.exception("the application raised", extra={"request_id": self._request_id})
            await self._answer_error(ModelFailed("the server failed on this request; its log has the reason"))
        if self._gone:
            self._connection.transport.close()
            return
        if not self._done:
            # Half an answer cannot be taken back: only closing tells the client that it is incomplete.
            self._connection.transport.abort()
            return
        self._connection.exchange_done(keep=self._keep, unread=not self._complete)

    async def _answer_error(self, error: RequestError) -> None:
        if self._started or self._gone:
            return
        status, headers, body = self._connection.server.refuse(error, self._head.path, self._request_id)
        self._keep = False
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    def _scope(self) -> Scope:
        connection = self._connection
        head = self._head
        peer = connection.transport.get_extra_info("peername")
        local = connection.transport.get_extra_info("sockname")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.0" if head.http_10 else "1.1",
            "method": head.method,
            "scheme": "https" if connection.tls else "http",
            "path": head.path,
            "raw_path": head.raw_path,
            "query_string": head.query,
            "root_path": "",
            "headers": list(head.headers),
            "client": peer[:2] if isinstance(peer, tuple) else None,
            "server": local[:2] if isinstance(local, tuple) else None,
            "state": {"request_id": self._request_id},
        }

    async def _receive(self) -> Message:
        if self._continue_due and not self._started and not self._complete:
            self._continue_due = False
            self._connection.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while not self._parts and not self._complete and not self._gone and self._body_error is None:
            self._arrived.clear()
            self._connection.resume_reading()
            await self._arrived.wait()
        if self._body_error is not None:
            raise self._body_error
        if self._gone:
            return {"type": "http.disconnect"}
        body, self._parts, self._buffered = b"".join(self._parts), [], 0
        return {"type": "http.request", "body": body, "more_body": not self._complete}

    async def _send(self, message: Message) -> None:
        if self._gone or self._done:
            return
        if message["type"] == "http.response.start":
            self._pending_start = message
            return
        body: bytes = message.get("body", b"")
        last = not message.get("more_body", False)
        if self._pending_start is not None:
            start, self._pending_start = self._pending_start, None
            self._write_start(start, body, last=last)
        else:
            self._write_body(body, last=last)
        self._done = last
        if not last and not self._connection.writable:
            self.writable.clear()
            await self.writable.wait()

    def _write_start(self, start: Message, body: bytes, *, last: bool) -> None:
        self._started = True
        status = start["status"]
        headers: list[tuple[bytes, bytes]] = list(start["headers"])
        names = {name for name, _ in headers}
        bodiless = self._head.method == "HEAD" or status in (204, 304) or status < 200
        if b"content-length" not in names and not (status in (204, 304) or status < 200):
            if last:
                if not bodiless:
                    headers.append((b"content-length", b"%d" % len(body)))
            elif self._head.http_10:
                self._ends, self._keep = "close", False
            else:
                self._ends = "chunked"
                headers.append((b"transfer-encoding", b"chunked"))
        if bodiless:
            self._ends = "none"
        self._keep = self._keep and self._complete and self._connection.may_keep
        lines = [STATUS_LINES.get(status) or status_line(status)]
        lines += [b"%b: %b\r\n" % header for header in headers]
        if b"x-request-id" not in names:
            lines.append(b"x-request-id: %b\r\n" % self._request_id.encode("ascii"))
        if not self._keep:
            lines.append(b"connection: close\r\n")
        elif self._head.http_10:
            lines.append(b"connection: keep-alive\r\n")
        date = self._connection.server.date_line
        head = b"".join(lines) + (date if b"date" not in names else b"\r\n")
        self._connection.transport.write(head + self._coded(body, last=last))

    def _write_body(self, body: bytes, *, last: bool) -> None:
        data = self._coded(body, last=last)
        if data:
            self._connection.transport.write(data)

    def _coded(self, body: bytes, *, last: bool) -> bytes:
        if self._ends == "none":
            return b""
        if self._ends != "chunked":
            return body
        data = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
        return data + b"0\r\n\r\n" if last else data


class ChunkedBody:
    """Decoder of the chunked coding (RFC 9112 §7.1): strict, bounded, trailers dropped."""

    def __init__(self) -> None:
        self.complete = False
        self._buffer = b""
        self._left = 0
        self._state = "size"
        self._trailer_bytes = 0

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """(payload, what lies behind the end); raises InvalidInput on anything but the grammar."""
        data = self._buffer + data
        self._buffer = b""
        out: list[bytes] = []
        at = 0
        while not self.complete:
            if self._state == "data":
                piece = data[at : at + self._left]
                out.append(piece)
                at += len(piece)
                self._left -= len(piece)
                if self._left:
                    break
                self._state = "data-end"
            elif self._state == "data-end":
                if len(data) - at < 2:
                    break
                if data[at : at + 2] != b"\r\n":
                    raise InvalidInput("a chunk of the body is longer than its size says")
                at += 2
                self._state = "size"
            else:
                end = data.find(b"\r\n", at)
                if end < 0:
                    self._check_line(len(data) - at)
                    break
                line, at = data[at:end], end + 2
                self._read_line(line)
        if self.complete:
            return b"".join(out), data[at:]
        self._buffer = data[at:]
        return b"".join(out), b""

    def _check_line(self, size: int) -> None:
        limit = MAX_CHUNK_LINE_BYTES if self._state == "size" else MAX_TRAILER_BYTES
        if size > limit:
            raise InvalidInput(f"a line of the chunked body is longer than {limit} bytes")

    def _read_line(self, line: bytes) -> None:
        self._check_line(len(line))
        if self._state == "trailer":
            self._trailer_bytes += len(line)
            self._check_line(self._trailer_bytes)
            self.complete = not line
            return
        digits = line.partition(b";")[0].rstrip(b" \t")
        if not digits or len(digits) > 15 or not all(byte in b"0123456789abcdefABCDEF" for byte in digits):
            raise InvalidInput("a chunk of the body does not begin with its size in hexadecimal")
        self._left = int(digits, 16)
        self._state = "data" if self._left else "trailer"
