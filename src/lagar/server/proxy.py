"""Forwards a cold path to the control process over its Unix socket, streaming both ways."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections.abc import Callable, Iterable
from typing import Any

import httptools

from lagar.errors import NotReady, RequestError
from lagar.server.exchange import Message, Receive, Scope, Send

ANSWER_TIMEOUT_S = 60.0
"""How long control may take to begin its answer once it has the whole body; intake of a pushed version takes longer."""
_READ_BYTES = 64 * 1024

_HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"te", b"trailer",
     b"transfer-encoding", b"upgrade", b"expect", b"http2-settings", b"proxy-connection"}
)  # fmt: skip
_SECRETS = frozenset({b"authorization", b"x-api-key"})
_FORWARDED = frozenset({b"forwarded"})


class Proxies:
    """The proxies whose X-Forwarded-* headers are believed: addresses and networks."""

    def __init__(self, trusted: Iterable[str]) -> None:
        self._networks = [ipaddress.ip_network(entry, strict=False) for entry in trusted]

    def trusts(self, client: Any) -> bool:
        if not client or not self._networks:
            return False
        try:
            address = ipaddress.ip_address(client[0].partition("%")[0])
        except ValueError:
            return False
        return any(address in network for network in self._networks)


class ControlProxy:
    """The worker's way to the control process."""

    def __init__(self, socket_path: str, proxies: Proxies) -> None:
        self._socket_path = socket_path
        self._proxies = proxies

    async def forward(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        path: str,
        answer_timeout_s: float | None = ANSWER_TIMEOUT_S,
    ) -> None:
        """Answer the exchange with what control answers for `path` (percent-encoded, without root path)."""
        try:
            reader, writer = await asyncio.open_unix_connection(self._socket_path)
        except OSError:
            raise NotReady(
                "the management part of the server is starting; predictions are not affected, try again",
                retry_after_s=1,
            ) from None
        try:
            writer.write(self._head(scope, path))
            upload = asyncio.create_task(self._send_body(scope, receive, writer))
            try:
                await self._relay(reader, send, upload, answer_timeout_s)
            except NotReady:
                if upload.done() and not upload.cancelled() and isinstance(refusal := upload.exception(), RequestError):
                    raise refusal from None  # control has seen half a body, because the other half is refused
                raise
            finally:
                upload.cancel()
                await asyncio.gather(upload, return_exceptions=True)
        finally:
            writer.close()

    def _head(self, scope: Scope, path: str) -> bytes:
        query = scope["query_string"]
        target = path.encode("ascii") + (b"?" + query if query else b"")
        # An answer to HEAD ends where no parser can see it: control is asked with GET, the exchange drops the body.
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        lines = [b"%b %b HTTP/1.1\r\n" % (method.encode("ascii"), target)]
        trusted = self._proxies.trusts(scope["client"])
        for name, value in scope["headers"]:
            told = name.startswith(b"x-forwarded-") or name in _FORWARDED
            ours = name.startswith(b"x-lagar-") or name == b"x-request-id"
            if name in _HOP_BY_HOP or name in _SECRETS or (told and not trusted) or ours:
                continue
            lines.append(b"%b: %b\r\n" % (name, value))
        lines.append(b"x-request-id: %b\r\n" % scope["state"]["request_id"].encode("ascii"))
        lines.append(b"x-lagar-scheme: %b\r\n" % scope["scheme"].encode("ascii"))
        if (key_id := scope["state"].get("key_id")) is not None:
            lines.append(b"x-lagar-key-id: %b\r\n" % key_id.encode("ascii"))
        if scope["client"]:
            lines.append(b"x-lagar-client: %b\r\n" % str(scope["client"][0]).encode("ascii", "replace"))
        if _is_chunked(scope):
            lines.append(b"transfer-encoding: chunked\r\n")
        lines.append(b"connection: close\r\n\r\n")
        return b"".join(lines)

    async def _send_body(self, scope: Scope, receive: Receive, writer: asyncio.StreamWriter) -> None:
        chunked = _is_chunked(scope)
        while True:
            try:
                message = await receive()
            except RequestError:
                writer.close()
                raise
            if message["type"] != "http.request":
                writer.close()  # half a body: control must not wait for the rest
                return
            body = message["body"]
            if body:
                writer.write(b"%x\r\n%b\r\n" % (len(body), body) if chunked else body)
                await writer.drain()
            if not message["more_body"]:
                if chunked:
                    writer.write(b"0\r\n\r\n")
                return

    async def _relay(
        self, reader: asyncio.StreamReader, send: Send, upload: asyncio.Task[None], answer_timeout_s: float | None
    ) -> None:
        answer = _Answer()
        parser = httptools.HttpResponseParser(answer)
        while not answer.complete:
            try:
                async with asyncio.timeout(None) as limit:
                    if not answer.started and answer_timeout_s is not None:
                        upload.add_done_callback(_reschedule(limit, answer_timeout_s))
                    data = await reader.read(_READ_BYTES)
            except (TimeoutError, ConnectionError):
                data = b""
            if data:
                parser.feed_data(data)
            if answer.headers_complete and not answer.started:
                answer.started = True
                await send(
                    {"type": "http.response.start", "status": parser.get_status_code(), "headers": answer.headers}
                )
            if answer.started and answer.body:
                body, answer.body = b"".join(answer.body), []
                await send({"type": "http.response.body", "body": body, "more_body": True})
            if not data:
                break
        if not answer.started:
            raise NotReady("the management part of the server did not answer; try again", retry_after_s=1)
        if answer.complete or answer.until_close:
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def _reschedule(limit: asyncio.Timeout, seconds: float) -> Callable[[object], None]:
    """What begins the time of a wait, if it still lasts, when something else is done."""

    def begin(_done: object) -> None:
        with contextlib.suppress(RuntimeError):  # the wait has ended
            limit.reschedule(asyncio.get_running_loop().time() + seconds)

    return begin


class _Answer:
    """Collects what httptools reads of control's answer."""

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.body: list[bytes] = []
        self.headers_complete = False
        self.started = False
        self.complete = False
        self.until_close = True

    def on_header(self, name: bytes, value: bytes) -> None:
        lower = name.lower()
        if lower in (b"content-length", b"transfer-encoding"):
            self.until_close = False
        if lower not in _HOP_BY_HOP and lower not in (b"server", b"date"):
            self.headers.append((lower, value))

    def on_headers_complete(self) -> None:
        self.headers_complete = True

    def on_body(self, data: bytes) -> None:
        self.body.append(data)

    def on_message_complete(self) -> None:
        self.complete = True


def _is_chunked(scope: Scope) -> bool:
    return any(name == b"transfer-encoding" for name, _ in scope["headers"])


async def read_body(receive: Receive) -> bytes | None:
    """The whole body of an exchange, already bounded by it; None when the client has gone."""
    parts: list[bytes] = []
    while True:
        message: Message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message["body"])
        if not message.get("more_body", False):
            return b"".join(parts)
