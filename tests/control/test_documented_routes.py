"""The OpenAPI document against the running server: what it lists is there, and its examples work."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from support.server import LagarServer


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, wine: Any, churn: Any, text: Any) -> Iterator[httpx.Client]:
    """A server over three models; wine answers `/predict`."""
    home = tmp_path_factory.mktemp("documented")
    args = ["--default-model", "wine"]
    with (
        LagarServer(wine.path, churn.path, text.path, home=home, args=args) as server,
        httpx.Client(base_url=server.url) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def document(client: httpx.Client) -> dict[str, Any]:
    return dict(client.get("/openapi.json").json())


def test_every_documented_path_answers_its_method_and_refuses_another(
    client: httpx.Client, document: dict[str, Any]
) -> None:
    for path, methods in document["paths"].items():
        if "get" in methods and "{" not in path:
            assert client.get(path).status_code == 200, path
        if "delete" not in methods:
            assert client.request("DELETE", re.sub(r"\{\w+\}", "x", path)).status_code == 405, path


def test_every_documented_body_is_answered(client: httpx.Client, document: dict[str, Any]) -> None:
    tried = 0
    for path, methods in document["paths"].items():
        if not path.endswith("/predict"):
            continue
        content = methods["post"]["requestBody"]["content"]
        answers = []
        for name, example in content["application/json"]["examples"].items():
            answer = client.post(path, json=example["value"])
            assert answer.status_code == 200, (path, name, answer.text)
            answers.append(answer.json())
        for kind in ("text/csv", "application/x-ndjson"):
            answer = client.post(path, content=content[kind]["example"], headers={"Content-Type": kind})
            assert answer.status_code == 200, (path, kind, answer.text)
            answers.append(answer.json())
        assert len({str(answer["predictions"]) for answer in answers}) == 1
        tried += len(answers)
    assert tried == 7 * 10


def test_every_v2_example_is_answered(client: httpx.Client, document: dict[str, Any]) -> None:
    paths = [path for path in document["paths"] if path.endswith("/infer")]
    assert len(paths) == 6
    for path in paths:
        body = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["example"]
        answer = client.post(path, json=body)
        assert answer.status_code == 200, (path, answer.text)
        native = client.post(
            path.removeprefix("/v2").replace("/infer", "/predict"),
            content=client.get(path.removeprefix("/v2").replace("/infer", "/example")).content,
        )
        assert answer.json()["outputs"][0]["data"] == native.json()["predictions"]


def test_every_v1_and_mlflow_example_is_answered(client: httpx.Client, document: dict[str, Any]) -> None:
    paths = [path for path in document["paths"] if path.endswith(":predict") or path == "/invocations"]
    assert len(paths) == 7
    for path in paths:
        content = document["paths"][path]["post"]["requestBody"]["content"]
        answer = client.post(path, json=content["application/json"]["example"])
        assert answer.status_code == 200, (path, answer.text)
        assert list(answer.json()) == ["predictions"]
    content = document["paths"]["/invocations"]["post"]["requestBody"]["content"]
    by_name = client.post("/invocations", json=content["application/json"]["example"]).json()
    table = content["text/csv"]["example"]
    assert client.post("/invocations", content=table, headers={"Content-Type": "text/csv"}).json() == by_name


def test_an_answer_has_what_its_schema_requires(client: httpx.Client, document: dict[str, Any]) -> None:
    for name, schema in document["components"]["schemas"].items():
        if not name.endswith(".Answer"):
            continue
        model = schema["properties"]["model"]["const"]
        answer = client.post(f"/models/{model}/predict", content=client.get(f"/models/{model}/example").content).json()
        assert set(answer) == set(schema["required"])
        assert answer["version"] == schema["properties"]["version"]["const"]
        if "classes" in schema["properties"]:
            assert answer["classes"] == schema["properties"]["classes"]["const"]
            assert answer["predictions"][0] in schema["properties"]["predictions"]["items"]["enum"]


def test_the_media_types_of_a_refusal_are_the_documented_ones(client: httpx.Client, document: dict[str, Any]) -> None:
    documented = document["paths"]["/predict"]["post"]["requestBody"]["content"]
    answer = client.post("/predict", content=b"x", headers={"Content-Type": "image/png"})
    assert answer.status_code == 415
    for kind in documented:
        assert kind in answer.json()["error"]["message"]


def test_metrics_count_what_was_answered_under_the_names_of_loaded_models_only(client: httpx.Client) -> None:
    client.post("/models/made-up/predict", json={})
    client.post("/predict", content=client.get("/example").content)
    text = client.get("/metrics").text
    version = client.get("/models/wine").json()["live"]
    assert f'lagar_requests_total{{model="wine",protocol="native",status="200",version="{version}"}}' in text
    assert "made-up" not in text
