"""Everything a caller sends is bounded, in bytes and in time, and so is what it makes the server hold."""

from __future__ import annotations

import gzip
import json
import signal
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from support.server import LagarServer
from support.wait import eventually
from support.wire import Wire, chunked, get, post
from wire.conftest import QUICK, QUICK_BODY, SLOW, gate_body, gate_model


def rss_mb(pids: list[int], row: str = "VmRSS") -> float:
    total = 0.0
    for pid in pids:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(row):
                total += int(line.split()[1]) / 1024
    return total


def peak_mb(pids: list[int]) -> float:
    return rss_mb(pids, "VmHWM")


def test_a_head_over_the_limit_is_431(server: LagarServer) -> None:
    with Wire(server.port) as wire:
        wire.send(get("/healthz", "X-Large: " + "a" * 40_000))
        assert wire.read().status == 431
        assert wire.is_closed()


def test_two_hundred_megabytes_of_headers_cost_nothing(server: LagarServer) -> None:
    before = rss_mb(server.workers())
    with Wire(server.port) as wire:
        wire.send(b"GET /healthz HTTP/1.1\r\nHost: a\r\n")
        block = b"X-Header: " + b"a" * 1000 + b"\r\n"
        try:
            for _ in range(200_000_000 // len(block) // 1000):
                wire.send(block * 1000)
        except (BrokenPipeError, ConnectionResetError):
            pass
        else:
            pytest.fail("200 MB of headers were taken")
    assert rss_mb(server.workers()) - before < 20


def test_too_many_headers_are_431(server: LagarServer) -> None:
    with Wire(server.port) as wire:
        wire.send(get("/healthz", *(f"X-{number}: 1" for number in range(150))))
        assert wire.read().status == 431


def test_a_target_over_the_limit_is_431(server: LagarServer) -> None:
    with Wire(server.port) as wire:
        wire.send(get("/" + "a" * 9000))
        assert wire.read().status == 431


@pytest.mark.parametrize("path", [QUICK, "/models/nobody/predict", "/v2/models/logistic/infer"])
def test_an_announced_body_over_the_limit_is_413_before_it_is_sent(server: LagarServer, path: str) -> None:
    with Wire(server.port) as wire:
        wire.send(f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999999\r\n\r\n".encode())
        answer = wire.read()
        assert answer.status == 413
        assert wire.is_closed()


def test_a_chunked_body_over_the_limit_is_413(serve: Any, logistic: Any) -> None:
    running = serve(logistic.path, env={"LAGAR_MAX_BODY_BYTES": "1000"})
    with Wire(running.port) as wire:
        wire.send(chunked(QUICK, *[b" " * 300] * 5) + get("/healthz"))
        assert [wire.read().status, wire.read().status] == [413, 200]
    with Wire(running.port) as wire:
        wire.send(chunked(QUICK, *[b" " * 300] * 5)[:-5])
        assert wire.read().status == 413
        assert wire.is_closed()
    with Wire(running.port) as wire:
        wire.send(chunked(QUICK, QUICK_BODY))
        assert wire.read().status == 200


def test_a_client_that_never_reads_is_held_to_one_answer(server: LagarServer) -> None:
    before = rss_mb(server.workers())
    rows = json.dumps([[1, 2, 3, 4]] * 2000).encode()
    request = post(QUICK, rows)
    with Wire(server.port, receive_buffer=4096) as wire:
        wire.sock.settimeout(1.0)
        sent = 0
        try:
            while sent < 400_000_000:
                sent += wire.sock.send(request)
        except TimeoutError:
            pass  # the server has stopped reading: that is the point
        assert sent < 50_000_000
        assert rss_mb(server.workers()) - before < 60
    with Wire(server.port) as wire:
        wire.send(post(QUICK, QUICK_BODY))
        assert wire.read().status == 200


@pytest.fixture
def impatient(serve: Any, logistic: Any, tmp_path: Path) -> LagarServer:
    names = ("HEADER", "BODY", "WRITE", "KEEP_ALIVE")
    running: LagarServer = serve(logistic.path, env={f"LAGAR_{name}_TIMEOUT_S": "0.2" for name in names})
    return running


def test_packed_bodies_wait_packed_for_their_turn(server: LagarServer) -> None:
    """Sixteen that are 48 MB each once unpacked: together, and what is read of them, they would be 768 MB at least."""
    body = gzip.compress(b"[" + b" " * 48_000_000 + b"]", 1)
    before = peak_mb(server.workers())
    answers = []

    def ask() -> None:
        with Wire(server.port) as wire:
            wire.send(post(QUICK, body, "Content-Encoding: gzip"))
            answers.append(wire.read().status)

    callers = [threading.Thread(target=ask) for _ in range(16)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert answers == [400] * len(callers)
    assert peak_mb(server.workers()) - before < 400


def test_slow_clients_are_not_waited_for(impatient: LagarServer) -> None:
    with Wire(impatient.port) as head, Wire(impatient.port) as body, Wire(impatient.port) as cold_body:
        head.send(b"POST /predict HTTP/1.1\r\nHo")
        body.send(post(QUICK, QUICK_BODY)[:-3])
        cold_body.send(chunked(QUICK, QUICK_BODY)[:-9])
        assert [wire.read().status for wire in (head, body, cold_body)] == [408, 408, 408]
        assert head.is_closed()


def test_an_idle_connection_is_closed_without_a_word(impatient: LagarServer) -> None:
    with Wire(impatient.port) as fresh, Wire(impatient.port) as used:
        used.send(get("/healthz"))
        assert used.read().status == 200
        assert used.is_closed()
        assert fresh.is_closed()


def test_sigterm_answers_what_is_queued_in_the_thread_and_half_received(
    serve: Any, tmp_path: Path, logistic: Any
) -> None:
    running = serve(gate_model(tmp_path / "gate"), logistic.path)
    gate = tmp_path / "open"
    with (
        Wire(running.port) as in_thread,
        Wire(running.port) as half,
        Wire(running.port) as cold,
        Wire(running.port) as idle,
    ):
        in_thread.send(post(SLOW, gate_body(1, gate)))
        eventually(Path(f"{gate}.entered").exists, what="the model was called")
        queued = [Wire(running.port) for _ in range(20)]
        for number, wire in enumerate(queued):
            wire.send(post(SLOW, gate_body(number + 10)))
        whole = post(QUICK, QUICK_BODY)
        half.send(whole[:-10])
        cold.send(chunked(SLOW, gate_body(2)))
        idle.send(get("/healthz"))
        assert idle.read().status == 200
        assert queued[-1].silent(0.2)
        running.signal(signal.SIGTERM)
        assert idle.is_closed()
        half.send(whole[-10:])
        assert half.read().headers["connection"] == "close"
        gate.touch()
        assert in_thread.read().json["predictions"] == [1.0]
        assert cold.read().json["predictions"] == [2.0]
        assert [wire.read().json["predictions"] for wire in queued] == [[number + 10.0] for number in range(20)]
        assert running.wait_exit() == 0
        for wire in queued:
            wire.sock.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", running.port))


def test_connections_waiting_in_the_accept_queue_are_answered_at_the_end(serve: Any, tmp_path: Path) -> None:
    running = serve(gate_model(tmp_path / "gate"))
    clients = [socket.create_connection(("127.0.0.1", running.port)) for _ in range(50)]
    for number, client in enumerate(clients):
        client.sendall(post(SLOW, gate_body(number)))
    running.signal(signal.SIGTERM)
    for number, client in enumerate(clients):
        client.settimeout(20)
        data = b""
        while piece := client.recv(65536):
            data += piece
        assert f'"predictions":[{number}.0]'.encode() in data.replace(b" ", b"")
        client.close()
    assert running.wait_exit() == 0
