"""V2's extensions over real HTTP: binary tensors, packed bodies, pages of other sites, the repository of a server."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest

from protocols.test_v2_binary import behind, blob_of
from support.registry import ANA
from support.server import LagarServer
from support.wait import eventually

SHOP = "https://shop.example"
PACKED_FROM = 4000
RPC = ("lagar_requests_total", "v2")


class Served(NamedTuple):
    server: LagarServer
    client: httpx.Client
    rows: np.ndarray[Any, Any]
    labels: list[Any]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, logistic: Any, text: Any) -> Iterator[Served]:
    """A server over paths whose changes need no key, with every extension switched on."""
    env = {
        "LAGAR_NO_AUTH": "true", "LAGAR_CORS_ORIGINS": SHOP, "LAGAR_COMPRESS_ANSWERS_BYTES": str(PACKED_FROM),
        "LAGAR_MAX_BODY_BYTES": "1000000",
    }  # fmt: skip
    home = tmp_path_factory.mktemp("extensions") / "home"
    with (
        LagarServer(logistic.path, text.path, home=home, env=env) as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        yield Served(server, client, logistic.rows, logistic.model.predict(logistic.rows).tolist())


def json_of(rows: Any, **members: Any) -> bytes:
    table = np.asarray(rows)
    sent = {"name": "x", "shape": list(table.shape), "datatype": "FP64", "data": table.ravel().tolist()}
    return json.dumps({"inputs": [sent], **members}).encode()


def infer(served: Served, body: bytes, model: str = "logistic", query: str = "", **headers: str) -> httpx.Response:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return served.client.post(f"/v2/models/{model}/infer{query}", content=body, headers=sent)


def length_of(envelope: Any) -> str:
    return str(envelope.header_length)


@pytest.mark.parametrize("query", ["", "?lane=slow"])
@pytest.mark.parametrize("content_type", ["application/octet-stream", ""])
def test_binary_goes_in_and_out_in_both_lanes(served: Served, query: str, content_type: str) -> None:
    rows = served.rows[:50]
    members = {"outputs": [{"name": "predict", "parameters": {"binary_data": True}}], "id": "b-1"}
    body, envelope = behind(("x", "FP64", list(rows.shape), blob_of(rows, "FP64")), **members)
    headers = {"inference_header_content_length": length_of(envelope)}
    if content_type:
        headers["content_type"] = content_type
    answer = infer(served, body, query=query, **headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["ce-id"] == "b-1"
    size = int(answer.headers["inference-header-content-length"])
    said = json.loads(answer.content[:size])
    assert said["outputs"] == [
        {"name": "predict", "shape": [50, 1], "datatype": "INT64", "parameters": {"binary_data_size": 400}}
    ]
    assert np.frombuffer(answer.content[size:], "<i8").tolist() == served.labels[:50]


@pytest.mark.parametrize("query", ["", "?lane=slow"])
def test_a_binary_mistake_is_a_400_of_v2_in_both_lanes(served: Served, query: str) -> None:
    answer = infer(served, b"{}x", query=query, inference_header_content_length="9")
    assert answer.status_code == 400
    assert "3 bytes" in answer.json()["error"]
    native = served.client.post(
        f"/models/logistic/predict{query}", content=b"{}", headers={"inference-header-content-length": "2"}
    )
    assert native.status_code == 400
    assert "V2" in native.json()["error"]["message"]


def test_a_raw_body_is_answered_raw(served: Served) -> None:
    answer = infer(served, blob_of(served.rows[:3], "FP64"), inference_header_content_length="0")
    assert answer.status_code == 200, answer.text
    size = int(answer.headers["inference-header-content-length"])
    assert np.frombuffer(answer.content[size:], "<i8").tolist() == served.labels[:3]
    answer = infer(served, "Livro de histórias".encode(), "products", inference_header_content_length="0")
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("coding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("x-gzip", gzip.compress)]
)
def test_packed_bodies_are_read_in_every_protocol(served: Served, coding: str, pack: Any) -> None:
    rows = served.rows[:20]
    plain = infer(served, json_of(rows, id="1")).json()
    assert infer(served, pack(json_of(rows, id="1")), content_encoding=coding).json() == plain
    body, envelope = behind(("x", "FP64", [20, 4], blob_of(rows, "FP64")), id="1")
    answer = infer(served, pack(body), content_encoding=coding, inference_header_content_length=length_of(envelope))
    assert answer.json() == plain
    native = served.client.post(
        "/models/logistic/predict", content=pack(json.dumps(rows.tolist()).encode()),
        headers={"content-encoding": coding},
    )  # fmt: skip
    assert native.json()["predictions"] == plain["outputs"][0]["data"]


def test_what_is_packed_is_bounded_by_what_comes_out(served: Served) -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    answer = infer(served, bomb, content_encoding="gzip")
    assert answer.status_code == 413
    assert "1000000 bytes once it is unpacked" in answer.json()["error"]
    assert infer(served, b"no gzip", content_encoding="gzip").status_code == 400
    answer = infer(served, b"{}", content_encoding="br")
    assert answer.status_code == 415
    assert "gzip, deflate" in answer.json()["error"]


def test_large_answers_are_packed_for_those_who_take_it(served: Served) -> None:
    body = json_of(np.tile(served.rows, (20, 1)), id="1")
    plain = infer(served, body, accept_encoding="identity")
    assert "content-encoding" not in plain.headers
    for coding in ("gzip", "deflate"):
        answer = infer(served, body, accept_encoding=coding)
        assert answer.headers["content-encoding"] == coding
        assert int(answer.headers["content-length"]) < len(plain.content) / 2
        assert answer.json() == plain.json()
    small = infer(served, json_of(served.rows[:1]), accept_encoding="gzip")
    assert "content-encoding" not in small.headers


def test_every_answer_names_its_event_as_mlserver_does(served: Served) -> None:
    for query in ("", "?lane=slow"):
        headers = infer(served, json_of(served.rows[:1]), query=query, x_request_id="r-9").headers
        assert headers["ce-specversion"] == "0.3"
        assert headers["ce-source"] == "io.seldon.serving.deployment.lagar"
        assert headers["ce-type"] == "io.seldon.serving.inference.response"
        assert headers["ce-id"] == "r-9"


def test_lists_configuration_and_statistics(served: Served) -> None:
    client = served.client
    assert client.get("/v2/models").json() == {"models": ["logistic", "products"]}
    assert set(client.get("/v2").json()["extensions"]) == {
        "binary_tensor_data", "model_configuration", "model_repository", "statistics",
    }  # fmt: skip
    label = served.server.version("logistic")
    config = client.get(f"/v2/models/logistic/versions/{label}/config").json()
    assert (config["name"], config["max_batch_size"]) == ("logistic", 100_000)
    assert config["input"] == [{"name": "input", "data_type": "TYPE_FP64", "dims": [4]}]
    assert config["output"][0] == {"name": "predict", "data_type": "TYPE_INT64", "dims": [1]}
    products = client.get("/v2/models/products/config").json()
    assert products["input"][0]["data_type"] == "TYPE_STRING"
    before = client.get("/v2/models/products/stats").json()["model_stats"][0]["inference_stats"]["success"]["count"]
    body = json.dumps({"inputs": [{"name": "t", "shape": [2], "datatype": "BYTES", "data": ["Livro", "Bola"]}]})
    assert infer(served, body.encode(), "products").status_code == 200
    assert infer(served, b"{}", "products").status_code == 400
    (stats,) = client.get("/v2/models/products/stats").json()["model_stats"]
    assert stats["inference_stats"]["success"]["count"] == before + 1
    assert stats["inference_stats"]["fail"]["count"] > 0
    assert stats["inference_count"] >= 2
    assert stats["inference_stats"]["compute_infer"]["ns"] > 0
    assert client.get("/v2/models/nada/config").status_code == 404
    assert len(client.get("/v2/models/stats").json()["model_stats"]) == 2


def test_documentation_pages_are_there(served: Served) -> None:
    for path in ("/v2/docs", "/v2/models/logistic/docs"):
        assert "swagger" in served.client.get(path).text
        paths = served.client.get(f"{path}/dataplane.json").json()["paths"]
        assert "/v2/models/logistic/infer" in paths


def test_a_page_of_an_allowed_site_may_read_answers_and_no_other(served: Served) -> None:
    client = served.client
    asked = {"origin": SHOP, "access-control-request-method": "POST", "access-control-request-headers": "x-api-key"}
    granted = client.request("OPTIONS", "/v2/models/logistic/infer", headers=asked)
    assert (granted.status_code, granted.content) == (204, b"")
    assert granted.headers["access-control-allow-origin"] == SHOP
    assert granted.headers["access-control-allow-headers"] == "x-api-key"
    for path in ("/v2/models/logistic/infer", "/models/logistic/predict", "/v2", "/openapi.json", "/nowhere"):
        answer = client.get(path, headers={"origin": SHOP})
        assert answer.headers["access-control-allow-origin"] == SHOP, path
        for origin in ("https://evil.example", "null"):
            assert "access-control-allow-origin" not in client.get(path, headers={"origin": origin}).headers
    answer = infer(served, json_of(served.rows[:1]), origin=SHOP)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, SHOP)
    refused = client.request("OPTIONS", "/v2/models/logistic/infer", headers=asked | {"origin": "https://evil.example"})
    assert refused.status_code == 405


def test_a_model_of_a_path_is_taken_out_of_service_and_back(served: Served) -> None:
    client, label = served.client, served.server.version("products")
    body = json.dumps({"inputs": [{"name": "t", "shape": [1], "datatype": "BYTES", "data": ["Livro"]}]}).encode()
    paths = ("/v2/models/products", f"/v2/models/products/versions/{label}")
    assert client.post("/v2/repository/models/products/unload").content == b""

    def gone() -> bool:
        return all(client.post(f"{path}/infer", content=body).status_code == 404 for path in paths)

    eventually(gone, 60, "404 for the unloaded model")
    assert client.get("/v2/models/products/ready").status_code == 404
    assert client.get("/v2/health/ready").status_code == 200
    assert client.get("/v2/models").json() == {"models": ["logistic"]}
    index = {entry["name"]: entry for entry in client.post("/v2/repository/index").json()}
    assert index["products"] == {
        "name": "products", "version": label, "state": "UNAVAILABLE", "reason": "unloaded",
    }  # fmt: skip
    assert index["logistic"]["state"] == "READY"
    assert client.post("/v2/repository/models/products/load").content == b""

    def back() -> bool:
        return all(client.post(f"{path}/infer", content=body).status_code == 200 for path in paths)

    eventually(back, 60, "answers of the model that was loaded again")
    assert client.post("/v2/repository/models/nada/load").json() == {"error": "Model nada not found"}


def test_the_last_model_may_be_unloaded_too(served: Served) -> None:
    client = served.client
    for name in ("logistic", "products"):
        assert client.post(f"/v2/repository/models/{name}/unload").status_code == 200
    eventually(lambda: client.get("/v2/models").json() == {"models": []}, 60, "no model in service")
    assert client.post("/v2/repository/index", json={"ready": True}).json() == []
    for name in ("logistic", "products"):
        assert client.post(f"/v2/repository/models/{name}/load").status_code == 200
    names = {"models": ["logistic", "products"]}
    eventually(lambda: client.get("/v2/models").json() == names, 60, "both models in service")


def test_changes_need_a_key_where_nothing_else_does(tmp_path: Any, logistic: Any) -> None:
    with LagarServer(logistic.path, home=tmp_path / "home") as server:
        for verb in ("load", "unload"):
            answer = httpx.post(f"{server.url}/v2/repository/models/logistic/{verb}")
            assert answer.status_code == 401
            assert "need an API key" in answer.json()["error"]
        assert httpx.post(f"{server.url}/v2/repository/index").json()[0]["state"] == "READY"


def test_a_version_of_the_catalog_is_unloaded_and_loaded_by_name(tmp_path: Any, logistic: Any) -> None:
    from lagar.intake.push import push
    from lagar.registry.releases import open_releases

    home = tmp_path / "home"
    with open_releases(home) as releases:
        for version in ("1", "2"):
            push(releases, "log", logistic.path, version=version, who=ANA)
        releases.propose("log", {"1": 100}, ANA)
    body = json_of(logistic.rows[:2])
    with (
        LagarServer(home=home, env={"LAGAR_NO_AUTH": "true"}) as server,
        httpx.Client(base_url=server.url, timeout=120) as client,
    ):

        def version_of(path: str) -> str | None:
            answer = client.post(f"/v2/models/{path}/infer", content=body)
            return answer.json()["model_version"] if answer.status_code == 200 else None

        assert (version_of("log"), version_of("log/versions/2")) == ("1", "2")
        assert client.post("/v2/repository/models/log/unload").status_code == 200
        paths = ("log", "log/versions/1", "log/versions/2")
        eventually(lambda: [version_of(path) for path in paths] == [None] * 3, 60, "404 for every version")
        assert {entry["reason"] for entry in client.post("/v2/repository/index").json()} == {"unloaded"}
        answer = client.post("/v2/repository/models/log/load", json={"parameters": {"version": "2"}})
        assert answer.status_code == 200, answer.text
        eventually(lambda: version_of("log") == "2", 60, "the version that was loaded")
        eventually(lambda: version_of("log/versions/1") == "1", 60, "the other version, when it is asked for")
