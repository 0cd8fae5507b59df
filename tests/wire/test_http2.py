"""HTTP/2 frame by frame: what a client may do, and what ends its call or its connection and nobody else's."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import random
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import pytest
from hpack import Decoder, Encoder

from lagar.intake.inspect import find_models
from lagar.server import frames
from lagar.server.channel import ServerState, WorkerBoot
from lagar.server.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    ErrorCode,
)
from lagar.server.http2 import Connection
from lagar.server.worker import Worker
from lagar.settings import ServerSettings
from support.inference import message, output, request
from support.wait import eventually

INFER = "/inference.GRPCInferenceService/ModelInfer"
LIVE = "/inference.GRPCInferenceService/ServerLive"
MAX_BODY_BYTES = 2_000_000
ROW = [13.2, 2.8, 3.2, 5.6]


class WorkerThread:
    """A worker in this process, on a thread with a loop of its own."""

    def __init__(self, path: Path, folder: Path) -> None:
        found = find_models([path])
        settings = ServerSettings(
            grpc_port=0,
            max_body_bytes=MAX_BODY_BYTES,
            header_timeout_s=2,
            body_timeout_s=2,
            write_timeout_s=2,
        )
        self._boot = WorkerBoot(
            slot=0, workers=1, threads=1, settings=settings, sources=found.sources, live=found.live,
            control_socket=str(folder / "nobody"), metrics_dir=str(folder), keys=(), port=0,
        )  # fmt: skip
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> WorkerThread:
        self._thread.start()
        assert self._ready.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self._end.set)
        self._thread.join(60)

    async def _run(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        self.worker = Worker(self._boot, self.loop)
        await self.worker.load()
        self.worker.update_state(ServerState(ready=True))
        sockets = {name: socket.create_server(("127.0.0.1", 0)) for name in ("http", "grpc")}
        self.port = sockets["grpc"].getsockname()[1]
        await self.worker.listen(sockets)
        self._ready.set()
        await self._end.wait()
        assert await self.worker.drain()

    def connections(self) -> int:
        return len(self.open_connections())

    def open_connections(self) -> list[Connection]:
        grpc = self.worker.grpc
        assert grpc is not None
        return [connection for connection in grpc.connections if connection.ready]


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory, logistic: Any) -> Iterator[WorkerThread]:
    with WorkerThread(logistic.path, tmp_path_factory.mktemp("http2")) as running:
        yield running


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes


class Talk:
    """One connection that says exactly the frames a test wants said."""

    def __init__(self, port: int, *, preface: bool = True) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._data = b""
        self._encoder = Encoder()
        self._decoder = Decoder()
        self.next = 1
        if preface:
            self.send(PREFACE + frames.settings_frame([(frames.SETTING_WINDOW, 1 << 24)]))
            self.send(frames.window_update(0, 1 << 24))

    def __enter__(self) -> Talk:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sock.close()

    def send(self, *parts: bytes) -> None:
        for part in parts:
            self.sock.sendall(part)

    def block(self, path: str = INFER, **headers: str) -> bytes:
        """A header block of a gRPC call."""
        given = {"content-type": "application/grpc", "te": "trailers"}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        pseudo = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "a")]
        return bytes(self._encoder.encode([*pseudo, *given.items()]))

    def open(self, path: str = INFER, *, flags: int = END_HEADERS, **headers: str) -> int:
        """Begin a call; its stream."""
        number, self.next = self.next, self.next + 2
        self.send(frames.frame(HEADERS, flags, number, self.block(path, **headers)))
        return number

    def frame(self) -> Frame:
        """The next frame; a ConnectionError when the connection has ended."""
        while len(self._data) < 9 or len(self._data) < 9 + int.from_bytes(self._data[:3], "big"):
            more = self.sock.recv(65536)
            if not more:
                raise ConnectionError("closed")
            self._data += more
        size = int.from_bytes(self._data[:3], "big")
        found = Frame(self._data[3], self._data[4], int.from_bytes(self._data[5:9], "big"), self._data[9 : 9 + size])
        self._data = self._data[9 + size :]
        return found

    def until(self, kind: int, stream: int | None = None) -> Frame:
        """The next frame of a kind; header blocks before it are read, as the table wants it."""
        while True:
            found = self.frame()
            if found.kind == kind and stream in (None, found.stream):
                return found
            if found.kind == HEADERS:
                self._decoder.decode(found.payload)

    def answer(self, stream: int) -> tuple[dict[str, str], bytes]:
        """Headers and trailers of a call, and the bytes between; other calls' frames are not expected."""
        headers: dict[str, str] = {}
        data = b""
        while True:
            found = self.frame()
            if found.stream != stream:
                continue
            if found.kind == HEADERS:
                headers |= dict(self._decoder.decode(found.payload))
            elif found.kind == DATA:
                data += found.payload
            elif found.kind == RST_STREAM:
                headers["reset"] = str(int.from_bytes(found.payload, "big"))
            if (found.kind != DATA and found.flags & END_STREAM) or "reset" in headers:
                return headers, data

    def gone(self) -> ErrorCode:
        """Why the server ended the connection."""
        while True:
            found = self.until(GOAWAY)
            code = ErrorCode(struct.unpack(">I", found.payload[4:8])[0])
            if code is not ErrorCode.NO_ERROR:
                with pytest.raises(ConnectionError):
                    self.until(99)
                return code


