"""The listening sockets of a server: one SO_REUSEPORT socket per worker on one port, owned by the supervisor.

The kernel spreads connections over the sockets of a port by a hash of the addresses; one socket shared by all workers
does not spread at all (all 32 connections of a test went to one of two workers in half the runs). Since the supervisor
keeps them open, connections that arrive while a worker is away wait for its successor.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lagar.errors import AddressError

BACKLOG = 4096
"""Connections that may wait per worker; the kernel cuts it to net.core.somaxconn."""

_SO_ATTACH_FILTER = 26
_REFUSE_SYN = (  # classic BPF over the TCP header: drop SYN without ACK, let everything else through
    (0x30, 0, 0, 13),  # load the flags byte
    (0x54, 0, 0, 0x12),  # keep SYN and ACK
    (0x15, 0, 1, 0x02),  # SYN alone?
    (0x06, 0, 0, 0),  # drop
    (0x06, 0, 0, 0xFFFFFFFF),  # pass
)
_SO_ATTACH_REUSEPORT_CBPF = 51
_SO_DETACH_REUSEPORT_BPF = 68
_RANDOM = 0xFFFFF000 + 56
"""The offset at which classic BPF reads a random number."""
_TCP_INFO_UNACKED = 24
"""Offset of tcpi_unacked: for a listening socket the number of connections that wait to be accepted."""


class Listeners:
    """One listening TCP socket per worker, all on one port."""

    def __init__(self, sockets: list[socket.socket]) -> None:
        self.sockets = sockets
        self.port: int = sockets[0].getsockname()[1]

    def refuse_new(self) -> None:
        """Take no further connections while those that are established or waiting go on.

        A SYN that is dropped is sent again by its client after a second, and is refused then, or answered by the next
        server on this port. Where the kernel has no socket filters, connections keep arriving until `close`.
        """
        for sock in self.sockets:
            refuse_connections(sock)

    def add(self) -> socket.socket:
        """One more socket, bound and not listening: no connection goes there before its worker listens."""
        sock = _tcp_socket(self.sockets[0].family)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(self.sockets[0].getsockname())
        except OSError:
            sock.close()
            raise
        self.sockets.append(sock)
        return sock

    def spare_last(self) -> None:
        """Let new connections go to all but the socket that began to listen last; it goes on with those it has.

        The kernel chooses among the sockets of a port by a program: the last one keeps its place in their order as long
        as only last ones are removed. Where it takes none, that socket drops the SYN packets of new connections, which
        their clients send again after a second.
        """
        if not _choose_among(self.sockets[0], len(self.sockets) - 1):
            refuse_connections(self.sockets[-1])

    def use_all(self) -> None:
        """Let the kernel choose among all sockets again, by a hash of the addresses."""
        with contextlib.suppress(OSError):  # there was no program
            self.sockets[0].setsockopt(socket.SOL_SOCKET, _SO_DETACH_REUSEPORT_BPF, 0)

    def drop_last(self) -> None:
        """Close this process's copy of the last socket; its worker closes it when it has accepted what waits there."""
        self.sockets.pop().close()

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()


class Ports:
    """The ports of a server by what is spoken there, with a socket of each for every worker."""

    def __init__(self, listeners: Mapping[str, Listeners]) -> None:
        self._listeners = dict(listeners)

    @property
    def numbers(self) -> dict[str, int]:
        """What is spoken → the port."""
        return {name: listeners.port for name, listeners in self._listeners.items()}

    @property
    def sockets(self) -> list[dict[str, socket.socket]]:
        """The sockets of each worker."""
        names = list(self._listeners)
        each = zip(*(listeners.sockets for listeners in self._listeners.values()), strict=True)
        return [dict(zip(names, sockets, strict=True)) for sockets in each]

    def add(self) -> dict[str, socket.socket]:
        """The sockets of one more worker; raises OSError and adds none when one of them cannot be had."""
        added: list[Listeners] = []
        try:
            for listeners in self._listeners.values():
                listeners.add()
                added.append(listeners)
        except OSError:
            for listeners in added:
                listeners.drop_last()
            raise
        return self.sockets[-1]

    def refuse_new(self) -> None:
        """As `Listeners.refuse_new`, on every port; so are the others."""
        for listeners in self._listeners.values():
            listeners.refuse_new()

    def spare_last(self) -> None:
        for listeners in self._listeners.values():
            listeners.spare_last()

    def use_all(self) -> None:
        for listeners in self._listeners.values():
            listeners.use_all()

    def drop_last(self) -> None:
        for listeners in self._listeners.values():
            listeners.drop_last()

    def close(self) -> None:
        for listeners in self._listeners.values():
            listeners.close()


