"""Every route is closed unless it is meant to be open, and each scope opens its own routes and no others."""

from __future__ import annotations

import base64
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from fastapi.routing import APIRoute

from lagar.control.app import create_app
from lagar.control.state import ControlState
from lagar.registry.secret import SCOPES
from lagar.server.auth import ROUTES, Gate
from lagar.server.heads import Head
from lagar.server.serving import Serving
from lagar.settings import ServerSettings
from protocols.views import SIGNATURES, View
from support.keys import key_for, keys_for_each_scope, revoke
from support.models import scripted_model
from support.server import LagarServer
from support.wait import eventually
from support.wire import Wire, chunked, get, post

BODY = {"seconds": 0.0, "tag": 1}
V2_BODY = {
    "inputs": [{"name": name, "shape": [1], "datatype": "FP64", "data": [value]} for name, value in BODY.items()]
}

LOOK = ("GET", "HEAD")
OPEN = {
    "/healthz", "/readyz", "/ping", "/health", "/v2/health/live", "/v2/health/ready", "/v2/models/scripted/ready",
    "/v2/models/scripted/versions/1/ready", "/v1/models/scripted",
}  # fmt: skip
PREDICT = {
    "/predict", "/models/scripted/predict", "/models/scripted/versions/1/predict", "/v2/models/scripted/infer",
    "/v2/models/scripted/versions/1/infer", "/invocations", "/v1/models/scripted:predict",
    "/v1/models/scripted/versions/1:predict",
}  # fmt: skip
READ = {
    "/", "/docs", "/openapi.json", "/metrics", "/favicon.ico", "/static/lagar.js", "/example", "/models",
    "/models/scripted", "/models/scripted/example", "/models/scripted/versions", "/models/scripted/versions/1",
    "/models/scripted/versions/1/example", "/v2", "/v2/models/scripted", "/v2/models/scripted/versions/1",
    "/version", "/v1/models",
    "/v2/models", "/v2/models/stats", "/v2/docs", "/v2/docs/dataplane.json",
    *(
        f"/v2/models/scripted{version}/{what}"
        for version in ("", "/versions/1")
        for what in ("config", "stats", "docs", "docs/dataplane.json")
    ),
}  # fmt: skip
INDEX = "/v2/repository/index"
REPOSITORY = {"/v2/repository/models/scripted/load", "/v2/repository/models/scripted/unload"}
VERBS = "/api/models/scripted"
API_LOOK = {
    "/api/models", VERBS, f"{VERBS}/versions", f"{VERBS}/versions/1", f"{VERBS}/traffic", f"{VERBS}/aliases",
    f"{VERBS}/history", f"{VERBS}/diff", "/api/generations/1",
}  # fmt: skip
"""What `read` opens of the catalog; it holds no version here."""
API_CHANGE = {
    f"{VERBS}/versions/1/retire", f"{VERBS}/promote", f"{VERBS}/rollback", f"{VERBS}/aliases/scripted", "/api/gc",
}  # fmt: skip
OUTCOMES = {"/outcomes", "/models/scripted/outcomes", "/models/scripted/versions/1/outcomes"}
NOT_YET = OUTCOMES | {"/docs/x"}
"""Routes with a scope and nobody who answers: 404 to those who may ask."""


def needed(method: str, path: str) -> str | None:
    """The scope that the documentation says a route needs; None for an open one."""
    if path in OPEN and method in LOOK:
        return None
    if path in PREDICT:
        return "infer"
    if path in OUTCOMES and method == "POST":
        return "feedback"
    if path == INDEX and method == "POST":
        return "read"
    return "read" if path in READ | API_LOOK | {"/docs/x"} and method in LOOK else "admin"


class Keyed(NamedTuple):
    server: LagarServer
    client: httpx.Client
    keys: dict[str, str]


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    """Two workers over one model, with a key for each scope, logging all that there is to log."""
    folder = tmp_path_factory.mktemp("routes")
    keys = keys_for_each_scope(folder / "home")
    model = scripted_model(folder / "m")
    settings = (model / "lagar.toml").read_text()
    (model / "lagar.toml").write_text(f'version = "1"\n{settings}')
    env = {"LAGAR_LOG_LEVEL": "debug", "LAGAR_TRUSTED_PROXIES": "127.0.0.1"}
    with (
        LagarServer(model, home=folder / "home", workers=2, env=env) as server,
        httpx.Client(base_url=server.url, timeout=90) as client,
    ):
        yield Keyed(server, client, keys)