@pytest.fixture
def talk(worker: WorkerThread) -> Iterator[Talk]:
    with Talk(worker.port) as wire:
        yield wire


def enveloped(body: bytes) -> bytes:
    return b"\0" + len(body).to_bytes(4, "big") + body


def asked(n: int = 1) -> bytes:
    return enveloped(request("logistic", ("x", "FP64", [n, 4], ROW * n), raw=True).SerializeToString())


def opened(data: bytes) -> Any:
    assert int.from_bytes(data[1:5], "big") == len(data) - 5
    return message("inference.ModelInferResponse").FromString(data[5:])


def infer(talk: Talk) -> None:
    """A plain call, to see that the connection is good."""
    stream = talk.open()
    talk.send(frames.frame(DATA, END_STREAM, stream, asked()))
    headers, data = talk.answer(stream)
    assert headers["grpc-status"] == "0"
    assert len(output(opened(data))) == 1


def test_calls_follow_each_other_on_a_connection(talk: Talk) -> None:
    for _ in range(5):
        infer(talk)


def test_a_message_may_come_byte_by_byte(talk: Talk) -> None:
    stream = talk.next
    talk.next += 2
    whole = frames.frame(HEADERS, END_HEADERS, stream, talk.block()) + frames.frame(DATA, END_STREAM, stream, asked())
    talk.send(*(whole[place : place + 1] for place in range(len(whole))))
    assert talk.answer(stream)[0]["grpc-status"] == "0"


def test_a_message_may_come_in_many_frames_with_padding_and_trailers(talk: Talk) -> None:
    body, stream = asked(), talk.open()
    for byte in body:
        talk.send(frames.frame(DATA, PADDED, stream, b"\x03" + bytes((byte,)) + b"\0\0\0"))
    talk.send(frames.frame(DATA, 0, stream), frames.frame(HEADERS, END_HEADERS | END_STREAM, stream, b""))
    assert talk.answer(stream)[0]["grpc-status"] == "0"


def test_a_header_block_may_come_in_many_frames(talk: Talk) -> None:
    block = talk.block(x_long="a" * 3000)
    stream, talk.next = talk.next, talk.next + 2
    pieces = [block[place : place + 700] for place in range(0, len(block), 700)]
    talk.send(frames.frame(HEADERS, 0, stream, pieces[0]))
    talk.send(*(frames.frame(CONTINUATION, 0, stream, piece) for piece in pieces[1:-1]))
    talk.send(
        frames.frame(CONTINUATION, 0, stream, pieces[-1]),
        frames.frame(CONTINUATION, END_HEADERS, stream),
        frames.frame(DATA, END_STREAM, stream, asked()),
    )
    assert talk.answer(stream)[0]["grpc-status"] == "0"


