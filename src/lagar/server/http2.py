"""gRPC's half of HTTP/2 on one port of one worker: frames, flow control, messages, limits, time-outs.

A client may have `MAX_STREAMS` calls open on a connection. What arrives for them is bounded: each may send
`WINDOW_BYTES` unasked, and a larger message gets the window for the rest once it has said how long it is, within one
budget per connection. What leaves waits for the windows of the client, and while a client does not read, nothing more
of it is read.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol, cast

from lagar.errors import RequestError, RequestTimeout
from lagar.server import frames
from lagar.server.exchange import MIN_BODY_BYTES_PER_S
from lagar.server.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEAD,
    HEAD_BYTES,
    HEADERS,
    MAX_FRAME_BYTES,
    MAX_WINDOW,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    WITH_PRIORITY,
    ConnectionBroken,
    ErrorCode,
    HeaderBlocks,
    literal,
)
from lagar.server.streams import PREFIX, PREFIX_BYTES, WINDOW_BYTES, Stream
from lagar.settings import ServerSettings

if TYPE_CHECKING:
    from lagar.server.grpc import Calls

MAX_STREAMS: Final = 256
GRACE_S: Final = 1.0
"""So long a client that was told to go may still begin calls that it had not heard it for."""
MAX_RESETS: Final = 1000
"""Calls that a client may take back beyond those that it lets be answered: work that nobody waits for is an attack."""
_OWN_WINDOW: Final = MAX_WINDOW // 2
_DEFAULT_WINDOW: Final = 65_535
_OK_TRAILER: Final = literal(b"grpc-status", b"0")
_DRAIN_PING: Final = b"draining"
_NOT_GRPC: Final = (
    b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: text/plain; charset=utf-8\r\n\r\n"
    b"This port speaks gRPC over HTTP/2; HTTP is on the server's other port.\n"
)


class Owner(Protocol):
    """What a connection needs of the server that it belongs to."""

    loop: asyncio.AbstractEventLoop
    settings: ServerSettings
    calls: Calls
    now: float
    draining: bool

    def arrived(self, connection: Connection) -> bool: ...

    def forgotten(self, connection: Connection) -> None: ...

    def next_id(self) -> str: ...


class Connection(asyncio.Protocol):
    """One client connection."""

    __slots__ = (
        "_answered",
        "_asking",
        "_blocked",
        "_blocks",
        "_buffer",
        "_closing_since",
        "_frame_bytes",
        "_granted",
        "_halted",
        "_last_id",
        "_own_window",
        "_partial",
        "_quiet_since",
        "_resets",
        "_said_last",
        "_stream_window",
        "_streams",
        "_window",
        "_writable",
        "ready",
        "server",
        "transport",
    )  # fmt: skip

    def __init__(self, server: Owner) -> None:
        self.server = server
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)
        self.ready = False
        """True once the preface is there."""
        self._buffer = b""
        self._blocks = HeaderBlocks(server.settings.max_header_bytes)
        self._streams: dict[int, Stream] = {}
        self._last_id = 0
        self._partial: tuple[int, bool, bytes] | None = None
        """Stream, END_STREAM and what is there of a header block that goes on in the next frame."""
        self._window = self._stream_window = _DEFAULT_WINDOW
        self._frame_bytes = 16_384
        self._own_window = _OWN_WINDOW
        self._granted = 0
        self._asking: deque[tuple[Stream, int]] = deque()
        """Calls whose message is longer than they may send yet, and by how much."""
        self._blocked: dict[int, Stream] = {}
        """Those that wait for the window of the connection, or for the client to read."""
        self._writable = True
        self._halted = False
        """True: no further frame is read, until the client reads, or for ever."""
        self._quiet_since = server.now
        self._closing_since = 0.0
        """When the client was told to go; 0: it was not."""
        self._said_last = False
        """True once it was told which call was the last that is answered."""
        self._answered = 0
        self._resets = 0

    # -- the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if not self.server.arrived(self):
            self.transport.abort()
            return
        if self.server.draining:
            self.drain()

    def connection_lost(self, exc: Exception | None) -> None:
        for stream in list(self._streams.values()):
            self._drop(stream)
        self._buffer = b""
        self._partial = None
        self.server.forgotten(self)

    def eof_received(self) -> bool:
        """A client that closes its side wants no answers: gRPC ends calls, not connections."""
        return False

    def pause_writing(self) -> None:
        self._writable = False
        self._quiet_since = self.server.now
        self._pause()

    def resume_writing(self) -> None:
        self._writable = True
        self._pump_all()
        if self._writable and self._halted:
            self._halted = False
            self.transport.resume_reading()
            if self._buffer:
                self.data_received(b"")

    def _pause(self) -> None:
        if not self._halted and not self.transport.is_closing():
            self._halted = True
            self.transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        try:
            self._read(data)
        except ConnectionBroken as broken:
            self._buffer, self._halted = b"", True
            self.transport.write(frames.goaway(self._last_id, broken.code, broken.why))
            self.transport.close()

    @property
    def peer(self) -> tuple[str, int] | None:
        """Address and port of the client."""
        name = self.transport.get_extra_info("peername")
        return (name[0], name[1]) if isinstance(name, tuple) else None

    # -- frames

    def _read(self, data: bytes) -> None:
        at, size = 0, len(data)
        if not self.ready:
            at = self._read_preface(data)
            if not self.ready:
                return
        while size - at >= HEAD_BYTES:
            high, low, kind, flags, number = HEAD.unpack_from(data, at)
            length = high << 8 | low
            if length > MAX_FRAME_BYTES:
                raise ConnectionBroken(ErrorCode.FRAME_SIZE, f"a frame of {length} bytes, at most {MAX_FRAME_BYTES}")
            end = at + HEAD_BYTES + length
            if end > size or self._halted:
                break
            number &= MAX_WINDOW
            payload = data[at + HEAD_BYTES : end]
            at = end
            if self._partial is not None and kind != CONTINUATION:
                raise ConnectionBroken(ErrorCode.PROTOCOL, "a header block goes on in the next frame, or ends")
            if kind == DATA:
                self._data(number, flags, payload)
            elif kind == HEADERS:
                self._headers(number, flags, payload)
            elif kind == WINDOW_UPDATE:
                self._window_update(number, payload)
            else:
                self._rarer(kind, flags, number, payload)
        if at < size:
            self._buffer = data[at:]
        self._quiet_since = self.server.now

    def _read_preface(self, data: bytes) -> int:
        have = min(len(data), len(PREFACE))
        if data[:have] != PREFACE[:have]:
            self.transport.write(_NOT_GRPC)
            self.transport.close()
            return 0
        if have < len(PREFACE):
            self._buffer = data
            return 0
        self.ready = True
        self.transport.write(self._greeting())
        return have

    def _greeting(self) -> bytes:
        values = (
            (frames.SETTING_MAX_STREAMS, MAX_STREAMS),
            (frames.SETTING_WINDOW, WINDOW_BYTES),
            (frames.SETTING_FRAME_BYTES, MAX_FRAME_BYTES),
            (frames.SETTING_HEADER_BYTES, self.server.settings.max_header_bytes),
        )
        return frames.settings_frame(values) + frames.window_update(0, _OWN_WINDOW - _DEFAULT_WINDOW)

    def _rarer(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if kind == SETTINGS:
            self._settings(flags, number, payload)
        elif kind == PING:
            self._ping(flags, number, payload)
        elif kind == RST_STREAM:
            self._reset(number, payload)
        elif kind == CONTINUATION:
            self._continuation(number, flags, payload)
        elif kind == PUSH_PROMISE:
            raise ConnectionBroken(ErrorCode.PROTOCOL, "a client pushes nothing")
        elif kind == PRIORITY and len(payload) != 5:
            raise ConnectionBroken(ErrorCode.FRAME_SIZE, "PRIORITY has 5 bytes")
        elif kind == GOAWAY:
            self._say_goodbye()

    def _headers(self, number: int, flags: int, payload: bytes) -> None:
        if flags & PADDED:
            payload = _unpadded(payload)
        if flags & WITH_PRIORITY:
            payload = payload[5:]
        if flags & END_HEADERS:
            self._block(number, bool(flags & END_STREAM), payload)
        else:
            self._partial = number, bool(flags & END_STREAM), payload

    def _continuation(self, number: int, flags: int, payload: bytes) -> None:
        if self._partial is None or self._partial[0] != number:
            raise ConnectionBroken(ErrorCode.PROTOCOL, "CONTINUATION of no header block")
        _, ends, block = self._partial
        block += payload
        endless = not payload and not flags & END_HEADERS
        if len(block) > self.server.settings.max_header_bytes or endless:
            raise ConnectionBroken(ErrorCode.ENHANCE_YOUR_CALM, "a header block is larger than max_header_bytes")
        if flags & END_HEADERS:
            self._partial = None
            self._block(number, ends, block)
        else:
            self._partial = number, ends, block

    def _block(self, number: int, ends: bool, block: bytes) -> None:
        if not number & 1:
            raise ConnectionBroken(ErrorCode.PROTOCOL, f"a client opens no stream {number}")
        head = self._blocks.get(block)  # also of a stream that is not answered: the table depends on it
        stream = self._streams.get(number)
        if stream is not None:  # trailers
            if not ends or stream.complete:
                raise ConnectionBroken(ErrorCode.PROTOCOL, "trailers that end no stream")
            self._half_closed(stream)
            return
        if number <= self._last_id:
            return  # of a call that was answered or refused before all of it was there
        self._last_id = number
        if self._said_last:
            return  # begun before our last word was heard; what follows of it is passed over too
        if head is None:
            self.transport.write(frames.reset(number, ErrorCode.PROTOCOL))
            return
        if len(self._streams) >= MAX_STREAMS:
            self.transport.write(frames.reset(number, ErrorCode.REFUSED_STREAM))
            return
        stream = self._streams[number] = Stream(self, number, head, self._stream_window)
        if head.status != 200:
            self._refuse_http(stream)
            return
        stream.request_id = head.request_id or self.server.next_id()
        self.server.calls.begin(stream)
        if ends and stream.live:
            self._half_closed(stream)

    def _refuse_http(self, stream: Stream) -> None:
        block = frames.status_block(stream.head.status)
        self._close_stream(stream, frames.frame(HEADERS, END_STREAM | END_HEADERS, stream.id, block))

    def _settings(self, flags: int, number: int, payload: bytes) -> None:
        if number or len(payload) % 6 or (flags & ACK and payload):
            raise ConnectionBroken(ErrorCode.FRAME_SIZE, "SETTINGS are pairs of 6 bytes, for no stream")
        if flags & ACK:
            return
        given = dict(struct.iter_unpack(">HI", payload))  # of one that is there a thousand times, the last
        size = given.get(frames.SETTING_FRAME_BYTES, self._frame_bytes)
        if not 16_384 <= size < 1 << 24:
            raise ConnectionBroken(ErrorCode.PROTOCOL, f"frames of {size} bytes")
        self._frame_bytes = size
        window = given.get(frames.SETTING_WINDOW, self._stream_window)
        if window > MAX_WINDOW:
            raise ConnectionBroken(ErrorCode.FLOW_CONTROL, f"a window of {window} bytes")
        more = window - self._stream_window
        self._stream_window = window
        self.transport.write(frames.frame(SETTINGS, ACK, 0))
        if more:
            for stream in list(self._streams.values()):
                self._let_send(stream, more)

    def _ping(self, flags: int, number: int, payload: bytes) -> None:
        if len(payload) != 8 or number:
            raise ConnectionBroken(ErrorCode.FRAME_SIZE, "PING has 8 bytes, for no stream")
        if not flags & ACK:
            self.transport.write(frames.frame(PING, ACK, 0, payload))
        elif payload == _DRAIN_PING and self._closing_since:
            self._say_last()

    def _reset(self, number: int, payload: bytes) -> None:
        if len(payload) != 4 or not number or number > self._last_id:
            raise ConnectionBroken(ErrorCode.PROTOCOL, f"RST_STREAM of stream {number}")
        stream = self._streams.get(number)
        if stream is None:
            return
        self._resets += 1
        if self._resets > MAX_RESETS + self._answered:
            raise ConnectionBroken(ErrorCode.ENHANCE_YOUR_CALM, "more calls were taken back than answered")
        self._drop(stream)
        self._close_if_done()

    def _window_update(self, number: int, payload: bytes) -> None:
        size = int.from_bytes(payload, "big") & MAX_WINDOW
        if len(payload) != 4 or not size:
            raise ConnectionBroken(ErrorCode.PROTOCOL, "WINDOW_UPDATE by nothing")
        if not number:
            self._window += size
            if self._window > MAX_WINDOW:
                raise ConnectionBroken(ErrorCode.FLOW_CONTROL, "the window of the connection is too large")
            if self._blocked:
                self._pump_all()
            return
        stream = self._streams.get(number)
        if stream is not None:
            self._let_send(stream, size)
        elif number > self._last_id:
            raise ConnectionBroken(ErrorCode.PROTOCOL, f"WINDOW_UPDATE of stream {number}, which is not open")

    def _let_send(self, stream: Stream, more: int) -> None:
        """The window of a stream is larger by this, or smaller."""
        stream.window += more
        if stream.window > MAX_WINDOW:
            raise ConnectionBroken(ErrorCode.FLOW_CONTROL, "the window of a stream is too large")
        if stream.pending and stream.window > 0:
            self._pump(stream)

    # -- messages that come in

    def _data(self, number: int, flags: int, payload: bytes) -> None:
        size = len(payload)
        self._own_window -= size
        if self._own_window < 0:
            raise ConnectionBroken(ErrorCode.FLOW_CONTROL, "more was sent than the connection's window")
        if self._own_window < _OWN_WINDOW // 2:
            self.transport.write(frames.window_update(0, _OWN_WINDOW - self._own_window))
            self._own_window = _OWN_WINDOW
        stream = self._streams.get(number)
        if stream is None:
            if not number or number > self._last_id:
                raise ConnectionBroken(ErrorCode.PROTOCOL, f"DATA of stream {number}, which is not open")
            return  # the rest of a call that is answered
        if stream.complete:
            raise ConnectionBroken(ErrorCode.STREAM_CLOSED, "DATA behind the end of a stream")
        stream.allowed -= size
        if stream.allowed < 0:
            raise ConnectionBroken(ErrorCode.FLOW_CONTROL, "more was sent than the stream's window")
        if flags & PADDED:
            payload = _unpadded(payload)
            stream.allowed += size - len(payload)
            self.transport.write(frames.window_update(number, size - len(payload)))
        if payload:
            self._take(stream, payload)
        if flags & END_STREAM and stream.live:
            self._half_closed(stream)

    def _take(self, stream: Stream, payload: bytes) -> None:
        """What came of messages: each is a flag, its length in 4 bytes, and itself."""
        if stream.method.streams:
            self._take_several(stream, payload)
            return
        stream.take(payload)
        if not stream.wanted and stream.size >= PREFIX_BYTES:
            self._expect(stream)

    def _expect(self, stream: Stream) -> None:
        """The length of a message is known: bound it, and let the client send it."""
        length = int.from_bytes(stream.data[1:PREFIX_BYTES], "big")
        error = self.server.calls.too_large(stream, length)
        if error is not None:
            self.server.calls.refuse(stream, error)
            return
        stream.wanted = length + PREFIX_BYTES
        more = stream.wanted - stream.size - stream.allowed
        if more > 0 and not stream.complete:
            self._asking.append((stream, more))
            self._grant()

    def _grant(self) -> None:
        """Let large messages come, as many at a time as the budget holds."""
        while self._asking:
            stream, more = self._asking[0]
            if stream.live and self._granted and self._granted + more > self.server.settings.max_body_bytes:
                return
            self._asking.popleft()
            if stream.live:
                self._granted += more
                stream.granted += more
                stream.allowed += more
                self.transport.write(frames.window_update(stream.id, more))

    def _take_several(self, stream: Stream, payload: bytes) -> None:
        """Calls of several messages: each is handed on when it is whole, and its bytes may be sent again."""
        stream.take(payload)
        while stream.live and stream.size >= (stream.wanted or PREFIX_BYTES):
            if not stream.wanted:
                self._expect(stream)
                continue
            packed, message = stream.first_message()
            again = stream.wanted - stream.granted
            self._granted -= stream.granted
            stream.wanted = stream.granted = 0
            stream.allowed += max(again, 0)
            if again > 0 and not stream.complete:
                self.transport.write(frames.window_update(stream.id, again))
            self._grant()
            self.server.calls.message(stream, message, packed)

    def _half_closed(self, stream: Stream) -> None:
        """The client has sent everything."""
        stream.complete = True
        calls = self.server.calls
        if stream.method.streams:
            calls.ended(stream)
        elif stream.wanted and stream.size == stream.wanted:
            packed, message = stream.first_message()
            calls.message(stream, message, packed)
        else:
            calls.refuse(stream, calls.no_message(stream))

    # -- what goes out

    def answer(self, stream: Stream, message: bytes) -> None:
        size = len(message) + PREFIX_BYTES
        fits = size <= self._window and size <= stream.window and size <= self._frame_bytes
        if not fits or not self._writable or stream.begun:
            self.send(stream, message)
            self.finish(stream, _OK_TRAILER)
            return
        self._window -= size
        block = stream.first_block
        number, pack = stream.id, HEAD.pack
        self._close_stream(
            stream,
            b"".join(
                (
                    pack(0, len(block), HEADERS, END_HEADERS, number),
                    block,
                    pack(size >> 8, size & 255, DATA, 0, number),
                    PREFIX.pack(0, size - PREFIX_BYTES),
                    message,
                    pack(0, len(_OK_TRAILER), HEADERS, END_STREAM | END_HEADERS, number),
                    _OK_TRAILER,
                )
            ),
        )

    def send(self, stream: Stream, message: bytes) -> None:
        if not stream.begun:
            stream.begun = True
            self.transport.write(frames.frame(HEADERS, END_HEADERS, stream.id, stream.first_block))
        if not stream.pending:
            stream.moved = self.server.now
        stream.pending.append(memoryview(PREFIX.pack(0, len(message)) + message))
        self._pump(stream)

    def finish(self, stream: Stream, trailer: bytes) -> None:
        block = trailer if stream.begun else stream.first_block + trailer
        stream.trailer = frames.frame(HEADERS, END_STREAM | END_HEADERS, stream.id, block)
        self._pump(stream)

    def _pump(self, stream: Stream) -> None:
        """Send what the windows of the client let through."""
        pending = stream.pending
        while pending:
            chunk = pending[0]
            room = min(self._window, stream.window, self._frame_bytes, len(chunk))
            if room <= 0 or not self._writable:
                if stream.window > 0:  # else its own window is what it waits for
                    self._blocked[stream.id] = stream
                return
            self._window -= room
            stream.window -= room
            stream.moved = self.server.now
            self.transport.write(frames.frame(DATA, 0, stream.id, bytes(chunk[:room])))
            if room == len(chunk):
                pending.popleft()
            else:
                pending[0] = chunk[room:]
        self._blocked.pop(stream.id, None)
        if stream.trailer is not None:
            self._close_stream(stream, stream.trailer)

    def _pump_all(self) -> None:
        """Those that wait for the connection, as far as it goes: its window may have grown by a byte."""
        for stream in list(self._blocked.values()):
            if self._window <= 0 or not self._writable:
                return
            self._blocked.pop(stream.id, None)
            self._pump(stream)

    def _close_stream(self, stream: Stream, last: bytes) -> None:
        """Write the end of an answer; a client that is still sending is told to stop."""
        self._answered += 1
        self.transport.write(last if stream.complete else last + frames.reset(stream.id, ErrorCode.NO_ERROR))
        self._forget(stream)
        self._close_if_done()

    def _forget(self, stream: Stream) -> None:
        stream.live = False
        stream.data = b""
        self._streams.pop(stream.id, None)
        self._blocked.pop(stream.id, None)
        if stream.granted:
            self._granted -= stream.granted
            stream.granted = 0
            self._grant()

    def _drop(self, stream: Stream) -> None:
        """Nobody waits for the answer any more."""
        self._forget(stream)
        self.server.calls.gone(stream)

    # -- ends

    def drain(self) -> None:
        """Have the client go elsewhere, one that was just accepted a moment later: what it came to ask is answered."""
        if self.ready:
            self._say_goodbye()
        else:
            self.server.loop.call_later(GRACE_S, self._say_goodbye)

    def _say_goodbye(self) -> None:
        """What the client has begun, and begins before it hears of it, is answered."""
        if self._closing_since or self.transport.is_closing():
            return
        self._closing_since = time.monotonic()
        self.transport.write(
            frames.goaway(MAX_WINDOW, ErrorCode.NO_ERROR, "the server is going") + frames.frame(PING, 0, 0, _DRAIN_PING)
        )

    def _say_last(self) -> None:
        if not self._said_last:
            self._said_last = True
            self.transport.write(frames.goaway(self._last_id, ErrorCode.NO_ERROR))
            self.server.calls.drain(list(self._streams.values()))
            self._close_if_done()

    def _close_if_done(self) -> None:
        if self._said_last and not self._streams:
            self._halted = True
            self.transport.close()

    def check_time(self, now: float) -> None:
        """Once a second: refuse what does not arrive, end what is not used."""
        settings = self.server.settings
        quiet_s = now - self._quiet_since
        if not self._writable:
            if quiet_s > settings.write_timeout_s:
                self.transport.abort()
            return
        if not self.ready or self._partial is not None:
            if quiet_s > settings.header_timeout_s:
                self.transport.abort()
            return
        if self._closing_since and now - self._closing_since > GRACE_S:
            self._say_last()
        if self._streams:
            moment = time.perf_counter()
            for stream in list(self._streams.values()):
                self._check_stream(stream, moment)
        elif quiet_s > settings.keep_alive_timeout_s:
            self._say_goodbye()

    def _check_stream(self, stream: Stream, now: float) -> None:
        settings = self.server.settings
        if stream.pending and self.server.now - stream.moved > settings.write_timeout_s:
            self.transport.write(frames.reset(stream.id, ErrorCode.CANCEL))
            self._drop(stream)
            self._close_if_done()
            return
        endless = stream.method.streams or stream.endless
        if stream.complete and not endless:
            return
        waited = now - stream.opened
        error: RequestError | None = None
        if stream.deadline is not None and now > stream.deadline:
            error = self.server.calls.too_late(stream)
        elif not endless and waited > settings.body_timeout_s + stream.size / MIN_BODY_BYTES_PER_S:
            error = RequestTimeout(f"the message did not arrive within {settings.body_timeout_s:g} s")
        if error is not None:
            self.server.calls.refuse(stream, error)


def _unpadded(payload: bytes) -> bytes:
    if not payload or payload[0] >= len(payload):
        raise ConnectionBroken(ErrorCode.PROTOCOL, "more padding than there is")
    return payload[1 : len(payload) - payload[0]]
