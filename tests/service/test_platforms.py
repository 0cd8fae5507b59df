"""Vertex AI's contract, and a model that only mlflow can open, behind real HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from support.keys import key_for
from support.server import LagarServer, lagar

pytest.importorskip("mlflow", reason="mlflow-skinny is not installed")

MODEL = """
import mlflow.pyfunc
import pandas as pd
from mlflow.models import set_model


class Words(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        long = model_input["text"].str.len() >= params["least"]
        if (model_input["text"] == "fail").any():
            raise ZeroDivisionError("of the model")
        return pd.DataFrame({"text": model_input["text"], "long": long})


set_model(Words())
"""
ROUTE = "/v1/endpoints/42/deployedModels/7"


class Vertex(NamedTuple):
    server: LagarServer
    client: httpx.Client


@pytest.fixture(scope="module")
def vertex(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vertex]:
    """A server as Vertex AI starts it: no arguments but our own port, everything else in its variables."""
    import warnings

    import mlflow
    import pandas as pd
    from mlflow.models import infer_signature

    folder = tmp_path_factory.mktemp("vertex")
    (folder / "words.py").write_text(MODEL)
    frame = pd.DataFrame({"text": ["one", "three"]})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.pyfunc.save_model(
            folder / "words",
            python_model=str(folder / "words.py"),
            signature=infer_signature(frame, params={"least": 4}),
            pip_requirements=["mlflow"],
        )
    env = {
        "AIP_HTTP_PORT": "8080",
        "AIP_PREDICT_ROUTE": f"{ROUTE}:predict",
        "AIP_HEALTH_ROUTE": ROUTE,
        "AIP_STORAGE_URI": str(folder / "words"),
    }
    home = folder / "home"
    key = key_for(home, "infer")
    with (
        LagarServer(home=home, env=env, args=["--trust"]) as server,
        httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {key}"}, timeout=60) as client,
    ):
        yield Vertex(server, client)


def test_vertex_asks_at_the_routes_that_it_has_chosen(vertex: Vertex) -> None:
    body = {"instances": [{"text": "one"}, {"text": "three"}]}
    expected = {"predictions": [{"text": "one", "long": False}, {"text": "three", "long": True}]}
    answer = vertex.client.post(f"{ROUTE}:predict", json=body)
    assert (answer.status_code, answer.json()) == (200, expected)
    slow = vertex.client.post(
        f"{ROUTE}:predict", json={**body, "parameters": {"least": 1}}, headers={"Accept": "*/*;q=1"}
    )
    assert [row["long"] for row in slow.json()["predictions"]] == [True, True]
    assert vertex.client.post("/invocations", json=body).json() == expected


def test_health_is_open_and_predictions_are_not(vertex: Vertex) -> None:
    assert httpx.get(vertex.server.url + ROUTE).status_code == 200
    assert httpx.get(vertex.server.url + "/ping").status_code == 200
    for path in (f"{ROUTE}:predict", "/invocations", "/v1/models/words:predict"):
        assert httpx.post(vertex.server.url + path, json={"instances": [{"text": "x"}]}).status_code == 401, path
    assert httpx.get(vertex.server.url + "/v1/models").status_code == 401
    assert httpx.get(vertex.server.url + "/version").status_code == 401
    assert httpx.get(vertex.server.url + "/v1/models/words").status_code == 200


def test_a_model_that_mlflow_opens_answers_every_protocol_from_a_process_of_its_own(vertex: Vertex) -> None:
    native = vertex.client.post("/models/words/predict", json=[{"text": "one"}, {"text": "three", "params.least": 1}])
    assert native.json()["long"] == [False, True]
    tensor = {"name": "text", "shape": [2], "datatype": "BYTES", "data": ["one", "three"]}
    v2 = vertex.client.post("/v2/models/words/infer", json={"inputs": [tensor], "outputs": [{"name": "long"}]})
    assert v2.json()["outputs"][0]["data"] == [False, True]
    hosts = [pid for pid, command in vertex.server.children().items() if "lagar.engine.hosting" in command]
    assert len(hosts) == 1
    for pid in vertex.server.workers():
        assert "mlflow" not in Path(f"/proc/{pid}/maps").read_text()


def test_the_models_own_failure_is_a_500_and_never_shows_its_words(vertex: Vertex) -> None:
    answer = vertex.client.post("/invocations", json={"instances": [{"text": "fail"}]})
    assert (answer.status_code, answer.json()["error_code"]) == (500, "INTERNAL_ERROR")
    assert "of the model" not in answer.text
    assert vertex.client.post("/invocations", json={"instances": [{"text": "one"}]}).status_code == 200


def test_a_container_without_a_key_and_without_the_word_for_none_does_not_start(tmp_path: Path) -> None:
    done = lagar("serve", home=tmp_path / "home", env={"SAGEMAKER_BIND_TO_PORT": "8080"})
    assert done.returncode == 2
    assert "host 0.0.0.0 can be reached by others" in done.stderr
    assert "--no-auth" in done.stderr