def test_a_client_that_lets_little_through_gets_its_answer_in_pieces(worker: WorkerThread) -> None:
    with Talk(worker.port, preface=False) as talk:
        talk.send(PREFACE + frames.settings_frame([(frames.SETTING_WINDOW, 10)]))
        stream = talk.open()
        talk.send(frames.frame(DATA, END_STREAM, stream, asked(100)))
        data = b""
        while (found := talk.frame()).kind != HEADERS or not found.flags & END_STREAM:
            if found.kind == DATA:
                assert len(found.payload) <= 10
                data += found.payload
                talk.send(frames.window_update(stream, len(found.payload)))
        assert len(output(opened(data))) == 100


def test_a_client_that_lets_nothing_through_loses_its_answer_and_nobody_elses(worker: WorkerThread) -> None:
    with Talk(worker.port, preface=False) as talk:
        talk.send(PREFACE + frames.settings_frame([(frames.SETTING_WINDOW, 0)]))
        shut, other = talk.open(), talk.open()
        for stream in (shut, other):
            talk.send(frames.frame(DATA, END_STREAM, stream, asked()))
        talk.send(frames.window_update(other, 1 << 20))
        assert talk.answer(other)[0]["grpc-status"] == "0"
        assert int.from_bytes(talk.until(RST_STREAM).payload, "big") == ErrorCode.CANCEL


def test_a_window_counts_as_it_was_said_last(worker: WorkerThread) -> None:
    with Talk(worker.port, preface=False) as talk:
        windows = [(frames.SETTING_WINDOW, size) for size in range(2000)]
        talk.send(PREFACE + frames.settings_frame([*windows, (frames.SETTING_WINDOW, 10)]))
        stream = talk.open()
        talk.send(frames.frame(DATA, END_STREAM, stream, asked()))
        assert len(talk.until(DATA, stream).payload) == 10
        talk.send(frames.settings_frame([(frames.SETTING_WINDOW, 20)]))
        assert len(talk.until(DATA, stream).payload) == 10
        talk.send(frames.window_update(stream, 1 << 20))
        assert talk.until(HEADERS, stream).flags & END_STREAM


def test_a_window_that_settings_make_too_large_ends_the_connection(worker: WorkerThread) -> None:
    with Talk(worker.port, preface=False) as talk:
        talk.send(PREFACE + frames.settings_frame([(frames.SETTING_WINDOW, 10)]))
        stream = talk.open()
        talk.send(frames.window_update(stream, 1 << 30), frames.settings_frame([(frames.SETTING_WINDOW, 2**31 - 1)]))
        assert talk.gone() is ErrorCode.FLOW_CONTROL


