"""A server for clients, and one that answers as it is told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from support.models import scripted_model
from support.server import LagarServer

OK = (200, {}, b'{"model": "m", "version": "1", "id": "r", "ids": ["r:0"], "predictions": [7]}')


def error(status: int, code: str, retry_after: str | None = None) -> tuple[int, dict[str, str], bytes]:
    """An answer that is an error of Lagar's."""
    body = b'{"error": {"code": "%b", "message": "not now", "field": null, "row": null, "request_id": "r9"}}'
    return status, {} if retry_after is None else {"Retry-After": retry_after}, body % code.encode()


class Told:
    """A server that gives the next of its answers to each request; None cuts the connection instead."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, str], bytes] | None] = []
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.connections = 0
        told = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                told.connections += 1

            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", "0")))
                if "Transfer-Encoding" in self.headers:  # what is left unread would be the next request
                    while size := int(self.rfile.readline(), 16):
                        self.rfile.read(size + 2)
                    self.rfile.readline()
                told.requests.append((f"{self.command} {self.path}", {k.lower(): v for k, v in self.headers.items()}))
                told_answer = told.answers.pop(0) if len(told.answers) > 1 else told.answers[0]
                if told_answer is None:
                    self.close_connection = True
                    return
                status, headers, body = told_answer
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def told() -> Iterator[Told]:
    server = Told()
    server.server.daemon_threads = True
    thread = threading.Thread(target=server.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.server.shutdown()
    server.server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, wine: Any, churn: Any, text: Any, logistic: Any
) -> Iterator[LagarServer]:
    """A server over models of several kinds, and one that waits as long as its rows say."""
    folder = tmp_path_factory.mktemp("client")
    slow = scripted_model(folder / "scripted")
    with LagarServer(wine.path, churn.path, text.path, logistic.path, slow, home=folder / "home") as server:
        yield server
