"""Behind a proxy below a prefix, and behind TLS: every address works, and only trusted proxies are believed."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from conftest import Trained
from support.front import Front
from support.keys import keys_for_each_scope
from support.models import scripted_model
from support.server import LagarServer
from support.wire import Wire, chunked, get, post

ROOT = "/mlapi"


@pytest.fixture(scope="module")
def below(tmp_path_factory: pytest.TempPathFactory, wine: Trained, text: Trained) -> Iterator[LagarServer]:
    """Two models published below /mlapi; wine is the default one."""
    args = ["--root-path", ROOT, "--default-model", "wine"]
    with LagarServer(wine.path, text.path, home=tmp_path_factory.mktemp("below"), args=args) as server:
        yield server


@pytest.fixture(scope="module", params=["strips", "leaves"])
def front(request: pytest.FixtureRequest, below: LagarServer) -> Iterator[Front]:
    """A proxy that publishes the server below /mlapi, and takes the prefix away or leaves it."""
    with Front(below.port, ROOT, strip=request.param == "strips") as proxy:
        yield proxy


@pytest.fixture
def client(front: Front) -> Iterator[httpx.Client]:
    """A client of the proxy; paths begin at its root, not below the prefix."""
    with httpx.Client(base_url=front.url.removesuffix(ROOT), timeout=30) as client:
        yield client


def links(page: str) -> set[str]:
    """Every address in a page that a browser or its scripts would fetch."""
    found = set(re.findall(r'(?:src|href|action|data-document)="([^"#]+)', page))
    for island in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.DOTALL):
        found |= {text for text in strings(json.loads(island)) if re.fullmatch(r"/[\w./%@-]+", text)}
    return found


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)


def test_every_link_and_asset_of_every_page_works(client: httpx.Client) -> None:
    seen: set[str] = set()
    open_links = {f"{ROOT}/"}
    while open_links:
        link = open_links.pop()
        seen.add(link)
        assert link.startswith(f"{ROOT}/"), link
        if link.endswith("/predict"):
            example = client.get(link.removesuffix("predict") + "example")
            assert client.post(link, content=example.content).status_code == 200, link
            continue
        answer = client.get(link)
        assert answer.status_code == 200, link
        if answer.headers["content-type"].startswith("text/html"):
            open_links |= links(answer.text) - seen
    assert {f"{ROOT}/docs", f"{ROOT}/metrics", f"{ROOT}/openapi.json", f"{ROOT}/predict"} <= seen
    assert any("swagger-ui-bundle.js" in link for link in seen)


def test_the_api_document_names_the_prefix_and_all_its_paths_work_below_it(client: httpx.Client) -> None:
    document = client.get(f"{ROOT}/openapi.json").json()
    assert document["servers"] == [{"url": ROOT}]
    for path, methods in document["paths"].items():
        if "{" in path or path.startswith("/api/"):
            continue  # the registry of pushed models: tested where models are pushed
        if "get" in methods:
            assert client.get(ROOT + path).status_code == 200, path
            continue
        for example in json_examples(methods["post"]):
            assert client.post(ROOT + path, json=example).status_code == 200, path
    assert len(document["paths"]) > 20


def json_examples(operation: dict[str, Any]) -> list[Any]:
    content = operation["requestBody"]["content"]["application/json"]
    found = [example["value"] for example in content.get("examples", {}).values()]
    return [*found, content["example"]] if "example" in content else found


def test_errors_below_the_prefix_have_the_shape_of_their_protocol(client: httpx.Client, below: LagarServer) -> None:
    assert list(client.post(f"{ROOT}/v2/models/wine/infer", content=b"{").json()) == ["error"]
    assert isinstance(client.get(f"{ROOT}/v2/nowhere").json()["error"], str)
    assert client.post(f"{ROOT}/predict", content=b"{").json()["error"]["code"] == "invalid_json"
    for path in ("/v2/models/wine/infer", "/predict"):
        with Wire(below.port) as wire:  # refused before any route is looked for
            wire.send(f"POST {ROOT}{path} HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n".encode())
            answer = wire.read()
            assert answer.status == 413
            assert isinstance(answer.json["error"], str) is path.startswith("/v2")


def test_hot_and_cold_requests_with_and_without_the_prefix_get_the_same_answer(
    below: LagarServer, wine: Trained
) -> None:
    body = json.dumps(wine.records[0]).encode()
    answers = []
    version = below.version("wine")
    with Wire(below.port) as wire:
        for path in ("/predict", "/models/wine/predict", f"/models/wine/versions/{version}/predict"):
            for prefix in (ROOT, ""):
                wire.send(
                    post(prefix + path, body, "X-Request-Id: r"),
                    chunked(prefix + path, body, headers=("X-Request-Id: r",)),
                )
                answers += [wire.read(), wire.read()]
    assert {(answer.status, answer.body) for answer in answers} == {(200, answers[0].body)}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (ROOT, 200), (f"{ROOT}/", 200), (f"{ROOT}docs", 404), (f"{ROOT}{ROOT}/docs", 404),
        (f"{ROOT}{ROOT}/healthz", 404),
        ("/MLAPI/docs", 404), (f"{ROOT}//docs", 404), (f"{ROOT}/../docs", 404), ("/%6dlapi/healthz", 200),
        (f"http://elsewhere{ROOT}/docs", 200),
    ],
)  # fmt: skip
def test_the_prefix_is_taken_away_once_and_only_as_a_whole(below: LagarServer, path: str, status: int) -> None:
    with Wire(below.port) as wire:
        wire.send(get(path))
        assert wire.read().status == status


def test_the_key_is_asked_for_below_the_prefix_too(serve: Any, tmp_path: Path) -> None:
    home = tmp_path / "home"
    keys = keys_for_each_scope(home)
    # a prefix that looks like an open route must not open what stands below it
    server = serve(scripted_model(tmp_path / "m"), home=home, args=["--root-path", "/v2/health"])
    with httpx.Client(base_url=server.url) as client:
        for path in ("/metrics", "/docs", "/", "/openapi.json", "/models"):
            for prefix in ("", "/v2/health", "/v2/health/v2/health"):
                assert client.get(prefix + path).status_code in (401, 404), prefix + path
                assert "lagar_build" not in client.get(prefix + path).text
            assert client.get("/v2/health" + path, headers={"X-Api-Key": keys["read"]}).status_code == 200
        assert client.get("/v2/health/healthz").status_code == 200


@pytest.mark.parametrize(
    ("trusted", "believed"), [(["10.0.0.0/8", "::1"], False), (["10.0.0.0/8", "127.0.0.0/8"], True)]
)
def test_forwarded_headers_are_believed_from_trusted_proxies_only(
    serve: Any, tmp_path: Path, trusted: list[str], believed: bool
) -> None:
    args = [word for proxy in trusted for word in ("--trusted-proxies", proxy)]
    server = serve(scripted_model(tmp_path / "m"), args=args)
    headers = {"X-Forwarded-Prefix": "/outside", "X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https"}
    with httpx.Client(base_url=server.url, headers=headers) as client:
        page = client.get("/").text
        assert ('href="/outside/docs"' in page) is believed
        assert ('href="/docs"' in page) is not believed
        assert "evil.example" not in page
        assert client.get("/openapi.json").json()["servers"] == [{"url": "/outside" if believed else "/"}]


# TLS


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with cert.pem and key.pem for 127.0.0.1."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is needed to make a certificate")
    folder = tmp_path_factory.mktemp("pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout",
         "key.pem", "-out", "cert.pem", "-days", "2", "-subj", "/CN=127.0.0.1", "-addext",
         "subjectAltName=IP:127.0.0.1"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    return folder


def tls_args(pem: Path) -> list[Any]:
    return ["--tls-cert", pem / "cert.pem", "--tls-key", pem / "key.pem"]


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory, pem: Path, logistic: Trained) -> Iterator[LagarServer]:
    """A quick model and a scripted one behind TLS."""
    folder = tmp_path_factory.mktemp("secure")
    model = scripted_model(folder / "m")
    args = [*tls_args(pem), "--default-model", "logistic"]
    with LagarServer(logistic.path, model, home=folder / "home", args=args) as server:
        yield server


@pytest.fixture(scope="module")
def context(pem: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(pem / "cert.pem"))


class SecureWire(Wire):
    """A connection inside TLS."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        super().__init__(port)
        self.sock = context.wrap_socket(self.sock, server_hostname="127.0.0.1")