def filled(pattern: str) -> str:
    """A path for a pattern of any of the tables."""
    path = re.sub(r"\{(model|model_name|alias)\}", "scripted", pattern)
    path = path.replace("{version}", "1").replace("{number}", "1").replace("/generations/{}", "/generations/1")
    path = path.replace("/static/{**}", "/static/lagar.js").replace("/static/{name:path}", "/static/lagar.js")
    path = path.replace("/docs/{**}", "/docs/x").replace("/v2/health/{}", "/v2/health/live")
    return path.replace("/versions/{}", "/versions/1").replace("{}", "scripted")


def registered(client: httpx.Client, key: str) -> set[tuple[str, str]]:
    """(method, path) of everything that any part of the server says it answers."""
    found = {
        (method, filled(pattern))
        for methods, pattern, _ in ROUTES
        for method in (["GET", "POST"] if "*" in methods else methods)
    }
    app = create_app(ControlState(ServerSettings()))
    found |= {
        (method, filled(route.path)) for route in app.routes if isinstance(route, APIRoute) for method in route.methods
    }
    assert all(isinstance(route, APIRoute) for route in app.routes)
    document = client.get("/openapi.json", headers={"X-Api-Key": key}).json()
    found |= {(method.upper(), filled(path)) for path, methods in document["paths"].items() for method in methods}
    return found | {("POST", path) for path in OPEN | PREDICT | READ if is_hot(path)}


def is_hot(path: str) -> bool:
    """Whether the fast lane takes a POST to this path, past the ASGI application."""
    settings = ServerSettings()
    model: Any = View(SIGNATURES["open"], "scripted")
    serving = Serving(0, [model], {"scripted": "1"}, {}, settings, Gate(settings))
    head = Head()
    head.method, head.raw_path, head.length = "POST", path.encode(), 1
    return serving.hot_route(head) is not None


def test_the_fast_lane_has_the_prediction_paths_and_no_others() -> None:
    assert {path for path in OPEN | PREDICT | READ | NOT_YET if is_hot(path)} == PREDICT


def test_every_registered_route_is_known_here(keyed: Keyed) -> None:
    paths = {path for _, path in registered(keyed.client, keyed.keys["read"])}
    assert paths == OPEN | PREDICT | READ | API_LOOK | API_CHANGE | NOT_YET | REPOSITORY | {INDEX}


def body_of(method: str, path: str) -> bytes | None:
    if method != "POST":
        return None
    if path.startswith(("/v1", "/invocations")):
        return json.dumps({"instances": [BODY]}).encode()
    return json.dumps(V2_BODY if path.startswith("/v2") else BODY).encode()


def test_each_scope_opens_exactly_its_own_routes(keyed: Keyed) -> None:
    routes = registered(keyed.client, keyed.keys["read"]) | {
        (method, path)
        for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS")
        for path in OPEN | PREDICT | READ | API_LOOK | {"/nowhere", "/api/keys", INDEX, *REPOSITORY}
    }
    for method, path in sorted(routes):
        scope = needed(method, path)
        for held, key in [(None, None), *keyed.keys.items()]:
            headers = {} if key is None else {"X-Api-Key": key}
            answer = keyed.client.request(method, path, content=body_of(method, path), headers=headers)
            what = (method, path, held, answer.status_code)
            if scope is None or held in (scope, "admin"):
                assert answer.status_code in {200, 404, 405} | (
                    {400} if path.startswith(("/api/", "/v2/repository/")) else set()
                ), what
                if scope is None or (path in PREDICT and method == "POST") or (path in READ and method in LOOK):
                    assert answer.status_code == 200, what
            else:
                assert answer.status_code == (401 if held is None else 403), what
                assert ("www-authenticate" in answer.headers) is (held is None), what
                assert answer.headers["x-request-id"]


def test_a_refusal_has_the_shape_of_its_protocol_and_names_the_scope(keyed: Keyed) -> None:
    headers = {"X-Api-Key": keyed.keys["read"], "X-Request-Id": "r9"}
    native = keyed.client.post("/predict", json=BODY, headers=headers)
    assert native.json()["error"] | {"message": ""} == {
        "code": "forbidden", "message": "", "field": None, "row": None, "request_id": "r9",
    }  # fmt: skip
    assert "'infer'" in native.json()["error"]["message"]
    v2 = keyed.client.post("/v2/models/scripted/infer", json=V2_BODY, headers=headers)
    assert list(v2.json()) == ["error"]
    assert "'infer'" in v2.json()["error"]


TARGETS = ["/metrics", "/openapi.json", "/docs", "/models", "/models/scripted/predict", "/v2/models/scripted/infer"]


