"""The fast lane, the ASGI lane and a stock web server under the same application give the same answers."""

from __future__ import annotations

import asyncio
import http.client
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest
import uvicorn

from lagar.intake.inspect import find_models
from lagar.server.channel import ServerState, WorkerBoot
from lagar.server.worker import Worker
from lagar.settings import ServerSettings
from protocols.corpus import CORPUS, FORM, JSON, MAX_ROWS, Case, dumped
from protocols.views import WINE_RECORD
from service.corpus_models import corpus_models
from support.models import scripted_model
from support.server import LagarServer, lagar

REQUEST_ID = "same-7"
HOP_BY_HOP = {"date", "connection", "transfer-encoding", "keep-alive"}


class Reply(NamedTuple):
    status: int
    headers: list[tuple[str, str]]
    """In order of name, without Date and what belongs to the connection."""
    body: bytes


class Caller:
    """A kept connection to one server, opened again when the server closed it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._sock: socket.socket | None = None

    def ask(self, data: bytes, *, method: str = "POST") -> Reply:
        if self._sock is None:
            self._sock = socket.create_connection(("127.0.0.1", self._port), timeout=30)
        self._sock.sendall(data)
        answer = http.client.HTTPResponse(self._sock, method=method)
        answer.begin()
        body = answer.read()
        headers = sorted((name.lower(), value) for name, value in answer.getheaders())
        if answer.will_close:
            self.close()
        return Reply(answer.status, [header for header in headers if header[0] not in HOP_BY_HOP], body)

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None


class StockServer:
    """A worker's ASGI application under uvicorn as it comes, on a thread."""

    def __init__(self, paths: list[Path], metrics: Path) -> None:
        found = find_models(paths)
        metrics.mkdir()
        self._boot = WorkerBoot(
            slot=0,
            workers=1,
            threads=1,
            settings=ServerSettings(max_rows=MAX_ROWS),
            sources=found.sources,
            live=found.live,
            control_socket=str(metrics / "nobody"),
            metrics_dir=str(metrics),
            keys=(),
            port=0,
        )
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    def __enter__(self) -> StockServer:
        self._thread.start()
        assert self._started.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(30)

    async def _serve(self) -> None:
        self.worker = Worker(self._boot, asyncio.get_running_loop())
        await self.worker.load()
        self.worker.app.state = ServerState(ready=True)
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(self._with_id, interface="asgi3", log_config=None, lifespan="off", server_header=False)
        self._server = uvicorn.Server(config)
        self._started.set()
        await self._server.serve(sockets=[listener])

    async def _with_id(self, scope: Any, receive: Any, send: Any) -> None:
        """The request id is the connection's business: ours gives the caller's to the application."""
        scope["state"] = {"request_id": dict(scope["headers"])[b"x-request-id"].decode()}
        await self.worker.app(scope, receive, send)

    def is_hot(self, data: bytes) -> bool:
        """Whether a worker would take this request down the fast lane."""
        head = self.worker.http.heads.get(data[: data.index(b"\r\n\r\n") + 4])
        return head.error is None and head.route is not None


class Lanes(NamedTuple):
    fast: Caller
    slow: Caller
    stock: Caller
    stock_server: StockServer


@pytest.fixture(scope="module")
def lanes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lanes]:
    folder = tmp_path_factory.mktemp("lanes")
    paths = corpus_models(folder / "models")
    before, modules = list(sys.path), set(sys.modules)
    with ExitStack() as stack:

        def serve(name: str, **env: str) -> Caller:
            env |= {"LAGAR_MAX_ROWS": str(MAX_ROWS)}
            server = stack.enter_context(LagarServer(*paths, home=folder / name, env=env))
            caller = Caller(server.port)
            stack.callback(caller.close)
            return caller

        stock = stack.enter_context(StockServer(paths, folder / "metrics"))
        stock_caller = Caller(stock.port)
        stack.callback(stock_caller.close)
        yield Lanes(serve("fast"), serve("slow", LAGAR_FAST_LANE="false"), stock_caller, stock)
    sys.path[:] = before
    for name in {"churn_model", "strict_model", "open_model"} - modules:
        sys.modules.pop(name, None)


def path_of(case: Case) -> str:
    return f"/models/{case.model}/predict" if case.protocol == "native" else f"/v2/models/{case.model}/infer"