ROW = b"[[13.2, 2.8, 3.2, 5.6]]"


def test_one_connection_carries_many_requests_hot_cold_and_pipelined(
    secure: LagarServer, context: ssl.SSLContext
) -> None:
    with SecureWire(secure.port, context) as wire:
        for _ in range(50):
            wire.send(post("/predict", ROW) + get("/healthz") + chunked("/predict", ROW) + get("/metrics"))
            assert [wire.read().status for _ in range(4)] == [200] * 4


def test_large_bodies_and_answers_go_through_whole(secure: LagarServer, context: ssl.SSLContext, logistic: Any) -> None:
    rows = logistic.rows.tolist() * 500
    body = json.dumps(rows).encode()
    assert len(body) > 1_500_000
    expected = logistic.model.predict(logistic.rows).tolist() * 500
    with SecureWire(secure.port, context) as wire:
        wire.send(post("/predict", body), chunked("/predict", body[:700_000], body[700_000:]))
        for _ in range(2):
            assert wire.read().json["predictions"] == expected
        wire.send(post("/predict", ROW))
        assert wire.read().status == 200


def test_pages_say_https_and_carry_no_http_address(secure: LagarServer, context: ssl.SSLContext) -> None:
    with httpx.Client(base_url=secure.url, verify=context) as client:
        assert secure.url.startswith("https://")
        for path in ("/", "/docs", "/openapi.json"):
            answer = client.get(path)
            assert answer.status_code == 200
            assert f"http://127.0.0.1:{secure.port}" not in answer.text