def spellings(path: str) -> list[str]:
    """Other ways to write a path, for whoever hopes that two readers read them differently."""
    first, rest = path[1], path[2:]
    coded = f"/%{ord(first):02x}{rest}"
    twice = f"/%25{ord(first):02x}{rest}"
    return [
        coded, twice, coded.upper(), "/" + path, path + "//", "/." + path, "/x/.." + path, path + "/.", path + "/..",
        path + "/", path.upper(), path.title(), path + ";", path + ";.json", path + "?key=x", path + "#/healthz",
        path + "%00", path + "%20", path + "%2f", path.replace("/", "%2f"), path.replace("/", "\\"), path + "%0a",
        "/healthz/.." + path, "/healthz%2f.." + path, "/v2/health/.." + path, "/v2/health/../.." + path,
        "/v2/health/..%2f.." + path.replace("/", "%2f"), "/v2/models/.." + path + "/ready",
        "/v2/models/..%2f.." + path.replace("/", "%2f") + "/ready", "/v2/health/" + path[1:],
        "/static/.." + path, "/static/%2e%2e" + path, "http://localhost" + path, "http://localhost/healthz/.." + path,
        "/%c0%ae%c0%ae" + path, "/%u002e" + path, path + "%", "/healthz%3f/.." + path, "*", path[1:],
    ]  # fmt: skip


@pytest.mark.parametrize("path", TARGETS)
def test_no_spelling_gets_round_the_key(keyed: Keyed, path: str) -> None:
    method = "POST" if path.endswith(("predict", "infer")) else "GET"
    body = body_of(method, path) or b""
    for spelling, method in itertools.product(spellings(path), ("GET", "POST", "HEAD", "OPTIONS", "PROPFIND")):
        for headers in ([], [f"X-Api-Key: {keyed.keys['feedback']}"], ["X-Api-Key: "]):
            with Wire(keyed.server.port) as wire:
                wire.send(post(spelling, body, *headers).replace(b"POST", method.encode(), 1))
                answer = wire.read(head_only=method == "HEAD")
            is_open = spelling.startswith("/v2/health/") and method in LOOK
            allowed = {400, 401, 403, 404, 405} if is_open else {400, 401, 403}
            assert answer.status in allowed, (method, spelling, headers, answer)
            assert b"lagar_build" not in answer.body
            assert b"predictions" not in answer.body


FORWARDED = ["/", "/v2/health", "/v2/health/", "/v2/models", "/healthz", "/ping", "//", "/v2/models/scripted"]


@pytest.mark.parametrize("prefix", FORWARDED)
def test_no_forwarded_header_gets_round_the_key(keyed: Keyed, prefix: str) -> None:
    """Whoever trusts a proxy trusts what it passes on: many pass on what the caller made up."""
    headers = {
        "X-Forwarded-Prefix": prefix, "X-Forwarded-Path": "/healthz", "X-Original-Url": "/healthz",
        "X-Rewrite-Url": "/healthz", "X-Forwarded-Uri": "/healthz", "X-Forwarded-For": "127.0.0.1",
        "Forwarded": "for=127.0.0.1", "X-Forwarded-Host": "localhost", "X-Http-Method-Override": "HEAD",
    }  # fmt: skip
    for path in ["/metrics", "/docs", "/openapi.json", "/models", "/"]:
        for way in (path, prefix.rstrip("/") + path):
            answer = keyed.client.get(way, headers=headers)
            assert answer.status_code in ((200,) if way.rstrip("/") in OPEN else (401, 404)), way
            assert not any(secret in answer.text for secret in ("lagar_build", '"openapi":', "<html", "/static/")), way


def test_a_key_may_be_sent_as_bearer_as_api_key_and_to_pages_as_a_password(keyed: Keyed) -> None:
    infer, read = keyed.keys["infer"], keyed.keys["read"]

    def basic(key: str) -> str:
        return "Basic " + base64.b64encode(f"anyone:{key}".encode()).decode()

    for headers in ({"Authorization": f"Bearer {infer}"}, {"authorization": f"bearer  {infer}"}, {"X-Api-Key": infer},
                    {"Authorization": f"Bearer {infer}", "X-Api-Key": infer}):  # fmt: skip
        assert keyed.client.post("/predict", json=BODY, headers=headers).status_code == 200
        assert keyed.client.post("/predict?x", json=BODY, headers=headers).status_code == 200
    assert keyed.client.get("/docs", headers={"Authorization": basic(read)}).status_code == 200
    for headers in ({"Authorization": basic(infer)}, {"Authorization": infer}, {"Authorization": f"Token {infer}"},
                    {"X-Api-Key": f"Bearer {infer}"}, {"Authorization": f"Bearer {infer}", "X-Api-Key": read},
                    {"Cookie": f"key={infer}"}):  # fmt: skip
        for path in ("/predict", "/predict?x"):
            assert keyed.client.post(path, json=BODY, headers=headers).status_code == 401, headers
    for query in (f"?key={infer}", f"?api_key={infer}", f"?X-Api-Key={infer}"):
        assert keyed.client.post("/predict" + query, json=BODY).status_code == 401