def written(case: Case, *headers: str, path: str | None = None, version: str = "1.1", chunks: bool = False) -> bytes:
    """A case as bytes on the wire."""
    lines = [f"POST {path or path_of(case)} HTTP/{version}", "Host: test", f"X-Request-Id: {REQUEST_ID}", *headers]
    if case.content_type is not None:
        lines.append(f"Content-Type: {case.content_type}")
    body = case.body
    if chunks:
        lines.append("Transfer-Encoding: chunked")
        middle = len(body) // 2
        body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:middle], body[middle:]) if part)
        body += b"0\r\n\r\n"
    else:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def cold_forms(case: Case) -> dict[str, bytes]:
    """The same request, said in ways that the fast lane does not take."""
    return {
        "chunked": written(case, chunks=True),
        "a query": written(case, path=path_of(case) + "?trace=1"),
        "connection: close": written(case, "Connection: close"),
        "a needless escape": written(case, path=path_of(case).replace("/models", "/%6dodels")),
        "a slash at the end": written(case, path=path_of(case) + "/"),
        "content-encoding: identity": written(case, "Content-Encoding: identity"),
        "an accept with weights": written(case, "Accept: application/json;q=0.9, */*;q=0.1"),
        "HTTP/1.0": written(case, version="1.0"),
        "the version in the path": written(case, path=path_of(case).replace(case.model, f"{case.model}/versions/1")),
    }


@pytest.mark.parametrize("case", CORPUS, ids=lambda case: f"{case.protocol}-{case.name}")
def test_every_lane_gives_the_same_answer(lanes: Lanes, case: Case) -> None:
    hot = written(case)
    answer = lanes.fast.ask(hot)
    assert answer.status == case.status, answer.body
    assert ("x-request-id", REQUEST_ID) in answer.headers
    if case.protocol == "native" and case.status != 200:
        error = orjson.loads(answer.body)["error"]
        assert (error["field"], error["row"]) == (case.field, case.row), error["message"]
    assert lanes.fast.ask(written(case, chunks=True)) == answer, "chunked"
    assert lanes.fast.ask(written(case, path=path_of(case) + "?trace=1")) == answer, "with a query"
    assert lanes.slow.ask(hot) == answer, "a server without the fast lane"
    assert lanes.stock.ask(hot) == answer, "uvicorn"


@pytest.mark.parametrize("case", CORPUS[::23], ids=lambda case: f"{case.protocol}-{case.name}")
def test_every_form_of_a_request_gets_the_same_answer(lanes: Lanes, case: Case) -> None:
    answer = lanes.fast.ask(written(case))
    for form, data in cold_forms(case).items():
        assert lanes.fast.ask(data) == answer, f"fast server, {form}"
        assert lanes.slow.ask(data) == answer, f"server without fast lane, {form}"


def test_the_forms_are_hot_and_cold_as_they_are_called(lanes: Lanes) -> None:
    hot = 0
    for case in CORPUS:
        takes_fast_lane = case.content_type in (None, JSON) or case.name == "a charset"
        takes_fast_lane = takes_fast_lane and case.body != b""
        assert lanes.stock_server.is_hot(written(case)) is takes_fast_lane, case.name
        hot += takes_fast_lane
        forms = cold_forms(case)
        del forms["the version in the path"]  # as hot as the shorter one
        for form, data in forms.items():
            assert not lanes.stock_server.is_hot(data), form
    assert hot > 250


WINE = Case("wine", "native", "wine", dumped(WINE_RECORD), 200)


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (200, ["timeout: 5"]),
        (400, ["timeout: soon"]),
        (400, ["timeout: -1"]),
        (400, ["timeout: nan"]),
        (400, ["timeout: "]),
        (200, ["timeout: 5", "timeout: soon"]),
        (200, ["Accept: */*"]),
        (200, ["Accept: application/json"]),
        (200, ["Accept: application/json, text/plain, */*"]),
        (406, ["Accept: image/png"]),
        (200, ["Accept: image/png", "Accept: */*"]),
        (200, ["Connection: keep-alive"]),
        (200, ["Connection: Keep-Alive, TE", "TE: trailers"]),
        (200, ["Expect: 100-continue"]),
        (400, ["Content-Encoding: gzip"]),
        (415, ["Content-Encoding: br"]),
        (400, ["Inference-Header-Content-Length: 10"]),
        (200, ["Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"]),
        (200, ["X-Api-Key: whatever", "Authorization: Bearer whatever"]),
        (415, ["Content-Type: text/plain"]),
        (200, ["Cookie: a=b", "User-Agent: curl/8", "Accept-Language: pt", "Origin: http://elsewhere"]),
    ],
)  # fmt: skip
def test_headers_mean_the_same_in_every_lane(lanes: Lanes, status: int, headers: list[str]) -> None:
    for case in (WINE, WINE._replace(content_type=None)):
        answer = lanes.fast.ask(written(case, *headers))
        if any(header.startswith("Content-Type") for header in headers) and case.content_type is not None:
            continue  # two content types: which of them counts is said below
        assert answer.status == status, answer.body
        assert lanes.slow.ask(written(case, *headers)) == answer
        assert lanes.fast.ask(written(case, *headers, chunks=True)) == answer


@pytest.mark.parametrize("types", [(JSON, "text/plain"), ("text/plain", JSON), (JSON, JSON), (FORM, JSON)])
def test_two_content_types_mean_the_same_in_every_lane(lanes: Lanes, types: tuple[str, str]) -> None:
    data = written(WINE._replace(content_type=None), *(f"Content-Type: {kind}" for kind in types))
    assert lanes.fast.ask(data) == lanes.slow.ask(data)