def open_ports(host: str, ports: Mapping[str, int], count: int) -> Ports:
    """`count` listening sockets on each port, 0 for any free one; raises AddressError as `open_listeners`."""
    opened: dict[str, Listeners] = {}
    try:
        for name, port in ports.items():
            flag = "--port" if name == "http" else f"--{name}-port"
            opened[name] = open_listeners(host, port, count, flag=flag)
    except AddressError:
        for listeners in opened.values():
            listeners.close()
        raise
    return Ports(opened)


def open_listeners(host: str, port: int, count: int, *, flag: str = "--port") -> Listeners:
    """`count` listening sockets on host and port (0: any free one).

    Raises AddressError when the host is not one of this machine, the port is taken, also by another Lagar of this
    user, or needs privileges.
    """
    if not 0 <= port <= 65535:
        raise AddressError(f"port must be from 0 to 65535, got {port}; 0 takes any free one")
    family, address = _resolve(host, port)
    sockets: list[socket.socket] = []
    try:
        with _claim(family, address) as claim:
            # "127.0.0.1", 8080 and for IPv6 two numbers more
            bound = (address[0], claim.getsockname()[1], *address[2:])
            claim.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            for _ in range(count):
                sock = _tcp_socket(family)
                sockets.append(sock)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                sock.bind(bound)
                sock.listen(BACKLOG)
    except OSError as error:
        for sock in sockets:
            sock.close()
        raise _address_error(error, host, port, flag) from None
    return Listeners(sockets)


def open_unix_listener(path: Path) -> socket.socket:
    """A listening Unix socket that only this user may connect to."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        mask = os.umask(0o177)
        try:
            sock.bind(str(path))
        finally:
            os.umask(mask)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise AddressError(f"cannot open the socket {path}: {error.strerror or error}") from None
    return sock


def waiting_connections(sock: socket.socket) -> int:
    """Connections of a listening TCP socket that are established and not yet accepted."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_UNACKED + 4)
    return int(struct.unpack_from("=I", info, _TCP_INFO_UNACKED)[0])


def refuse_connections(sock: socket.socket) -> bool:
    """Drop the SYN packets of new connections; False where the kernel cannot."""
    return _attach(sock, _SO_ATTACH_FILTER, _REFUSE_SYN)


def _choose_among(sock: socket.socket, count: int) -> bool:
    """Spread the new connections of a port over the first `count` of its sockets; False where the kernel cannot."""
    steps = ((0x20, 0, 0, _RANDOM), (0x94, 0, 0, count), (0x16, 0, 0, 0))  # return a random number modulo count
    return _attach(sock, _SO_ATTACH_REUSEPORT_CBPF, steps)


def _attach(sock: socket.socket, option: int, steps: Sequence[tuple[int, int, int, int]]) -> bool:
    """Give the kernel a classic BPF program for a socket; False where it takes none."""
    program = b"".join(struct.pack("=HBBI", *step) for step in steps)
    memory = ctypes.create_string_buffer(program, len(program))
    try:
        sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("HL", len(steps), ctypes.addressof(memory)))
    except OSError:
        return False
    return True


def _claim(family: int, address: Any) -> socket.socket:
    """Hold the port alone for the moment in which the real sockets are made.

    SO_REUSEPORT alone would let two servers of one user share a port in silence. This socket listens without it, which
    fails while anything else listens there, and of two servers that start at once the second to listen fails. It
    refuses connections, so none is lost when it closes.
    """
    sock = _tcp_socket(family)
    try:
        sock.bind(address)
        refuse_connections(sock)
        sock.listen(1)
    except OSError:
        sock.close()
        raise
    return sock


def _tcp_socket(family: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections in TIME_WAIT do not hold the port
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # "::" means every address, IPv4 too
    return sock


def _resolve(host: str, port: int) -> tuple[int, Any]:
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        found = socket.getaddrinfo(bare or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise AddressError(
            f"host {host!r} cannot be looked up ({reason}); give --host an address of this machine such as 127.0.0.1, "
            "or 0.0.0.0 for all of them"
        ) from None
    # "localhost" is both ::1 and 127.0.0.1; what people type is the second
    family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    return family, address


def _address_error(error: OSError, host: str, port: int, flag: str) -> AddressError:
    if error.errno == errno.EADDRINUSE:
        return AddressError(f"port {port} on {host} is in use; choose another with {flag}, or 0 for any free one")
    if error.errno == errno.EADDRNOTAVAIL:
        return AddressError(
            f"host {host} is not an address of this machine; give --host 127.0.0.1, or 0.0.0.0 for all its addresses"
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return AddressError(
            f"port {port} on {host} may not be opened by this user; choose one from 1024 on with {flag}"
        )
    return AddressError(f"cannot listen on {host} port {port}: {error.strerror or error}")