def test_a_message_that_holds_no_rows_is_small(talk: Talk) -> None:
    """Some of these need no key, and their fields are looked at one by one where all calls are answered."""
    bomb = gzip.compress(bytes(1_000_000))
    for path in (LIVE, "/grpc.health.v1.Health/Watch", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"):
        announced = talk.open(path)
        talk.send(frames.frame(DATA, 0, announced, b"\0" + (100_000).to_bytes(4, "big")))
        headers, _ = talk.answer(announced)
        assert (headers["grpc-status"], "the limit is 65536 bytes" in headers["grpc-message"]) == ("8", True), path
        packed = talk.open(path, grpc_encoding="gzip")
        talk.send(frames.frame(DATA, END_STREAM, packed, b"\1" + enveloped(bomb)[1:]))
        headers, _ = talk.answer(packed)
        assert (headers["grpc-status"], "once unpacked" in headers["grpc-message"]) == ("8", True), path


def test_a_large_message_is_let_through_once_its_length_is_known(talk: Talk) -> None:
    body, stream = asked(30_000), talk.open()
    window = 65_535  # of the connection, before it is made larger
    for found in iter(talk.frame, None):
        if found.kind == SETTINGS and not found.flags:
            window = dict(struct.iter_unpack(">HI", found.payload))[frames.SETTING_WINDOW]
            break
    assert window < len(body) < MAX_BODY_BYTES
    talk.send(frames.frame(DATA, 0, stream, body[:1000]))
    granted = struct.unpack(">I", talk.until(WINDOW_UPDATE, stream).payload)[0]
    assert window + granted == len(body)
    for place in range(1000, len(body), 16_384):
        piece = body[place : place + 16_384]
        talk.send(frames.frame(DATA, END_STREAM if place + 16_384 >= len(body) else 0, stream, piece))
    headers, data = talk.answer(stream)
    assert headers["grpc-status"] == "0"
    assert len(output(opened(data))) == 30_000


def test_large_messages_are_let_through_within_one_budget(talk: Talk) -> None:
    body = asked(30_000)
    streams = [talk.open() for _ in range(4)]
    for stream in streams:
        talk.send(frames.frame(DATA, 0, stream, body[:1000]))
    first = [talk.until(WINDOW_UPDATE, stream).stream for stream in streams[:2]]
    assert first == streams[:2]
    talk.send(frames.frame(PING, 0, 0, b"anything"))
    assert talk.until(PING).payload == b"anything"  # with no window for the others before it
    talk.send(frames.reset(streams[0], ErrorCode.CANCEL))
    assert talk.until(WINDOW_UPDATE, streams[2]).stream == streams[2]


def test_a_message_that_is_too_large_is_refused_at_once(talk: Talk) -> None:
    stream = talk.open()
    talk.send(frames.frame(DATA, 0, stream, b"\0" + (MAX_BODY_BYTES + 1).to_bytes(4, "big")))
    headers, _ = talk.answer(stream)
    assert headers["grpc-status"] == "8"
    assert int.from_bytes(talk.until(RST_STREAM, stream).payload, "big") == ErrorCode.NO_ERROR
    talk.send(frames.frame(DATA, 0, stream, b"more of it"))
    infer(talk)


@pytest.mark.parametrize("data", [b"", b"\0", b"\0\0\0\0\x05abc", asked() + asked(), asked() + b"x"])
def test_what_is_not_one_message_is_refused(talk: Talk, data: bytes) -> None:
    stream = talk.open()
    talk.send(frames.frame(DATA, END_STREAM, stream, data))
    headers, _ = talk.answer(stream)
    assert headers["grpc-status"] == "3"
    assert "one message" in headers["grpc-message"]
    infer(talk)


def test_a_message_that_does_not_come_ends_its_call_and_no_other(talk: Talk) -> None:
    stream = talk.open()
    talk.send(frames.frame(DATA, 0, stream, asked()[:7]))
    infer(talk)
    headers, _ = talk.answer(stream)
    assert headers["grpc-status"] == "4"
    infer(talk)


def test_a_deadline_that_passes_before_the_message_is_there_is_kept(talk: Talk) -> None:
    stream = talk.open(grpc_timeout="1m")
    assert talk.answer(stream)[0]["grpc-status"] == "4"


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"content_type": "application/json"}, "415"), ({"grpc_timeout": "soon"}, "3"), ({"grpc_encoding": "br"}, "12")],
)
def test_headers_that_are_not_understood_are_named(talk: Talk, headers: dict[str, str], status: str) -> None:
    stream = talk.open(flags=END_HEADERS | END_STREAM, **headers)
    answer, _ = talk.answer(stream)
    assert status in (answer[":status"], answer.get("grpc-status"))
    infer(talk)


def test_a_block_that_http_2_calls_malformed_ends_its_call_only(talk: Talk) -> None:
    stream, talk.next = talk.next, talk.next + 2
    talk.send(frames.frame(HEADERS, END_HEADERS | END_STREAM, stream, bytes(Encoder().encode([("te", "trailers")]))))
    assert talk.answer(stream)[0]["reset"] == str(int(ErrorCode.PROTOCOL))
    infer(talk)


def test_more_calls_than_are_allowed_are_refused_and_may_be_sent_again(talk: Talk) -> None:
    streams = [talk.open() for _ in range(257)]
    assert talk.answer(streams[-1])[0]["reset"] == str(int(ErrorCode.REFUSED_STREAM))
    for stream in streams[:-1]:
        talk.send(frames.frame(DATA, END_STREAM, stream, asked()))
    ended = {talk.until(HEADERS).stream for _ in range(2 * 256)}
    assert ended == set(streams[:-1])


