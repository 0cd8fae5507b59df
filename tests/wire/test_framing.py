"""One way to read a request, or none: lengths, codings, versions, upgrades, and what lies behind."""

from __future__ import annotations

import pytest

from support.server import LagarServer
from support.wire import Wire, chunked, get, post
from wire.conftest import QUICK, QUICK_BODY

HEAD = f"POST {QUICK} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n".encode()
LENGTH = f"Content-Length: {len(QUICK_BODY)}\r\n".encode()
CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(QUICK_BODY), QUICK_BODY)


def only_answer(server: LagarServer, *parts: bytes) -> int:
    """The status of the one answer, after which the server must close."""
    with Wire(server.port) as wire:
        wire.send(*parts)
        answer = wire.read()
        assert answer.headers["connection"] == "close"
        assert wire.is_closed()
        return answer.status


@pytest.mark.parametrize(
    ("what", "data"),
    [
        ("both lengths", HEAD + LENGTH + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKS),
        ("both lengths, other order", HEAD + b"Transfer-Encoding: chunked\r\n" + LENGTH + b"\r\n" + CHUNKS),
        ("two content lengths", HEAD + LENGTH + b"Content-Length: 1\r\n\r\n" + QUICK_BODY),
        ("the same length twice", HEAD + LENGTH + LENGTH + b"\r\n" + QUICK_BODY),
        ("a list of lengths", HEAD + b"Content-Length: 38, 38\r\n\r\n" + QUICK_BODY),
        ("a signed length", HEAD + b"Content-Length: +38\r\n\r\n" + QUICK_BODY),
        ("a negative length", HEAD + b"Content-Length: -1\r\n\r\n" + QUICK_BODY),
        ("a hexadecimal length", HEAD + b"Content-Length: 0x26\r\n\r\n" + QUICK_BODY),
        ("an endless length", HEAD + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n" + QUICK_BODY),
        ("an unknown coding", HEAD + b"Transfer-Encoding: gzip\r\n\r\n" + QUICK_BODY),
        ("two codings", HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + CHUNKS),
        ("chunked twice", HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS),
        ("a space before the colon", HEAD + b"Content-Length : 38\r\n\r\n" + QUICK_BODY),
        ("a folded header", HEAD + LENGTH + b"X-A: 1\r\n  2\r\n\r\n" + QUICK_BODY),
        ("no host", b"GET /healthz HTTP/1.1\r\n\r\n"),
        ("two hosts", b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        ("HTTP/3.1", b"GET /healthz HTTP/3.1\r\nHost: a\r\n\r\n"),
        ("a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
        ("a line of words", b"hello there\r\n\r\n"),
        ("a bare newline", b"GET /healthz HTTP/1.1\nHost: a\n\n"),
        ("a target that is no path", b"GET healthz HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("another expectation", HEAD + LENGTH + b"Expect: a-miracle\r\n\r\n" + QUICK_BODY),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_could_be_read_two_ways_is_400_and_the_end(server: LagarServer, what: str, data: bytes) -> None:
    assert only_answer(server, data) == 400


@pytest.mark.parametrize(
    ("what", "data", "own"),
    [
        ("two lengths", HEAD + b"X-Request-Id: second\r\n" + LENGTH + LENGTH + b"\r\n" + QUICK_BODY, "second"),
        ("the id behind it", HEAD + b"Expect: a-miracle\r\nX-Request-Id: second\r\n\r\n", "second"),
        ("a broken header", HEAD + b"X-Request-Id: second\r\nContent-Length : 1\r\n\r\n", "second"),
        ("no id of its own", HEAD + LENGTH + LENGTH + b"\r\n" + QUICK_BODY, None),
        ("no head", b"hello there\r\n", None),
        ("a bare newline", b"GET /healthz HTTP/1.1\nX-Request-Id: second\n\n", None),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_refused_head_never_gets_the_id_of_the_request_before(
    server: LagarServer, what: str, data: bytes, own: str | None
) -> None:
    with Wire(server.port) as wire:
        wire.send(HEAD + b"X-Request-Id: first\r\n" + LENGTH + b"\r\n" + QUICK_BODY)
        assert wire.read().headers["x-request-id"] == "first"
        wire.send(data)
        answer = wire.read()
        assert answer.status == 400
        assert answer.headers["x-request-id"] != "first"
        assert own is None or answer.headers["x-request-id"] == own


@pytest.mark.parametrize(
    ("what", "body"),
    [
        ("no size", b"\r\n" + QUICK_BODY),
        ("a size that is no number", b"zz\r\n" + QUICK_BODY),
        ("a signed size", b"+5\r\nhello\r\n0\r\n\r\n"),
        ("a chunk longer than its size", b"1\r\n" + QUICK_BODY + b"\r\n0\r\n\r\n"),
        ("an endless size line", b"1" * 1000),
        ("an endless extension", b"5;" + b"x" * 1000),
        ("endless trailers", b"0\r\n" + b"X-A: b\r\n" * 5000),
        ("a huge size", b"fffffffffffffffff\r\n"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_chunked_body_outside_the_grammar_is_400(server: LagarServer, what: str, body: bytes) -> None:
    assert only_answer(server, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body) == 400


def test_chunks_with_extensions_and_trailers_are_read(server: LagarServer) -> None:
    body = b"%x;name=value\r\n%b\r\n0\r\nX-Trailer: 1\r\n\r\n" % (len(QUICK_BODY), QUICK_BODY)
    with Wire(server.port) as wire:
        wire.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body + get("/healthz"))
        assert [wire.read().status, wire.read().status] == [200, 200]


@pytest.mark.parametrize("path", ["/healthz", "/models", "/metrics", "/docs", "/nothing-here", "/v2"])
def test_head_is_get_without_the_body(server: LagarServer, path: str) -> None:
    with Wire(server.port) as wire:
        wire.send(get(path, method="HEAD"))
        head = wire.read(head_only=True)
        wire.send(get(path))
        whole = wire.read()
        assert head.status == whole.status
        assert head.headers["content-type"] == whole.headers["content-type"]
        wire.send(get("/healthz"))
        assert wire.read().status == 200


def test_get_on_a_prediction_path_is_405_and_says_what_is_taken(server: LagarServer) -> None:
    with Wire(server.port) as wire:
        wire.send(get(QUICK) + get("/v2/models/logistic/infer") + post("/healthz", b"{}"))
        first, second, third = wire.read(), wire.read(), wire.read()
    assert (first.status, first.headers["allow"], first.json["error"]["code"]) == (405, "POST", "method_not_allowed")
    assert (second.status, isinstance(second.json["error"], str)) == (405, True)
    assert (third.status, third.headers["allow"]) == (405, "GET, HEAD")


def test_http_10_is_answered_and_closed(server: LagarServer) -> None:
    with Wire(server.port) as wire:
        wire.send(post(QUICK, QUICK_BODY).replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert wire.read().json["model"] == "logistic"
        assert wire.is_closed()


def test_http_10_keeps_the_connection_when_asked(server: LagarServer) -> None:
    with Wire(server.port) as wire:
        for _ in range(2):
            wire.send(get("/healthz", "Connection: keep-alive", version="1.0"))
            answer = wire.read()
            assert (answer.status, answer.headers["connection"]) == (200, "keep-alive")


@pytest.mark.parametrize("path", [QUICK, "/models/nobody/predict"])
def test_connection_close_is_obeyed(server: LagarServer, path: str) -> None:
    with Wire(server.port) as wire:
        wire.send(post(path, QUICK_BODY, "Connection: close"))
        assert wire.read().headers["connection"] == "close"
        assert wire.is_closed()


def test_expect_100_continue_is_answered_before_the_body(server: LagarServer) -> None:
    with Wire(server.port) as wire:
        wire.send(HEAD + LENGTH + b"Expect: 100-continue\r\n\r\n")
        assert wire.read().status == 100
        wire.send(QUICK_BODY)
        assert wire.read().status == 200
        wire.send(post(QUICK, QUICK_BODY))
        assert wire.read().status == 200


def test_expect_is_not_invited_to_send_what_will_be_refused(server: LagarServer) -> None:
    with Wire(server.port) as wire:
        wire.send(HEAD.replace(b"logistic", b"nobody") + LENGTH + b"Expect: 100-continue\r\n\r\n")
        assert wire.read().status == 404
        assert wire.is_closed()


@pytest.mark.parametrize("path", [QUICK, "/models/logistic/versions/VERSION/predict", "/healthz"])
def test_half_close_is_answered_and_closed(server: LagarServer, path: str) -> None:
    with Wire(server.port) as wire:
        path = path.replace("VERSION", server.version("logistic"))
        wire.send(get(path) if path == "/healthz" else post(path, QUICK_BODY))
        wire.finish()
        assert wire.read().status == 200
        assert wire.is_closed()


@pytest.mark.parametrize("data", [post(QUICK, QUICK_BODY)[:-5], chunked(QUICK, QUICK_BODY)[:-7], b"POST /mod"])
def test_half_close_in_the_middle_of_a_request_just_closes(server: LagarServer, data: bytes) -> None:
    with Wire(server.port) as wire:
        wire.send(data)
        wire.finish()
        assert wire.is_closed()


def test_garbage_after_a_request_does_not_spoil_its_answer(server: LagarServer) -> None:
    with Wire(server.port) as wire:
        wire.send(post(QUICK, QUICK_BODY) + b"garbage\r\n\r\n")
        assert wire.read().status == 200
        assert wire.read().status == 400
        assert wire.is_closed()


UPGRADE = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")


@pytest.mark.parametrize("way", ["one segment", "many segments", "with a following request"])
@pytest.mark.parametrize("coding", ["content-length", "chunked"])
@pytest.mark.parametrize("path", [QUICK, "/models/nobody/predict"])
def test_an_upgrade_to_h2c_is_answered_as_if_it_were_absent(
    server: LagarServer, way: str, coding: str, path: str
) -> None:
    data = (
        post(path, QUICK_BODY, *UPGRADE) if coding == "content-length" else chunked(path, QUICK_BODY, headers=UPGRADE)
    )
    expected = 200 if path == QUICK else 404
    with Wire(server.port) as wire:
        if way == "many segments":
            wire.send(*(data[i : i + 7] for i in range(0, len(data), 7)))
        else:
            wire.send(data + (get("/healthz") if "following" in way else b""))
        assert wire.read().status == expected
        if "following" in way:
            assert wire.read().status == 200


def test_empty_lines_before_a_request_are_passed_over(server: LagarServer) -> None:
    with Wire(server.port) as wire:
        wire.send(b"\r\n\r\n" + get("/healthz") + b"\r\n" + post(QUICK, QUICK_BODY))
        assert [wire.read().status, wire.read().status] == [200, 200]


def test_an_absolute_target_is_read(server: LagarServer) -> None:
    with Wire(server.port) as wire:
        wire.send(get("http://elsewhere:80/healthz"))
        assert wire.read().status == 200
