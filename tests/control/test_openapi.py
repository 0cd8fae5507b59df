"""The OpenAPI document: valid, and true to the loaded models."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from lagar.control.openapi import ERRORS
from lagar.protocols.base import STATUS
from support.infos import Control, bare_info, churn_info, wine_info


def document(control: Control, *models: Any, **settings: Any) -> dict[str, Any]:
    return dict(control(*models, **settings).get("/openapi.json").json())


def walk(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from walk(item)
    elif isinstance(value, list):
        for item in value:
            yield from walk(item)


def resolve(doc: dict[str, Any], value: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in value:
        found: Any = doc
        for part in value["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        value = found
    return value


def operations(doc: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in doc["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


MODELS = {
    "none": (),
    "one": (wine_info(),),
    "many": (wine_info("2"), wine_info("1", live=False), churn_info(), bare_info()),
    "own code": (msgspec.structs.replace(wine_info(), has_preprocess=True, has_postprocess=True),),
}


@pytest.mark.parametrize("models", MODELS.values(), ids=MODELS)
def test_the_document_is_valid(control: Control, models: tuple[Any, ...]) -> None:
    validator = pytest.importorskip("openapi_spec_validator", reason="openapi-spec-validator is not installed")
    validator.validate(document(control, *models))


@pytest.mark.parametrize("models", MODELS.values(), ids=MODELS)
def test_references_resolve_and_operations_are_named_once(control: Control, models: tuple[Any, ...]) -> None:
    doc = document(control, *models)
    assert doc["openapi"].startswith("3.1.")
    for part in walk(doc):
        if "$ref" in part:
            assert resolve(doc, part)
    names = [operation["operationId"] for _, _, operation in operations(doc)]
    assert len(names) == len(set(names))
    tags = {tag["name"] for tag in doc["tags"]}
    for path, _, operation in operations(doc):
        assert set(operation["tags"]) <= tags, path
        assert "200" in operation["responses"], path
    for kind in doc["components"].values():
        assert all(re.fullmatch(r"[A-Za-z0-9._-]+", name) for name in kind)


def test_each_version_has_its_own_paths_and_the_only_model_the_short_ones(control: Control) -> None:
    one = document(control, wine_info("2"), wine_info("1", live=False))["paths"]
    for base in ("", "/models/wine", "/models/wine/versions/1", "/models/wine/versions/2"):
        assert "post" in one[f"{base}/predict"]
        assert "get" in one[f"{base}/example"]
    for base in ("/v2/models/wine", "/v2/models/wine/versions/1", "/v2/models/wine/versions/2"):
        assert "post" in one[f"{base}/infer"]
        assert "get" in one[base]
        assert "get" in one[f"{base}/ready"]
    assert "/predict" not in document(control, wine_info(), churn_info())["paths"]
    named = document(control, wine_info(), churn_info(), default_model="churn")["paths"]
    assert named["/predict"]["post"]["tags"] == ["churn"]


def test_a_record_has_the_models_fields(control: Control) -> None:
    doc = document(control, wine_info(), churn_info())
    record = doc["components"]["schemas"]["churn.v1.0.10.Record"]
    assert record["required"] == ["contract", "plan", "senior", "tenure", "note"]
    assert record["additionalProperties"] is False
    fields = record["properties"]
    assert fields["contract"]["enum"] == ["monthly", "yearly"]
    assert fields["contract"]["type"] == "string"
    assert fields["plan"]["anyOf"] == [{"enum": ["gold", "silver", None]}, {"type": ["string", "null"]}]
    assert fields["senior"]["type"] == "boolean"
    assert fields["tenure"]["type"] == "integer"
    assert "does not say" in fields["note"]["description"]
    wine = doc["components"]["schemas"]["wine.1.Record"]
    assert wine["required"] == ["alcohol", "malic acid"]
    assert wine["properties"]["alcohol"]["minimum"] == 0
    assert wine["properties"]["alcohol"]["maximum"] == 100
    assert wine["properties"]["hue"]["type"] == ["number", "null"]
    assert wine["properties"]["hue"]["default"] == 1.0
    assert "not enforced" in wine["properties"]["malic acid"]["description"]
    assert "Null: unknown" in wine["properties"]["malic acid"]["description"]


def test_every_form_of_a_body_is_there_with_the_example(control: Control) -> None:
    doc = document(control, wine_info())
    content = doc["paths"]["/predict"]["post"]["requestBody"]["content"]
    assert set(content) == {
        "application/json",
        "text/csv",
        "application/x-ndjson",
        "application/vnd.apache.arrow.stream",
        "application/vnd.apache.parquet",
    }
    forms = {name: example["value"] for name, example in content["application/json"]["examples"].items()}
    assert forms["one record"] == {"alcohol": 14.2, "malic acid": 1.7, "hue": 1.04}
    assert forms["batches"] == {"batches": [[14.2, 1.7, 1.04]]}
    assert forms["input_data"]["input_data"]["columns"] == ["alcohol", "malic acid", "hue"]
    assert set(forms) == {
        "one record", "list of records", "list of rows", "batches", "instances", "inputs", "columns and data",
        "input_data",
    }  # fmt: skip
    assert content["text/csv"]["example"] == "alcohol,malic acid,hue\n14.2,1.7,1.04\n"
    assert len(resolve(doc, content["application/json"]["schema"])["anyOf"]) == len(forms)


def test_the_answer_has_the_models_classes_and_outputs(control: Control) -> None:
    answer = document(control, wine_info())["components"]["schemas"]["wine.1.Answer"]
    assert answer["required"] == ["model", "version", "id", "ids", "predictions", "probabilities", "classes"]
    assert answer["properties"]["predictions"]["items"] == {"enum": ["barolo", "barbera"]}
    row = answer["properties"]["probabilities"]["items"]
    assert (row["items"]["type"], row["minItems"], row["maxItems"]) == ("number", 2, 2)


def test_an_own_postprocess_leaves_the_answer_open(control: Control) -> None:
    info = msgspec.structs.replace(wine_info(), has_postprocess=True)
    answer = document(control, info)["components"]["schemas"]["wine.1.Answer"]
    assert "type" not in answer
    assert "properties" not in answer


def test_every_error_that_a_caller_can_get_is_documented_for_predictions(control: Control) -> None:
    doc = document(control, wine_info())
    statuses = {str(status) for status in STATUS.values()}
    assert set(ERRORS) == set(STATUS.values())
    for path in ("/predict", "/v2/models/wine/infer"):
        responses = doc["paths"][path]["post"]["responses"]
        assert statuses <= set(responses)
        for status in statuses:
            headers = resolve(doc, responses[status])["headers"]
            assert "X-Request-Id" in headers
            assert ("Retry-After" in headers) == (status in ("429", "503"))
    for status, (code, _) in ERRORS.items():
        assert STATUS[code] == status


def test_keys_are_asked_for_when_the_server_wants_them_but_not_for_health(control: Control) -> None:
    client = control(wine_info())
    assert "security" not in client.get("/openapi.json").json()
    client.state.has_keys = True  # type: ignore[attr-defined]
    doc = client.get("/openapi.json").json()
    assert doc["security"] == [{"bearer": []}, {"apiKey": []}]
    for path in ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready", "/v2/models/wine/ready"):
        assert doc["paths"][path]["get"]["security"] == []
    assert "security" not in doc["paths"]["/predict"]["post"]


def test_the_server_address_is_the_prefix_and_names_no_host(control: Control) -> None:
    assert document(control, wine_info())["servers"] == [{"url": "/"}]
    assert document(control, wine_info(), root_path="/mlapi")["servers"] == [{"url": "/mlapi"}]
    assert "wine.example" not in control(wine_info()).get("/openapi.json").text


def test_the_documented_paths_of_this_process_exist(control: Control) -> None:
    client = control(wine_info())
    for path in ("/", "/docs", "/openapi.json", "/metrics"):
        assert path in client.get("/openapi.json").json()["paths"]
        assert client.get(path).status_code == 200


def test_names_that_are_no_plain_words_are_escaped_in_paths(control: Control) -> None:
    doc = document(control, msgspec.structs.replace(wine_info(), name="süß/wein"))
    assert "/models/s%C3%BC%C3%9F%2Fwein/predict" in doc["paths"]
