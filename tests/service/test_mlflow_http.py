"""MLflow's and KServe's V1 protocols over real HTTP: mlflow's own client, every kind of model, one engine."""

from __future__ import annotations

import json
from typing import Any

import httpx
import numpy as np
import pytest

import lagar
from service.conftest import NAMES, Zoo
from service.zoo import Animal


@pytest.fixture(params=NAMES)
def animal(request: pytest.FixtureRequest, served: Zoo) -> Animal:
    return served.animals[request.param]


def predictions(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert list(body) == ["predictions"]
    return body["predictions"]


def native_outputs(served: Zoo, animal: Animal) -> list[Any]:
    """What the native protocol answers to the same rows."""
    native = served.client.post(f"/models/{animal.name}/predict", json=animal.records)
    assert native.status_code == 200, native.text
    return list(native.json()["predictions"])


def test_v1_answers_what_the_native_protocol_answers(served: Zoo, animal: Animal) -> None:
    answer = served.client.post(f"/v1/models/{animal.name}:predict", json={"instances": animal.records})
    assert predictions(answer) == native_outputs(served, animal)
    version = served.client.get(f"/models/{animal.name}").json()["live"]
    path = f"/v1/models/{animal.name}/versions/{version}:predict"
    assert predictions(served.client.post(path, json={"inputs": animal.records})) == native_outputs(served, animal)


@pytest.fixture
def grapes(served: Zoo) -> Animal:
    return served.animals["wine"]


def test_invocations_answers_for_the_default_model_in_every_shape(served: Zoo, grapes: Animal) -> None:
    names = list(grapes.records[0])
    table = [list(record.values()) for record in grapes.records]
    split = {"columns": names, "index": list(range(len(table))), "data": table}
    bodies = [
        {"dataframe_split": split},
        {"dataframe_records": grapes.records},
        {"instances": grapes.records},
        {"inputs": {name: [record[name] for record in grapes.records] for name in names}},
        {"inputs": table},
    ]
    expected = grapes.expected["predictions"]
    for body in bodies:
        assert predictions(served.client.post("/invocations", json=body)) == expected, list(body)
    csv = "\n".join([",".join(names), *(",".join(map(str, row)) for row in table)])
    answer = served.client.post("/invocations", content=csv, headers={"Content-Type": "text/csv"})
    assert predictions(answer) == expected


def test_mlflows_own_client_asks_and_is_answered(served: Zoo, grapes: Animal) -> None:
    pd = pytest.importorskip("pandas")
    scoring = pytest.importorskip("mlflow.pyfunc.scoring_server.client", reason="mlflow-skinny is not installed")
    client = scoring.ScoringServerClient("127.0.0.1", served.server.port)
    client.wait_server_ready(timeout=60)
    assert client.get_version() == lagar.__version__
    frame = pd.DataFrame(grapes.records)
    expected = grapes.expected["predictions"]
    assert client.invoke(frame).get_predictions()[0].tolist() == expected
    assert client.invoke(frame.to_numpy())["predictions"] == expected
    with pytest.raises(Exception, match=r"error code 400.*INVALID_PARAMETER_VALUE.*'hue' is missing"):
        client.invoke(frame.drop(columns="hue"))


def test_both_are_counted_by_protocol(served: Zoo, grapes: Animal) -> None:
    served.client.post("/invocations", json={"inputs": grapes.records})
    served.client.post("/v1/models/wine:predict", json={"instances": grapes.records})
    served.client.post("/v1/models/wine:predict", json={"instances": []})
    text = served.client.get("/metrics").text
    for protocol, status in (("mlflow", 200), ("v1", 200), ("v1", 400)):
        assert f'lagar_requests_total{{model="wine",protocol="{protocol}",status="{status}"' in text


def test_errors_have_the_shape_of_the_path_that_was_asked(served: Zoo) -> None:
    client = served.client
    refused = client.post("/invocations", content=b"{")
    assert (refused.status_code, refused.json()["error_code"]) == (400, "BAD_REQUEST")
    assert client.post("/invocations", content=b"x", headers={"Content-Type": "image/png"}).status_code == 415
    wrong = client.get("/invocations")
    assert (wrong.status_code, wrong.headers["allow"], wrong.json()["error_code"]) == (405, "POST", "BAD_REQUEST")
    unknown = client.post("/v1/models/nobody:predict", json={"instances": [1]})
    assert (unknown.status_code, unknown.json()) == (404, {"error": "Model nobody not found"})
    assert client.get("/v1/models/wine:predict").status_code == 405
    explain = client.post("/v1/models/wine:explain", json={"instances": [1]})
    assert (explain.status_code, explain.json()) == (
        404, {"error": "there is no ':explain' here: models answer ':predict'"},
    )  # fmt: skip
    for path in ("/v1/models/wine/metadata", "/v1/nothing"):
        nowhere = client.get(path)
        assert (nowhere.status_code, type(nowhere.json()["error"])) == (404, str), path


def test_models_are_listed_and_each_is_ready(served: Zoo) -> None:
    assert set(served.client.get("/v1/models").json()["models"]) == set(NAMES)
    assert served.client.get("/v1/models/wine").json() == {"name": "wine", "ready": True}
    assert served.client.get("/v1/models/nobody").status_code == 404
    for path in ("/v1/models", "/v1/models/wine", "/version"):
        assert served.client.post(path, json={}).status_code == 405, path


def test_the_version_is_lagars_own(served: Zoo) -> None:
    answer = served.client.get("/version")
    assert (answer.status_code, answer.text) == (200, lagar.__version__)


def test_both_lanes_answer_alike(served: Zoo, grapes: Animal) -> None:
    """`Accept: text/plain, */*` is no header of the fast lane."""
    body = json.dumps({"instances": [list(record.values()) for record in grapes.records]})
    for path in ("/invocations", "/v1/models/wine:predict"):
        quick = served.client.post(path, content=body, headers={"Content-Type": "application/json"})
        slow = served.client.post(path, content=body, headers={"Accept": "text/plain, */*"})
        assert predictions(quick) == predictions(slow)


def test_numbers_of_a_regressor_are_the_same_to_the_last_bit(served: Zoo) -> None:
    animal = served.animals["regressor"]
    answer = served.client.post("/v1/models/regressor:predict", json={"instances": animal.records})
    assert np.array_equal(predictions(answer), animal.expected["predictions"])
