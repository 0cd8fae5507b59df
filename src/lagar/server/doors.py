"""The listening sockets of a worker: opened once it may answer, closed without losing a connection that waits there."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable

from lagar.server.sockets import BACKLOG
from lagar.settings import ServerSettings


class Door:
    """One listening socket and the connections that come in there."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        connection: Callable[[], asyncio.Protocol],
        tls: ssl.SSLContext | None,
    ) -> None:
        self._loop = loop
        self._socket = sock
        self._connection = connection
        self._tls = tls
        self._listener: asyncio.Server | None = None

    async def open(self) -> None:
        """Accept connections from now on."""
        self._listener = await self._loop.create_server(
            self._connection, sock=self._socket.dup(), ssl=self._tls, backlog=BACKLOG
        )

    async def close(self) -> None:
        """Accept what waits, and nothing more."""
        self.shut()
        await asyncio.sleep(0)  # what the loop accepted in its last turn is a connection in this one
        self._socket.setblocking(False)
        while True:
            try:
                accepted, _ = self._socket.accept()
            except OSError:
                break
            await self._loop.connect_accepted_socket(self._connection, accepted, ssl=self._tls)
        self._socket.close()

    def shut(self) -> None:
        """Accept nothing more, at once."""
        if self._listener is not None:
            self._listener.close()


def tls_context(settings: ServerSettings, *, protocol: str = "") -> ssl.SSLContext | None:
    """The server's TLS context, None without a certificate; `protocol` is what ALPN offers: "h2"."""
    if settings.tls_cert is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(settings.tls_cert, settings.tls_key)
    if protocol:
        context.set_alpn_protocols([protocol])
    return context
