"""Metrics on a port of their own: what `/metrics` answers, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any

from lagar.control.state import ControlState
from lagar.errors import Forbidden, Unauthorized
from lagar.server.auth import Gate

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_TEXT = b"text/plain; charset=utf-8"


class Scraped:
    """The ASGI application of the metrics port."""

    def __init__(self, state: ControlState) -> None:
        self._state = state
        self._path = state.settings.metrics_endpoint

    async def __call__(self, scope: Scope, receive: Any, send: Send) -> None:
        del receive
        if scope["type"] != "http":
            return
        status, media, body = await self._answer(scope)
        headers = [(b"content-type", media), (b"content-length", b"%d" % len(body))]
        if status == 401:
            headers.append((b"www-authenticate", b'Bearer realm="lagar"'))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _answer(self, scope: Scope) -> tuple[int, bytes, bytes]:
        headers = scope["headers"]
        try:
            Gate(self._state.settings, self._state.keys).check("GET", "/metrics", headers)
        except (Unauthorized, Forbidden) as error:
            return (401 if isinstance(error, Unauthorized) else 403), _TEXT, f"{error.message}\n".encode()
        if scope["path"] != self._path:
            return 404, _TEXT, f"metrics are at {self._path}\n".encode()
        if scope["method"] not in ("GET", "HEAD"):
            return 405, _TEXT, b"metrics are read with GET\n"
        accept = next((value.decode("latin-1") for name, value in headers if name == b"accept"), "")
        body, media = await asyncio.to_thread(_exposition, self._state, accept)
        return 200, media.encode("ascii"), body


def _exposition(state: ControlState, accept: str) -> tuple[bytes, str]:
    from lagar.control.metrics import exposition

    return exposition(state, accept)


async def serve(state: ControlState, listener: socket.socket) -> None:
    """Answer on the metrics port until cancelled; what that needs is imported when somebody first connects."""
    loop, wanted = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(listener, wanted.set)
    try:
        await wanted.wait()
    finally:
        loop.remove_reader(listener)
    server = await asyncio.to_thread(_server, state)
    try:
        await server.serve(sockets=[listener])
    except asyncio.CancelledError:
        server.should_exit = True
        raise


def _server(state: ControlState) -> Any:
    import uvicorn

    class ScrapeServer(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    return ScrapeServer(
        uvicorn.Config(
            Scraped(state), log_config=None, access_log=False, lifespan="off", ws="none", server_header=False,
            proxy_headers=False, timeout_graceful_shutdown=1, limit_concurrency=32, timeout_keep_alive=75,
        )
    )  # fmt: skip