BROKEN: dict[str, tuple[bytes, ErrorCode]] = {
    "a frame beyond the limit": (b"\x01\x00\x01\x00\x00\x00\x00\x00\x01", ErrorCode.FRAME_SIZE),
    "data of no call": (frames.frame(DATA, 0, 99, b"x"), ErrorCode.PROTOCOL),
    "data of the connection": (frames.frame(DATA, 0, 0, b"x"), ErrorCode.PROTOCOL),
    "a stream of the server's": (frames.frame(HEADERS, END_HEADERS, 2, b"\x82"), ErrorCode.PROTOCOL),
    "a block that goes on nowhere": (
        frames.frame(HEADERS, 0, 1, b"\x82") + frames.frame(PING, 0, 0, bytes(8)),
        ErrorCode.PROTOCOL,
    ),
    "a block of another call": (
        frames.frame(HEADERS, 0, 1, b"\x82") + frames.frame(CONTINUATION, END_HEADERS, 3, b"\x84"),
        ErrorCode.PROTOCOL,
    ),
    "a block without an end": (
        frames.frame(HEADERS, 0, 1, b"\x82" * 60_000) + frames.frame(CONTINUATION, 0, 1, b"\x82"),
        ErrorCode.ENHANCE_YOUR_CALM,
    ),
    "an index that is not there": (frames.frame(HEADERS, END_HEADERS, 1, b"\xfe"), ErrorCode.COMPRESSION),
    "a number without an end": (frames.frame(HEADERS, END_HEADERS, 1, b"\xff" * 200), ErrorCode.COMPRESSION),
    "a text without an end": (frames.frame(HEADERS, END_HEADERS, 1, b"\x00\x7e"), ErrorCode.COMPRESSION),
    "settings of half a pair": (frames.frame(SETTINGS, 0, 0, b"abc"), ErrorCode.FRAME_SIZE),
    "a window beyond all bounds": (
        frames.settings_frame([(frames.SETTING_WINDOW, 2**31)]),
        ErrorCode.FLOW_CONTROL,
    ),
    "frames that are too small": (frames.settings_frame([(frames.SETTING_FRAME_BYTES, 1)]), ErrorCode.PROTOCOL),
    "a ping of seven bytes": (frames.frame(PING, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE),
    "a window update by nothing": (frames.window_update(0, 0), ErrorCode.PROTOCOL),
    "window updates without end": (frames.window_update(0, 2**31 - 1) * 2, ErrorCode.FLOW_CONTROL),
    "a reset of no call": (frames.reset(7, ErrorCode.CANCEL), ErrorCode.PROTOCOL),
    "a promise": (frames.frame(frames.PUSH_PROMISE, 0, 1, bytes(4)), ErrorCode.PROTOCOL),
    "a priority of four bytes": (frames.frame(PRIORITY, 0, 1, bytes(4)), ErrorCode.FRAME_SIZE),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_breaks_the_rules_ends_the_connection_with_its_reason(talk: Talk, what: str) -> None:
    said, code = BROKEN[what]
    talk.send(said)
    assert talk.gone() is code


def test_more_data_than_the_window_lets_through_ends_the_connection(talk: Talk) -> None:
    stream = talk.open()
    talk.send(frames.frame(DATA, 0, stream, b"\0" + (300_000).to_bytes(4, "big")))
    granted = struct.unpack(">I", talk.until(WINDOW_UPDATE, stream).payload)[0]
    left = 256 * 1024 - 5 + granted
    while left >= 0:
        talk.send(frames.frame(DATA, 0, stream, bytes(min(left, 60_000) or 1)))
        left -= min(left, 60_000) or 1
    assert talk.gone() is ErrorCode.FLOW_CONTROL


def test_calls_that_are_begun_and_taken_back_without_end_end_the_connection(talk: Talk) -> None:
    with contextlib.suppress(ConnectionError):  # it may be closed before all of them are sent
        for _ in range(1500):
            stream = talk.open()
            talk.send(frames.reset(stream, ErrorCode.CANCEL))
    with contextlib.suppress(ConnectionResetError):
        assert talk.gone() is ErrorCode.ENHANCE_YOUR_CALM


def test_what_is_begun_after_the_last_word_is_passed_over_and_hurts_no_call(worker: WorkerThread) -> None:
    with Talk(worker.port) as talk:
        infer(talk)
        stream = talk.open()
        talk.send(frames.frame(PING, 0, 0, b"are here"))
        talk.until(PING)
        (connection,) = worker.open_connections()
        worker.loop.call_soon_threadsafe(connection.drain)
        talk.send(frames.frame(PING, ACK, 0, talk.until(PING).payload))
        while struct.unpack(">I", talk.until(GOAWAY).payload[:4])[0] != stream:
            continue
        late = talk.open()
        talk.send(frames.frame(DATA, END_STREAM, late, asked()), frames.window_update(late, 10))
        talk.send(frames.reset(late, ErrorCode.CANCEL), frames.frame(DATA, END_STREAM, stream, asked()))
        assert talk.answer(stream)[0]["grpc-status"] == "0"


def test_a_watch_ends_at_its_deadline(talk: Talk) -> None:
    stream = talk.open("/grpc.health.v1.Health/Watch", grpc_timeout="50m")
    talk.send(frames.frame(DATA, END_STREAM, stream, enveloped(b"")))
    assert talk.answer(stream)[0]["grpc-status"] == "4"


def test_pings_and_settings_are_confirmed(talk: Talk) -> None:
    talk.send(frames.frame(PING, 0, 0, b"12345678"), frames.settings_frame([(frames.SETTING_WINDOW, 100_000)]))
    assert talk.until(PING) == Frame(PING, ACK, 0, b"12345678")
    while not (found := talk.until(SETTINGS)).flags:
        assert found.payload
    infer(talk)


def test_unknown_frames_and_priorities_are_passed_over(talk: Talk) -> None:
    talk.send(frames.frame(0x42, 0, 0, b"grease"), frames.frame(PRIORITY, 0, 5, bytes(5)))
    infer(talk)


def test_any_bytes_end_at_worst_their_own_connection(worker: WorkerThread) -> None:
    chance = random.Random(7)
    for number in range(150):
        with Talk(worker.port, preface=number % 10 > 0) as talk:
            for _ in range(chance.randint(1, 5)):
                kind, flags = chance.randint(0, 10), chance.randint(0, 255)
                stream = chance.choice((0, 1, 1, 2, 3))
                payload = chance.randbytes(chance.choice((0, 4, 5, 8, 30, 300)))
                try:
                    talk.send(frames.frame(kind, flags, stream, payload))
                except OSError:
                    break
    with Talk(worker.port) as talk:
        infer(talk)
    eventually(lambda: worker.connections() <= 1, 60, "the end of the broken connections")


def test_a_connection_that_says_nothing_is_closed(worker: WorkerThread) -> None:
    with Talk(worker.port, preface=False) as talk:
        talk.send(PREFACE[:5])
        with pytest.raises(ConnectionError):
            talk.until(99)


def test_a_client_that_does_not_read_is_let_go(worker: WorkerThread) -> None:
    asks = request("logistic", ("x", "FP64", [8000, 4], ROW * 8000), raw=True, outputs=["predict_proba"])
    with Talk(worker.port, preface=False) as talk:
        talk.send(PREFACE + frames.settings_frame([(frames.SETTING_WINDOW, 2**31 - 1)]))
        talk.send(frames.window_update(0, 2**30))
        with contextlib.suppress(OSError):  # once it is gone
            for _ in range(100):
                stream, body = talk.open(), enveloped(asks.SerializeToString())
                for place in range(0, len(body), 16_384):
                    ends = END_STREAM if place + 16_384 >= len(body) else 0
                    talk.send(frames.frame(DATA, ends, stream, body[place : place + 16_384]))
        eventually(lambda: not worker.connections(), 60, "the end of the connection")
