"""HTTP request heads: parsed once by httptools, remembered by their bytes.

A client on a kept connection sends the same head again and again; looking it up costs 0.3 µs where parsing costs 6.
The framing rules that keep two requests from being read as one, or one as two, are here and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote_to_bytes

import httptools

from lagar.errors import HeadersTooLarge, InvalidInput, PayloadTooLarge, RequestError
from lagar.protocols.base import PLAIN, Envelope

MAX_TARGET_BYTES = 8 * 1024
MAX_HEADERS = 100
UPLOAD_PATH = "/api/models/[^/]+/versions/?"
"""Where versions are pushed to; their bodies go to disk as they come, so they may be larger than any other."""
HEADER_LENGTH = b"inference-header-content-length"
_TOLD = frozenset({b"timeout", HEADER_LENGTH})
_REMEMBERED = 2048
_REMEMBERED_BYTES = 2048
_TOKEN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:/+=@-")


class Head:
    """One request head, with everything that decides how its body is read and who answers."""

    __slots__ = (
        "authorization", "chunked", "envelope", "error", "expect_continue", "headers", "http_10", "keep_alive",
        "length", "max_body_bytes", "method", "path", "query", "raw_path", "request_id", "route",
    )  # fmt: skip

    def __init__(self) -> None:
        self.method = ""
        self.raw_path = b""
        self.path = ""
        self.query = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.http_10 = False
        self.max_body_bytes = 0
        """What its body may have: more for a pushed version than for anything else."""
        self.keep_alive = True
        self.length = 0
        self.chunked = False
        self.expect_continue = False
        self.request_id: str | None = None
        """The caller's X-Request-Id, when it is one we can repeat."""
        self.authorization: list[tuple[bytes, bytes]] = []
        self.envelope = PLAIN
        """What an adapter reads of the headers of a hot request, whose body is JSON or of the adapter's own kind."""
        self.route: Any = None
        """The hot route, or None for the ASGI lane."""
        self.error: RequestError | None = None
        """Set when the head itself is refused; the connection closes after the answer."""
        self.route = None