def test_a_browser_is_asked_for_a_password_where_it_wants_a_page(keyed: Keyed) -> None:
    page = keyed.client.get("/", headers={"Accept": "text/html,*/*;q=0.8"})
    kinds = [value.split()[0] for value in page.headers.get_list("www-authenticate")]
    assert (page.status_code, kinds) == (401, ["Bearer", "Basic"])
    other = keyed.client.get("/models", headers={"Accept": "application/json"})
    assert [value.split()[0] for value in other.headers.get_list("www-authenticate")] == ["Bearer"]


@pytest.mark.parametrize("path", ["/predict", "/predict?cold", "/v2/models/scripted/infer", "/metrics"])
def test_nothing_of_a_body_is_kept_for_who_has_no_key(keyed: Keyed, path: str) -> None:
    for request in (
        f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 60000000\r\n\r\n".encode() + b" " * 1000,
        chunked(path, b" " * 1000)[:-5],
    ):
        with Wire(keyed.server.port) as wire:
            wire.send(request)
            assert wire.read().status == 401
            assert wire.is_closed()


def test_a_client_that_waits_for_100_continue_is_refused_at_once(keyed: Keyed) -> None:
    with Wire(keyed.server.port) as wire:
        wire.send(b"POST /predict HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 100\r\n\r\n")
        assert wire.read().status == 401


def connections(server: LagarServer, count: int = 16) -> list[httpx.Client]:
    """Kept connections, enough that every worker has some."""
    return [httpx.Client(base_url=server.url) for _ in range(count)]


def test_a_new_key_works_and_a_revoked_one_does_not_on_every_worker(keyed: Keyed) -> None:
    home = keyed.server.home
    key = key_for(home, "infer")
    clients = connections(keyed.server)

    def statuses() -> set[int]:
        return {c.post("/predict", json=BODY, headers={"X-Api-Key": key}).status_code for c in clients}

    eventually(lambda: statuses() == {200}, 90, "the new key on every worker")
    revoke(home, key)
    eventually(lambda: statuses() == {401}, 90, "the end of the revoked key on every worker")
    answer = clients[0].post("/predict", json=BODY, headers={"X-Api-Key": key})
    assert "revoked" in answer.json()["error"]["message"]
    for client in clients:
        client.close()


def test_the_first_key_closes_a_running_server_and_the_last_revocation_does_not_open_it(
    serve: Any, tmp_path: Path
) -> None:
    server = serve(scripted_model(tmp_path / "m"))
    clients = connections(server, 4)
    assert {c.get("/metrics").status_code for c in clients} == {200}
    key = key_for(server.home, "read")
    eventually(lambda: {c.get("/metrics").status_code for c in clients} == {401}, 90, "a closed server")
    revoke(server.home, key)
    eventually(lambda: "revoked" in clients[0].get("/metrics", headers={"X-Api-Key": key}).text, 90, "the revocation")
    assert {c.get("/metrics").status_code for c in clients} == {401}
    assert {c.get("/healthz").status_code for c in clients} == {200}
    for client in clients:
        client.close()


def test_no_key_is_in_the_log_or_in_an_answer(keyed: Keyed) -> None:
    made_up = "lagar_abcdefghij_" + "Z" * 40
    for key in (*keyed.keys.values(), made_up, "not-even-a-key"):
        for headers in ({"X-Api-Key": key}, {"Authorization": f"Bearer {key}"}, {"Authorization": f"Weird {key}"}):
            for path in ("/predict", "/metrics", "/nowhere"):
                answer = keyed.client.post(path, content=b"{bad", headers=headers)
                assert key.split("_")[-1] not in answer.text + str(answer.headers), headers
    log = keyed.server.stderr()
    assert not [key for key in (*keyed.keys.values(), made_up) if key.split("_")[-1] in log]
    assert set(SCOPES) == set(keyed.keys)


def test_get_of_a_head_only_request_is_empty_and_keeps_the_connection(keyed: Keyed) -> None:
    with Wire(keyed.server.port) as wire:
        for path in ("/metrics", "/healthz", "/docs"):
            wire.send(get(path, f"X-Api-Key: {keyed.keys['read']}", method="HEAD"))
            answer = wire.read(head_only=True)
            assert answer.status == 200
            assert int(answer.headers["content-length"]) > 0
