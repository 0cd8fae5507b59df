"""MLflow's own scoring client, and its own ways to write and read bodies, against /invocations."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import requests
from mlflow.deployments import PredictionsResponse
from mlflow.pyfunc.scoring_server import client as scoring
from mlflow.utils.proto_json_utils import dump_input_data
from verdicts import Case, Judge, refusal

judge = Judge("MLflow")


def client(case: Case) -> scoring.ScoringServerClient:
    host, port = case.http.split(":")
    return scoring.ScoringServerClient(host, int(port))


def frame(case: Case) -> pd.DataFrame:
    return pd.DataFrame(case.wine["rows"], columns=case.wine["names"])


def post(case: Case, body: str | bytes, media: str) -> requests.Response:
    return requests.post(f"{case.url}/invocations", data=body, headers={"Content-Type": media}, timeout=60)


@judge.feature("`/ping`, `/health`, `/version`")
def ping(case: Case) -> None:
    asked = client(case)
    asked.ping()
    asked.wait_server_ready(timeout=60)
    assert asked.get_version()
    assert requests.get(f"{case.url}/health", timeout=60).status_code == 200


@judge.feature("DataFrames (`dataframe_split`)")
def frames(case: Case) -> None:
    found = client(case).invoke(frame(case)).get_predictions()
    assert found[0].tolist() == case.wine["labels"]


@judge.feature("arrays and lists by name (`inputs`)")
def arrays(case: Case) -> None:
    found = client(case).invoke(frame(case).to_numpy()).get_predictions(predictions_format="ndarray")
    assert found.ravel().tolist() == case.wine["labels"]
    answer = post(case, json.dumps({"inputs": frame(case).to_dict(orient="list")}), "application/json")
    assert PredictionsResponse.from_json(answer.text).get_predictions()[0].tolist() == case.wine["labels"]


@judge.feature("`dataframe_records` and `instances`")
def records(case: Case) -> None:
    rows = frame(case).to_dict(orient="records")
    for key in ("dataframe_records", "instances"):
        answer = post(case, dump_input_data(rows, inputs_key=key), "application/json")
        assert answer.status_code == 200, answer.text
        assert PredictionsResponse.from_json(answer.text).get_predictions()[0].tolist() == case.wine["labels"]


@judge.feature("CSV")
def csv(case: Case) -> None:
    answer = post(case, frame(case).to_csv(index=False), "text/csv")
    assert PredictionsResponse.from_json(answer.text).get_predictions()[0].tolist() == case.wine["labels"]


@judge.feature("`params` that the model does not have")
def params(case: Case) -> None:
    error = refusal(Exception, lambda: client(case).invoke(frame(case), params={"temperature": 0.5}))
    assert "error code 400" in str(error), error
    assert "temperature" in str(error)
    assert client(case).invoke(frame(case), params={}).get_predictions()[0].tolist() == case.wine["labels"]


@judge.feature("errors: status, `error_code` and words")
def errors(case: Case) -> None:
    error = refusal(Exception, lambda: client(case).invoke(frame(case).drop(columns=case.wine["names"][0])))
    assert "error code 400" in str(error)
    assert "INVALID_PARAMETER_VALUE" in str(error)
    assert case.wine["names"][0] in str(error)
    answer = post(case, b"x", "image/png")
    assert answer.status_code == 415
    assert list(answer.json()) == ["error_code", "message"]


@judge.feature("missing values that the model does not take")
def missing(case: Case) -> None:
    table = frame(case)
    table.iloc[1, 2] = np.nan
    error = refusal(Exception, lambda: client(case).invoke(table))  # its client writes NaN, which is not JSON
    assert "error code 400" in str(error), error
    row = [*case.wine["rows"][0][:2], None, *case.wine["rows"][0][3:]]
    answer = post(
        case, json.dumps({"dataframe_split": {"columns": case.wine["names"], "data": [row]}}), "application/json"
    )
    assert answer.status_code == 400
    assert "row 0" in answer.json()["message"], answer.text


if __name__ == "__main__":
    judge.main()
