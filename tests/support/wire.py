"""A client that says exactly the bytes a test wants said, and reads answers one by one."""

from __future__ import annotations

import json
import socket
from types import TracebackType
from typing import Any, NamedTuple


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Closed(Exception):
    """The server closed the connection before a whole answer."""


class Wire:
    """One TCP connection."""

    def __init__(self, port: int, *, timeout_s: float = 20.0, receive_buffer: int | None = None) -> None:
        self.sock = socket.socket()
        if receive_buffer is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(timeout_s)
        self.sock.connect(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._data = b""

    def __enter__(self) -> Wire:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sock.close()

    def send(self, *parts: bytes) -> None:
        """Send each part as a segment of its own."""
        for part in parts:
            self.sock.sendall(part)

    def finish(self) -> None:
        """Half-close: nothing more will be sent."""
        self.sock.shutdown(socket.SHUT_WR)

    def read(self, *, head_only: bool = False) -> Answer:
        """The next answer; `head_only` for the answer to a HEAD."""
        while b"\r\n\r\n" not in self._data:
            self._more()
        head, _, self._data = self._data.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        status = int(lines[0].split(" ")[1])
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        if head_only or status < 200:
            return Answer(status, headers, b"")
        if headers.get("transfer-encoding") == "chunked":
            return Answer(status, headers, self._read_chunks())
        if "content-length" not in headers:
            return Answer(status, headers, self.rest())
        return Answer(status, headers, self._take(int(headers["content-length"])))

    def rest(self) -> bytes:
        """Everything until the server closes."""
        try:
            while True:
                self._more()
        except (Closed, ConnectionResetError):
            data, self._data = self._data, b""
            return data

    def is_closed(self) -> bool:
        """True when the server closes without another byte."""
        return self.rest() == b""

    def silent(self, seconds: float) -> bool:
        """True when nothing comes for that long: for what must not be answered yet."""
        before = self.sock.gettimeout()
        self.sock.settimeout(seconds)
        try:
            self._more()
        except TimeoutError:
            return True
        finally:
            self.sock.settimeout(before)
        return False

    def _read_chunks(self) -> bytes:
        body = b""
        while True:
            while b"\r\n" not in self._data:
                self._more()
            line, _, self._data = self._data.partition(b"\r\n")
            size = int(line, 16)
            body += self._take(size)
            self._take(2)
            if size == 0:
                return body

    def _take(self, size: int) -> bytes:
        while len(self._data) < size:
            self._more()
        taken, self._data = self._data[:size], self._data[size:]
        return taken

    def _more(self) -> None:
        data = self.sock.recv(65536)
        if not data:
            raise Closed(self._data)
        self._data += data


def post(path: str, body: bytes, *headers: str, content_type: str | None = "application/json") -> bytes:
    """A POST with Content-Length."""
    lines = [f"POST {path} HTTP/1.1", "Host: test", f"Content-Length: {len(body)}"]
    if content_type:
        lines.append(f"Content-Type: {content_type}")
    return "\r\n".join([*lines, *headers, "", ""]).encode() + body


def chunked(path: str, *chunks: bytes, headers: tuple[str, ...] = ()) -> bytes:
    """A POST in the chunked coding."""
    lines = [f"POST {path} HTTP/1.1", "Host: test", "Content-Type: application/json", "Transfer-Encoding: chunked"]
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    return "\r\n".join([*lines, *headers, "", ""]).encode() + body


def get(path: str, *headers: str, method: str = "GET", version: str = "1.1") -> bytes:
    """A request without a body."""
    return "\r\n".join([f"{method} {path} HTTP/{version}", "Host: test", *headers, "", ""]).encode()
