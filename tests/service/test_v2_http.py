"""V2 REST over real HTTP: every model in every form of tensor, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import httpx
import numpy as np
import pytest

from service.conftest import NAMES, Zoo
from service.zoo import WINE, Animal

DATATYPES = {float: "FP64", int: "INT64", bool: "BOOL", str: "BYTES", type(None): "FP64"}


@pytest.fixture(params=NAMES)
def animal(request: pytest.FixtureRequest, served: Zoo) -> Animal:
    return served.animals[request.param]


def infer(served: Zoo, name: str, body: Any, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return served.client.post(f"/v2/models/{name}/infer", content=content, headers=sent)


def good(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    return dict(answer.json())


def refused(answer: httpx.Response, status: int = 400) -> str:
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    assert "x-request-id" in answer.headers
    return str(answer.json()["error"])


def columns(animal: Animal, *, narrow: bool = False) -> list[dict[str, Any]]:
    """One input per field, [n] or [n,1]."""
    n = len(animal.records)
    inputs = []
    for name in animal.records[0]:
        values = [record[name] for record in animal.records]
        kind = DATATYPES[type(next(value for value in values if value is not None))]
        inputs.append({"name": name, "shape": [n, 1] if narrow else [n], "datatype": kind, "data": values})
    return inputs


def matrix(animal: Animal, datatype: str = "FP64", *, nested: bool = False) -> list[dict[str, Any]]:
    rows = [list(record.values()) for record in animal.records]
    data: list[Any] = rows if nested else [value for row in rows for value in row]
    return [{"name": "input", "shape": [len(rows), len(rows[0])], "datatype": datatype, "data": data}]


def is_numeric(animal: Animal) -> bool:
    return all(isinstance(value, (int, float, type(None))) for value in animal.records[0].values())


def forms(animal: Animal) -> dict[str, list[dict[str, Any]]]:
    found = {
        "columns [n]": columns(animal),
        "columns [n,1]": columns(animal, narrow=True),
        "columns turned round": columns(animal)[::-1],
    }
    if is_numeric(animal):
        found |= {"flat": matrix(animal), "nested": matrix(animal, nested=True), "FP32": matrix(animal, "FP32")}
    return found


def flat(values: Any) -> list[Any]:
    return list(np.asarray(values, dtype=object).ravel())


def test_every_form_of_tensor_gets_the_library_s_own_numbers(served: Zoo, animal: Animal) -> None:
    asked = [{"name": name} for name in outputs_of(animal)]
    n = len(animal.records)
    for form, inputs in forms(animal).items():
        answer = good(infer(served, animal.name, {"inputs": inputs, "outputs": asked, "id": "i-1"}))
        assert (answer["model_name"], answer["model_version"]) == (animal.name, served.server.version(animal.name))
        assert (answer["id"], answer["parameters"]) == ("i-1", {})
        assert [output["name"] for output in answer["outputs"]] == [output["name"] for output in asked]
        for output in answer["outputs"]:
            expected = outputs_of(animal)[output["name"]]
            assert output["data"] == flat(expected), (form, output["name"])
            width = len(expected[0]) if isinstance(expected[0], list) else 1
            assert output["shape"] == [n, width]


def outputs_of(animal: Animal) -> dict[str, Any]:
    """V2 output → values, from the native names."""
    names = {"predictions": "predict", "probabilities": "predict_proba"}
    return {names.get(name, name): value for name, value in animal.expected.items() if name != "classes"}


def test_the_first_output_is_answered_when_none_is_asked_for(served: Zoo, animal: Animal) -> None:
    for outputs in (None, []):
        answer = good(infer(served, animal.name, {"inputs": columns(animal), "outputs": outputs}))
        assert [output["name"] for output in answer["outputs"]] == ["predict"]
        assert answer["outputs"][0]["data"] == flat(animal.expected["predictions"])


def test_metadata_says_what_infer_takes_and_gives(served: Zoo, animal: Animal) -> None:
    for path in (
        f"/v2/models/{animal.name}",
        f"/v2/models/{animal.name}/versions/{served.server.version(animal.name)}",
    ):
        meta = served.client.get(path).json()
        assert list(meta) == ["name", "versions", "platform", "inputs", "outputs", "parameters"]
        assert (meta["name"], meta["versions"], meta["parameters"]) == (
            animal.name,
            [served.server.version(animal.name)],
            {},
        )
    n = len(animal.records)
    names = [tensor["name"] for tensor in meta["inputs"]]
    by_column = {tensor["name"]: tensor for tensor in columns(animal, narrow=True)}
    inputs = matrix(animal) if names == ["input"] else [by_column[name] for name in names]
    for tensor, said in zip(inputs, meta["inputs"], strict=True):
        assert [n if size == -1 else size for size in said["shape"]] == tensor["shape"]
        tensor["datatype"] = said["datatype"]
    asked = [{"name": output["name"]} for output in meta["outputs"]]
    answer = good(infer(served, animal.name, {"inputs": inputs, "outputs": asked}))
    for output, said in zip(answer["outputs"], meta["outputs"], strict=True):
        assert output["datatype"] == said["datatype"]
        assert output["shape"] == [n if size == -1 else size for size in said["shape"]]


def test_a_ready_model_says_so(served: Zoo, animal: Animal) -> None:
    label = served.server.version(animal.name)
    for path in (f"/v2/models/{animal.name}/ready", f"/v2/models/{animal.name}/versions/{label}/ready"):
        assert served.client.get(path).status_code == 200
    assert "not found" in refused(served.client.get(f"/v2/models/{animal.name}/versions/9/ready"), 404)


def test_server_metadata_and_health(served: Zoo) -> None:
    assert served.client.get("/v2").json()["name"] == "lagar"
    assert set(served.client.get("/v2").json()) == {"name", "version", "extensions"}
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/"):
        assert served.client.get(path).status_code == 200


INTEGERS = ["INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"]


@pytest.mark.parametrize("datatype", [*INTEGERS, "FP16", "BF16", "FP32", "FP64"])
def test_every_numeric_datatype_is_read(served: Zoo, datatype: str) -> None:
    rows = [[1, 2, 3, 4], [4, 3, 2, 1]]
    body = {"inputs": [{"name": "x", "shape": [2, 4], "datatype": datatype, "data": rows}]}
    as_float = {"inputs": [{"name": "x", "shape": [2, 4], "datatype": "FP64", "data": rows}]}
    assert good(infer(served, "logistic", body))["outputs"] == good(infer(served, "logistic", as_float))["outputs"]


def test_parameters_are_taken_everywhere_and_change_no_number(served: Zoo) -> None:
    inputs = matrix(served.animals["wine"])
    plain = good(infer(served, "wine", {"inputs": inputs, "id": "x"}))
    inputs[0]["parameters"] = {"content_type": "np", "any": {"thing": [1]}}
    body = {
        "inputs": inputs, "id": "x", "parameters": {"content_type": "np", "headers": {}},
        "outputs": [{"name": "predict", "parameters": {"content_type": "np", "other": 1}}],
    }  # fmt: skip
    answer = good(infer(served, "wine", body))
    assert answer["outputs"][0].pop("parameters") == {"content_type": "np"}
    assert answer == plain


def test_the_id_is_the_caller_s_or_the_request_s(served: Zoo) -> None:
    inputs = matrix(served.animals["wine"])
    answer = infer(served, "wine", {"inputs": inputs}, x_request_id="r-5")
    assert (answer.json()["id"], answer.headers["x-request-id"]) == ("r-5", "r-5")
    answer = infer(served, "wine", {"inputs": inputs, "id": "own"}, x_request_id="r-6")
    assert (answer.json()["id"], answer.headers["x-request-id"]) == ("own", "r-6")


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "application/vnd.a+json", ""])
def test_json_types_are_taken_and_others_are_415(served: Zoo, kind: str) -> None:
    headers = {"content_type": kind} if kind else {}
    assert infer(served, "wine", {"inputs": matrix(served.animals["wine"])}, **headers).status_code == 200
    for other in ("text/csv", "application/octet-stream", "application/x-ndjson"):
        refused(infer(served, "wine", {"inputs": []}, content_type=other), 415)


@pytest.mark.parametrize(
    "body",
    [b"", b"{bad", b"[]", b"{}", b'{"inputs": []}', b'{"inputs": {}}', b'{"inputs": [{}]}', b'{"inputs": [1]}',
     b'{"inputs": [{"name": "a", "shape": [1], "datatype": "FP64", "data": []}]}', b"null", b"\xff", b"NaN",
     b'{"inputs": [{"name": "a", "shape": [1, 1, 1, 1], "datatype": "FP64", "data": [1]}]}',
     b'{"inputs": [{"name": "a", "shape": [-1], "datatype": "FP64", "data": [1]}]}',
     b'{"inputs": [{"name": "a", "shape": [0], "datatype": "FP64", "data": []}]}',
     b'{"inputs": [{"name": "a", "shape": [1], "datatype": "FP65", "data": [1]}]}',
     b'{"inputs": [{"name": "a", "shape": [1], "datatype": "FP64", "data": [NaN]}]}',
     b'{"inputs": [{"name": "a", "shape": [1], "datatype": "INT8", "data": [1000]}]}',
     b'{"inputs": [], "inputs": []}'],
)  # fmt: skip
def test_a_body_that_is_no_request_is_400_for_every_model(served: Zoo, animal: Animal, body: bytes) -> None:
    assert refused(infer(served, animal.name, body))


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [("churn", "contract", "three_year"), ("churn", "tenure", "41"), ("heart", "sex", "x"),
     ("wine", "ash", None), ("wine", "ash", "2.1"), ("products", "text", 1), ("products", "text", None)],
)  # fmt: skip
def test_a_wrong_value_names_the_input_and_the_row(served: Zoo, name: str, field: str, value: Any) -> None:
    inputs = columns(served.animals[name])
    tensor = next(tensor for tensor in inputs if tensor["name"] == field)
    tensor["data"][3] = value
    if isinstance(value, str):
        tensor["datatype"], tensor["data"] = "BYTES", [str(value) for value in tensor["data"]]
    message = refused(infer(served, name, {"inputs": inputs}))
    assert f"'{field}'" in message
    if tensor["datatype"] == DATATYPES[type(served.animals[name].records[0][field])]:
        assert "row 3" in message


def test_a_missing_and_an_unknown_output(served: Zoo, animal: Animal) -> None:
    body = {"inputs": columns(animal), "outputs": [{"name": "foo"}]}
    assert "(foo was received)" in refused(infer(served, animal.name, body))
    if len(animal.records[0]) > 1:
        missing = next(iter(animal.records[0]))
        assert f"'{missing}'" in refused(infer(served, animal.name, {"inputs": columns(animal)[1:]}))


def test_unknown_models_versions_paths_and_methods(served: Zoo) -> None:
    body = {"inputs": matrix(served.animals["wine"])}
    assert refused(infer(served, "nobody", body), 404) == "Model nobody not found"
    answer = served.client.post("/v2/models/wine/versions/v0/infer", json=body)
    assert refused(answer, 404) == "Model wine with version v0 not found"
    assert refused(served.client.get("/v2/nowhere"), 404)
    answer = served.client.get("/v2/models/wine/infer")
    assert refused(answer, 405)
    assert answer.headers["allow"] == "POST"
    assert refused(served.client.post("/v2/models/wine", json={}), 405)


def test_a_body_over_the_limit_is_413_in_the_shape_of_v2(served: Zoo) -> None:
    assert "limit" in refused(infer(served, "wine", b" " * 5_000_000), 413)


def test_wine_answers_one_row_with_shape_one_one(served: Zoo) -> None:
    row = WINE.head(1).to_numpy().tolist()
    answer = good(infer(served, "wine", {"inputs": [{"name": "x", "shape": [1, 13], "datatype": "FP64", "data": row}]}))
    assert answer["outputs"][0]["shape"] == [1, 1]
