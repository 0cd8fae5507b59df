"""HTTP/2 frames and header blocks, as far as a gRPC server needs them.

Sources: RFC 9113 (HTTP/2), RFC 7541 (HPACK), gRPC's PROTOCOL-HTTP2.md.
"""

from __future__ import annotations

import enum
import re
import struct
from collections.abc import Callable, Iterable
from typing import Final

from hpack import Decoder, HPACKError

from lagar.errors import InvalidInput, RequestError, UnsupportedMediaType
from lagar.protocols.base import shown
from lagar.server.heads import repeatable

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client sends before its first frame."""
MAX_FRAME_BYTES: Final = 64 * 1024
"""Largest frame that is taken, as our SETTINGS say."""
MAX_WINDOW: Final = 2**31 - 1
HEAD: Final = struct.Struct(">HBBBI")
"""Length in 24 bits as two numbers, type, flags, stream."""
HEAD_BYTES: Final = HEAD.size

END_STREAM, ACK, END_HEADERS, PADDED, WITH_PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

SETTING_MAX_STREAMS, SETTING_WINDOW, SETTING_FRAME_BYTES, SETTING_HEADER_BYTES = 3, 4, 5, 6

_MAX_NUMBER_BYTES = 4
"""Of a number in a header block, beyond its first byte: no length and no index needs more."""
_REMEMBERED = 256
_REMEMBERED_BYTES = 2048
_TIMEOUT = re.compile(rb"(\d{1,8})([HMSmun])")
_UNITS_S = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


class ErrorCode(enum.IntEnum):
    """Why a stream or a connection ends (RFC 9113 §7)."""

    NO_ERROR = 0
    PROTOCOL = 1
    FLOW_CONTROL = 3
    STREAM_CLOSED = 5
    FRAME_SIZE = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION = 9
    ENHANCE_YOUR_CALM = 11


class ConnectionBroken(Exception):
    """The peer broke the rules of HTTP/2: GOAWAY with this code, and the end of the connection."""

    def __init__(self, code: ErrorCode, why: str) -> None:
        super().__init__(why)
        self.code = code
        self.why = why


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return HEAD.pack(len(payload) >> 8, len(payload) & 255, kind, flags, stream_id) + payload


def settings_frame(values: Iterable[tuple[int, int]]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", key, value) for key, value in values))


def window_update(stream_id: int, size: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream_id, size.to_bytes(4, "big"))


def reset(stream_id: int, code: ErrorCode) -> bytes:
    return frame(RST_STREAM, 0, stream_id, code.to_bytes(4, "big"))


def goaway(last_id: int, code: ErrorCode, why: str = "") -> bytes:
    return frame(GOAWAY, 0, 0, struct.pack(">II", last_id, code) + why.encode()[:512])


def literal(name: bytes, value: bytes) -> bytes:
    """A header that no table remembers, not Huffman coded: what we write must not depend on what was written before."""
    return b"\x00" + _number(len(name), 7) + name + _number(len(value), 7) + value


def _number(value: int, bits: int) -> bytes:
    most = (1 << bits) - 1
    if value < most:
        return bytes((value,))
    value -= most
    out = [most]
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes((*out, value))


STATUS_200: Final = b"\x88"
"""`:status: 200` from the static table."""


def status_block(status: int) -> bytes:
    """`:status` by itself, for an answer that is no gRPC."""
    return b"\x08\x03" + str(status).encode("ascii")  # literal value under the static name 8


class Head:
    """The header block of one request, with what decides how it is answered."""

    __slots__ = ("authorization", "encoding", "path", "refusal", "request_id", "status", "timeout_s")

    def __init__(self) -> None:
        self.path = b""
        self.authorization: list[tuple[bytes, bytes]] = []
        self.timeout_s: float | None = None
        self.encoding = b"identity"
        self.request_id: str | None = None
        """The caller's x-request-id, when it is one that we can repeat."""
        self.status = 200
        """Another one: this is no gRPC, and it is the whole answer."""
        self.refusal: RequestError | None = None


