"""The listening sockets of a server, and the watch on its files."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from lagar.errors import AddressError
from lagar.server.post import MAX_RESTART_DELAY_S, restart_delay_s
from lagar.server.process import Phase, advance
from lagar.server.sockets import open_listeners, open_unix_listener, waiting_connections


def test_every_worker_has_a_socket_on_the_same_port() -> None:
    listeners = open_listeners("127.0.0.1", 0, 4)
    try:
        assert {sock.getsockname()[1] for sock in listeners.sockets} == {listeners.port}
        assert len({sock.fileno() for sock in listeners.sockets}) == 4
    finally:
        listeners.close()


def test_connections_are_spread_over_the_sockets() -> None:
    listeners = open_listeners("127.0.0.1", 0, 4)
    clients = [socket.create_connection(("127.0.0.1", listeners.port)) for _ in range(64)]
    try:
        counts = [waiting_connections(sock) for sock in listeners.sockets]
        assert sum(counts) == 64
        assert max(counts) <= 32
    finally:
        for client in clients:
            client.close()
        listeners.close()


def test_a_port_that_another_server_of_this_user_shares_is_in_use() -> None:
    first = open_listeners("127.0.0.1", 0, 2)
    try:
        with pytest.raises(AddressError) as refused:
            open_listeners("127.0.0.1", first.port, 2)
        assert refused.value.message == (
            f"port {first.port} on 127.0.0.1 is in use; choose another with --port, or 0 for any free one"
        )
        with pytest.raises(AddressError, match="is in use"):
            open_listeners("0.0.0.0", first.port, 1)
    finally:
        first.close()


def test_a_port_is_free_again_after_its_server() -> None:
    first = open_listeners("127.0.0.1", 0, 2)
    client = socket.create_connection(("127.0.0.1", first.port))
    accepted = [_accept(sock) for sock in first.sockets if waiting_connections(sock)]
    for end in (*accepted, client):
        end.close()  # the server closes first: its side is in TIME_WAIT
    first.close()
    open_listeners("127.0.0.1", first.port, 2).close()


def _accept(sock: socket.socket) -> socket.socket:
    return sock.accept()[0]


def test_what_waits_is_kept_while_new_connections_are_refused() -> None:
    listeners = open_listeners("127.0.0.1", 0, 1)
    early = socket.create_connection(("127.0.0.1", listeners.port))
    early.sendall(b"early")
    listeners.refuse_new()
    late = socket.socket()
    late.settimeout(0.2)
    try:
        with pytest.raises(TimeoutError):
            late.connect(("127.0.0.1", listeners.port))
        accepted = _accept(listeners.sockets[0])
        assert accepted.recv(5) == b"early"
        accepted.close()
    finally:
        early.close()
        late.close()
        listeners.close()


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6 loopback")
@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_an_ipv6_address_is_taken_with_and_without_brackets(host: str) -> None:
    listeners = open_listeners(host, 0, 2)
    try:
        socket.create_connection(("::1", listeners.port)).close()
    finally:
        listeners.close()


@pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6 loopback")
def test_the_ipv6_wildcard_takes_ipv4_too() -> None:
    listeners = open_listeners("::", 0, 1)
    try:
        socket.create_connection(("127.0.0.1", listeners.port)).close()
        socket.create_connection(("::1", listeners.port)).close()
    finally:
        listeners.close()


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("192.0.2.7", "host 192.0.2.7 is not an address of this machine"),
        ("no-such-host.invalid", "host 'no-such-host.invalid' cannot be looked up"),
    ],
)
def test_a_host_that_is_not_ours_is_named(host: str, words: str) -> None:
    with pytest.raises(AddressError) as refused:
        open_listeners(host, 0, 1)
    assert words in refused.value.message
    assert "\n" not in refused.value.message


def test_a_port_out_of_range_is_named() -> None:
    with pytest.raises(AddressError, match="from 0 to 65535, got 70000"):
        open_listeners("127.0.0.1", 70000, 1)


def test_only_this_user_may_connect_to_the_control_socket(tmp_path: Path) -> None:
    with open_unix_listener(tmp_path / "control.sock"):
        assert (tmp_path / "control.sock").stat().st_mode & 0o777 == 0o600


def test_a_phase_never_goes_back() -> None:
    order = list(Phase)
    for i, phase in enumerate(order):
        for to in order[: i + 1]:
            with pytest.raises(RuntimeError, match="cannot become"):
                advance(phase, to)
        for to in order[i + 1 :]:
            assert advance(phase, to) is to


def test_the_first_restart_is_immediate_and_later_ones_wait_longer() -> None:
    delays = [restart_delay_s(deaths) for deaths in range(1, 40)]
    assert delays[0] == 0
    assert delays == sorted(delays)
    assert delays[-1] == MAX_RESTART_DELAY_S