@pytest.mark.parametrize("given", ["", "a" * 128, "a" * 129, "a b", 'a"b', "a\\b", "é", "0", "x/y:z=1@+-_."])
def test_a_caller_s_id_is_taken_or_replaced_alike(lanes: Lanes, given: str) -> None:
    data = written(WINE).replace(REQUEST_ID.encode(), given.encode("latin-1"))
    seen = set()
    for caller in (lanes.fast, lanes.slow):
        answer = caller.ask(data)
        returned = dict(answer.headers)["x-request-id"]
        body = orjson.loads(answer.body)
        assert body["id"] == returned
        assert body["ids"] == [f"{returned}:0"]
        seen.add(returned if returned == given else "made")
    assert len(seen) == 1


def test_every_method_on_a_prediction_path_is_refused_alike(lanes: Lanes) -> None:
    for path in ("/models/wine/predict", "/v2/models/wine/infer"):
        for method in ("GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"):
            data = written(WINE, path=path).replace(b"POST", method.encode(), 1)
            fast = lanes.fast.ask(data, method=method)
            assert fast.status == 405
            assert ("allow", "POST") in fast.headers
            assert lanes.slow.ask(data, method=method) == fast


FAILS = '''
class Scripted:
    """Does what a tag says."""

    def load(self, path):
        pass

    def predict(self, rows):
        tag = rows[0]["tag"]
        if tag == 2:
            raise RuntimeError("the secret reason")
        if tag == 3:
            return [1]  * (len(rows) + 1)
        if tag == 4:
            return [object()] * len(rows)
        if tag == 5:
            return [float("nan")] * len(rows)
        return [tag] * len(rows)
'''


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Caller, Caller, dict[str, str]]]:
    """Two servers with keys over a model that fails on request: with and without the fast lane."""
    folder = tmp_path_factory.mktemp("keyed")
    model = scripted_model(folder / "m", FAILS)
    home = folder / "home"
    keys = {}
    for scope in ("infer", "read"):
        keys[scope] = lagar("keys", "create", "--name", scope, "--scope", scope, home=home).stdout.split()[-1]
    with ExitStack() as stack:
        callers = []
        for lane in ("true", "false"):
            server = stack.enter_context(LagarServer(model, home=home, env={"LAGAR_FAST_LANE": lane}))
            callers.append(Caller(server.port))
            stack.callback(callers[-1].close)
        yield callers[0], callers[1], keys


def same_in_both(keyed: tuple[Caller, Caller, dict[str, str]], tag: int, *headers: str, protocol: str) -> Reply:
    record = {"seconds": 0.0, "tag": tag}
    inputs = [{"name": name, "shape": [1], "datatype": "FP64", "data": [value]} for name, value in record.items()]
    case = Case("", protocol, "scripted", dumped(record if protocol == "native" else {"inputs": inputs}), 0)
    answers = [caller.ask(written(case, *headers, chunks=chunks)) for caller in keyed[:2] for chunks in (False, True)]
    assert answers == [answers[0]] * 4
    return answers[0]


@pytest.mark.parametrize("protocol", ["native", "v2"])
def test_a_key_is_refused_alike(keyed: Any, protocol: str) -> None:
    keys = keyed[2]
    wrong = keys["infer"][:-1] + ("a" if keys["infer"][-1] != "a" else "b")
    for headers in ([], ["X-Api-Key: nonsense"], [f"Authorization: Bearer {wrong}"], ["Authorization: Digest x"],
                    [f"X-Api-Key: {keys['infer']}", "Authorization: Bearer other"]):  # fmt: skip
        answer = same_in_both(keyed, 1, *headers, protocol=protocol)
        assert answer.status == 401
        assert [value for name, value in answer.headers if name == "www-authenticate"] == ['Bearer realm="lagar"']
    assert same_in_both(keyed, 1, f"X-Api-Key: {keys['read']}", protocol=protocol).status == 403
    assert same_in_both(keyed, 1, f"X-Api-Key: {keys['infer']}", protocol=protocol).status == 200


@pytest.mark.parametrize(
    ("protocol", "tag", "status"),
    [("native", 1, 200), ("native", 2, 500), ("native", 3, 500), ("native", 4, 500), ("native", 5, 200),
     ("v2", 1, 200), ("v2", 2, 500), ("v2", 3, 500), ("v2", 5, 200)],
)  # fmt: skip
def test_a_model_fails_alike(keyed: Any, protocol: str, tag: int, status: int) -> None:
    answer = same_in_both(keyed, tag, f"X-Api-Key: {keyed[2]['infer']}", protocol=protocol)
    assert answer.status == status, answer.body
    assert b"secret reason" not in answer.body
    assert REQUEST_ID.encode() in answer.body