def read_head(headers: Iterable[tuple[bytes, bytes]]) -> Head:
    """The head of a decoded block; raises ValueError for one that HTTP/2 calls malformed."""
    head = Head()
    pseudo: dict[bytes, bytes] = {}
    content_type = b""
    regular = False
    for name, value in headers:
        if name[:1] == b":":
            if regular or name in pseudo:
                raise ValueError(f"{name!r} is there twice, or behind a header")
            pseudo[name] = value
            continue
        regular = True
        if name == b"content-type":
            content_type = value
        elif name == b"grpc-timeout":
            _take_timeout(head, value)
        elif name == b"grpc-encoding":
            head.encoding = value
        elif name in (b"authorization", b"x-api-key"):
            head.authorization.append((name, value))
        elif name == b"x-request-id":
            head.request_id = repeatable(value)
        elif name in (b"connection", b"transfer-encoding") or name != name.lower():
            raise ValueError(f"{name!r} is no header of HTTP/2")
    if b":path" not in pseudo or b":method" not in pseudo:
        raise ValueError("a request has :method and :path")
    head.path = pseudo[b":path"]
    if pseudo[b":method"] != b"POST":
        head.status = 405
    elif not content_type.startswith(b"application/grpc"):
        head.status = 415
    if head.encoding not in (b"identity", b"gzip", b"deflate"):
        text = head.encoding.decode("latin-1")
        head.refusal = UnsupportedMediaType(f"grpc-encoding {shown(text)} is not understood: send identity or gzip")
    return head


def _take_timeout(head: Head, value: bytes) -> None:
    match = _TIMEOUT.fullmatch(value)
    if match is None:
        text = value.decode("latin-1")
        head.refusal = InvalidInput(f"grpc-timeout must be up to 8 digits and a unit, as in 250m, got {shown(text)}")
        return
    head.timeout_s = int(match[1]) * _UNITS_S[match[2]]


class HeaderBlocks:
    """The header blocks of one connection, decoded; those that a client sends again and again are remembered.

    A block that changes the table of the connection changes what the same bytes mean next time: everything that was
    remembered goes then.
    """

    def __init__(self, max_bytes: int, read: Callable[[Iterable[tuple[bytes, bytes]]], Head] = read_head) -> None:
        self._decoder = Decoder(max_header_list_size=max_bytes)
        self._read = read
        self._memo: dict[bytes, Head | None] = {}

    def get(self, block: bytes) -> Head | None:
        """The head of a block, None for a malformed one; raises ConnectionBroken when the table is lost with it."""
        try:
            return self._memo[block]
        except KeyError:
            pass
        try:
            changes = changes_table(block)
            headers = self._decoder.decode(block, raw=True)
        except (HPACKError, ValueError, IndexError) as error:
            raise ConnectionBroken(ErrorCode.COMPRESSION, f"a header block cannot be read: {error}") from None
        try:
            head = self._read(headers)
        except ValueError:
            head = None
        if changes:
            self._memo.clear()
        elif len(block) <= _REMEMBERED_BYTES:
            if len(self._memo) >= _REMEMBERED:
                self._memo.clear()
            self._memo[block] = head
        return head


def changes_table(block: bytes) -> bool:
    """Whether a header block adds to the table, or resizes it; raises ValueError or IndexError for a broken one.

    Numbers are bounded here: nobody else looks before they are built, and one of 32 KiB takes a second.
    """
    at, size, changes = 0, len(block), False
    while at < size:
        kind = block[at]
        if kind & 0x80:
            at = _skip_number(block, at, 0x7F)
            continue
        if kind & 0xE0 == 0x20:
            at = _skip_number(block, at, 0x1F)
            changes = True
            continue
        mask = 0x3F if kind & 0x40 else 0x0F
        changes = changes or bool(kind & 0x40)
        named = kind & mask
        at = _skip_number(block, at, mask)
        if not named:
            at = _skip_text(block, at)
        at = _skip_text(block, at)
    if at > size:
        raise ValueError("it ends within a text")
    return changes


def _skip_number(block: bytes, at: int, mask: int) -> int:
    if block[at] & mask != mask:
        return at + 1
    for end in range(at + 1, at + 2 + _MAX_NUMBER_BYTES):
        if block[end] < 128:
            return end + 1
    raise ValueError("a number in it is too large")


def _skip_text(block: bytes, at: int) -> int:
    first = block[at] & 0x7F
    if first != 0x7F:
        return at + 1 + first
    end = _skip_number(block, at, 0x7F)
    more = sum((byte & 127) << (7 * position) for position, byte in enumerate(block[at + 1 : end]))
    return end + 0x7F + more