class Heads:
    """Parses heads and remembers them; `route` finds the hot route of a path."""

    def __init__(
        self,
        route: Callable[[Head], Any],
        *,
        max_body_bytes: int,
        max_upload_bytes: int | None = None,
        root_path: str = "",
    ) -> None:
        """`max_upload_bytes` (default: as any body) is for pushed versions, below `root_path` or not."""
        self.route = route
        self._max_body_bytes = max_body_bytes
        self._max_upload_bytes = max_body_bytes if max_upload_bytes is None else max_upload_bytes
        self._upload = re.compile(f"(?:{re.escape(root_path)})?{UPLOAD_PATH}")
        self._memo: dict[bytes, Head] = {}

    def forget(self) -> None:
        """Drop what is remembered: routes have changed."""
        self._memo.clear()

    def get(self, data: bytes) -> Head:
        """The head of these bytes, which end with the empty line."""
        head = self._memo.get(data)
        if head is None:
            head = self._parse(data)
            if head.error is None and len(data) <= _REMEMBERED_BYTES:
                if len(self._memo) >= _REMEMBERED:
                    self._memo.clear()
                self._memo[data] = head
        return head

    def _parse(self, data: bytes) -> Head:
        head = Head()
        collector = _Collector(head)
        parser = httptools.HttpRequestParser(collector)
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # an Upgrade we do not follow is as if it were absent (RFC 9110 §7.8); the body is framed by us
        except httptools.HttpParserError as error:
            return _refused(head, InvalidInput(f"the request is not valid HTTP/1.1: {error}"))
        try:
            head.method = parser.get_method().decode("ascii")
            self._read_target(head, collector.url)
            self._read_version(head, parser.get_http_version())
            self._read_headers(head)
        except RequestError as error:
            return _refused(head, error)
        upload = head.method == "POST" and self._upload.fullmatch(head.path)
        head.max_body_bytes = self._max_upload_bytes if upload else self._max_body_bytes
        head.route = self.route(head)
        return head

    def _read_target(self, head: Head, url: bytes) -> None:
        if len(url) > MAX_TARGET_BYTES:
            raise HeadersTooLarge(f"the request target has {len(url)} bytes, the limit is {MAX_TARGET_BYTES}")
        if url.startswith((b"http://", b"https://")):
            url = b"/" + url.split(b"/", 3)[3] if url.count(b"/") >= 3 else b"/"
        path, _, query = url.partition(b"?")
        head.raw_path = path.partition(b"#")[0]
        head.query = query.partition(b"#")[0]
        if not path.startswith(b"/") and path != b"*":
            raise InvalidInput("the request target must be a path that begins with '/'")
        try:
            head.path = unquote_to_bytes(head.raw_path).decode("utf-8")
        except UnicodeDecodeError:
            raise InvalidInput("the path is not UTF-8 after percent-decoding") from None

    def _read_version(self, head: Head, version: str) -> None:
        if version not in ("1.0", "1.1"):
            raise InvalidInput(f"HTTP/{version} is not spoken here; use HTTP/1.1")
        head.http_10 = version == "1.0"
        head.keep_alive = not head.http_10

    def _read_headers(self, head: Head) -> None:
        if len(head.headers) > MAX_HEADERS:
            raise HeadersTooLarge(f"the request has {len(head.headers)} headers, the limit is {MAX_HEADERS}")
        lengths: list[bytes] = []
        codings: list[bytes] = []
        told: dict[bytes, str] = {}
        hosts = 0
        for name, value in head.headers:
            if name == b"content-length":
                lengths.append(value)
            elif name == b"transfer-encoding":
                codings.append(value)
            elif name == b"host":
                hosts += 1
            elif name == b"expect":
                if value.lower() != b"100-continue":
                    raise InvalidInput("the header 'expect' may only be '100-continue'")
                head.expect_continue = not head.http_10
            elif name == b"connection":
                options = {option.strip() for option in value.lower().split(b",")}
                head.keep_alive = b"close" not in options and (not head.http_10 or b"keep-alive" in options)
            elif name == b"x-request-id":
                head.request_id = repeatable(value)
            elif name in (b"authorization", b"x-api-key"):
                head.authorization.append((name, value))
            elif name in _TOLD:
                told.setdefault(name, value.decode("latin-1"))
        if hosts > 1 or (hosts == 0 and not head.http_10):
            raise InvalidInput(f"an HTTP/1.1 request needs one 'host' header, got {hosts}")
        if told:
            head.envelope = Envelope(timeout=told.get(b"timeout"), header_length=told.get(HEADER_LENGTH))
        self._read_framing(head, lengths, codings)

    def _read_framing(self, head: Head, lengths: list[bytes], codings: list[bytes]) -> None:
        """How long the body is: exactly one way to say it, or the request is refused (RFC 9112 §6.3)."""
        if codings:
            if lengths:
                raise InvalidInput("a request has either 'content-length' or 'transfer-encoding', not both")
            if head.http_10 or len(codings) > 1 or codings[0].strip().lower() != b"chunked":
                raise InvalidInput("the only 'transfer-encoding' accepted is 'chunked', in HTTP/1.1")
            head.chunked = True
        if len(lengths) > 1:
            raise InvalidInput("the header 'content-length' is given more than once")
        if lengths:
            if not lengths[0].isdigit() or len(lengths[0]) > 18:
                raise InvalidInput("the header 'content-length' must be a whole number of bytes")
            head.length = int(lengths[0])

    def check_length(self, head: Head) -> PayloadTooLarge | None:
        """The refusal of a body that is announced as larger than the limit."""
        if head.length > head.max_body_bytes:
            return self.too_large(head, head.length)
        return None

    def too_large(self, head: Head, seen: int | None = None) -> PayloadTooLarge:
        """The refusal of a body over the limit; `seen` is its announced size."""
        size = f"has {seen} bytes" if seen is not None else "is larger"
        if head.max_body_bytes != self._max_body_bytes:
            step = "push on the server's machine, or raise the server's max_upload_bytes"
        else:
            step = "send fewer rows per request, or raise the server's max_body_bytes"
        return PayloadTooLarge(f"the body {size}, the limit is {head.max_body_bytes} bytes; {step}")


class _Collector:
    """What httptools calls while it reads a head."""

    __slots__ = ("headers", "url")

    def __init__(self, head: Head) -> None:
        self.url = b""
        self.headers = head.headers

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))


def _refused(head: Head, error: RequestError) -> Head:
    """The head with its error, and with the caller's id if that stands before what is wrong."""
    head.error = error
    for name, value in head.headers:
        if name == b"x-request-id":
            head.request_id = repeatable(value)
    return head


def repeatable(value: bytes) -> str | None:
    """A caller's request id, if it is short and harmless in a log and in a header."""
    if 0 < len(value) <= 128 and _TOKEN.issuperset(value):
        return value.decode("ascii")
    return None