def test_refusals_arrive_and_the_connection_ends(secure: LagarServer, context: ssl.SSLContext) -> None:
    for request, status in (
        (b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n", 413),
        (get("/healthz", "X-Large: " + "a" * 40_000), 431),
        (b"not HTTP at all\r\n\r\n", 400),
    ):
        with SecureWire(secure.port, context) as wire:
            wire.send(request)
            assert wire.read().status == status
            assert wire.is_closed()


@pytest.mark.parametrize("greeting", [get("/healthz"), b"\x16\x03\x01\x00\x05hello", b"\x00" * 500, b"GET"])
def test_what_is_no_tls_is_not_answered_and_hurts_nobody(
    secure: LagarServer, context: ssl.SSLContext, greeting: bytes
) -> None:
    with Wire(secure.port) as plain, SecureWire(secure.port, context) as wire:
        plain.send(greeting)
        wire.send(post("/predict", ROW))
        assert wire.read().status == 200
        plain.finish()
        assert b"HTTP/1.1 200" not in plain.rest()


def test_a_handshake_that_never_ends_holds_nobody_up(secure: LagarServer, context: ssl.SSLContext) -> None:
    stalled = [socket.create_connection(("127.0.0.1", secure.port)) for _ in range(50)]
    for number, sock in enumerate(stalled):
        sock.sendall(b"\x16\x03\x01\x02\x00\x01"[: number % 7])
    with SecureWire(secure.port, context) as wire:
        wire.send(post("/predict", ROW))
        assert wire.read().status == 200
    for sock in stalled:
        sock.close()


def test_versions_of_tls_that_are_broken_are_refused(secure: LagarServer, pem: Path) -> None:
    old = ssl.create_default_context(cafile=str(pem / "cert.pem"))
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = ssl.TLSVersion.TLSv1_1
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        SecureWire(secure.port, old)


def test_sigterm_answers_what_is_on_its_way_inside_tls(
    serve: Any, pem: Path, context: ssl.SSLContext, tmp_path: Path
) -> None:
    server = serve(scripted_model(tmp_path / "m"), args=tls_args(pem), workers=2)
    wires = [SecureWire(server.port, context) for _ in range(8)]
    for number, wire in enumerate(wires):
        wire.send(post("/predict", json.dumps({"seconds": 0.3, "tag": number}).encode()))
    server.signal(signal.SIGTERM)
    answers = [wire.read() for wire in wires]
    assert [answer.json["predictions"] for answer in answers] == [[number] for number in range(8)]
    assert server.wait_exit() == 0
    for wire in wires:
        wire.sock.close()


def test_a_client_that_closes_its_side_gets_its_answer_or_a_clean_end(
    secure: LagarServer, context: ssl.SSLContext
) -> None:
    with SecureWire(secure.port, context) as wire:
        wire.send(post("/models/scripted/predict", b'{"seconds": 0.1, "tag": 7}'))
        assert isinstance(wire.sock, ssl.SSLSocket)
        with contextlib.suppress(ssl.SSLError, OSError):  # an answer may come before the goodbye
            wire.sock.unwrap()
    with SecureWire(secure.port, context) as wire:
        wire.send(post("/predict", ROW))
        assert wire.read().status == 200


def test_python_s_own_client_is_served(secure: LagarServer, context: ssl.SSLContext) -> None:
    connection = http.client.HTTPSConnection("127.0.0.1", secure.port, context=context, timeout=20)
    for _ in range(3):
        connection.request("POST", "/predict", ROW)
        answer = connection.getresponse()
        assert json.loads(answer.read())["model"] == "logistic"
    connection.close()
