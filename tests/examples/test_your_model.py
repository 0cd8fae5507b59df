"""examples/your-model: every table with every algorithm answers over HTTP what the model answers in process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import joblib
import numpy as np
import pandas as pd
import pytest

from support.examples import Examples, answer, real_data, refusal
from support.server import LagarServer

pytestmark = pytest.mark.slow  # trains and serves a model for each table and algorithm

DATASETS = ("iris", "california", "bank", "air-quality")
ALGORITHMS = ("forest", "tree", "linear", "extra-trees", "lightgbm", "xgboost")
PAIRS = [f"{dataset}-{algorithm}" for dataset in DATASETS for algorithm in ALGORITHMS]
REAL = ["iris-tree", "california-linear", "california-xgboost", "bank-lightgbm", "bank-linear", "air-quality-forest"]
"""Enough pairs to send every real table, and not all: training them takes minutes."""


class Served(NamedTuple):
    url: str
    folder: Path

    def model(self, name: str) -> Any:
        return _loaded(self.folder / "models" / name / "model.joblib")

    def records(self, name: str) -> list[dict[str, Any]]:
        return list(json.loads((self.folder / "models" / name / "example.json").read_text()))

    def predict(self, name: str) -> str:
        return f"{self.url}/models/{name}/predict"


@cache
def _loaded(path: Path) -> Any:
    return joblib.load(path)


def train(examples: Examples, kind: str, names: list[str]) -> Path:
    """The folder with the trained models; one process trains them all, since the imports take longer than most."""
    data = ["--data", str(real_data())] if kind == "real" else []
    runs = []
    for name in names:
        dataset = next(dataset for dataset in DATASETS if name.startswith(dataset))
        runs.append(["--dataset", dataset, "--algorithm", name.removeprefix(f"{dataset}-"), *data])
    examples.python("your-model", kind, "-c", f"import train\nfor run in {runs!r}: train.main(run)")
    return examples.folder("your-model", kind)


@pytest.fixture(scope="module")
def generated(examples: Examples, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = train(examples, "generated", PAIRS)
    with LagarServer(folder / "models", home=tmp_path_factory.mktemp("home"), timeout_s=180) as server:
        yield Served(server.url, folder)


@pytest.fixture(scope="module")
def real(examples: Examples, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = train(examples, "real", REAL)
    with LagarServer(folder / "models", home=tmp_path_factory.mktemp("home"), timeout_s=180) as server:
        yield Served(server.url, folder)


def same_as_in_process(served: Served, name: str, table: pd.DataFrame) -> None:
    """The native answer against predict and predict_proba of the same rows, digit by digit.

    A sum of products depends in its last bit on how the matrix lies in memory, and a table is not laid out as a body
    is: linear models agree to 1e-13.
    """
    model = served.model(name)
    records = [
        {key: None if isinstance(value, float) and np.isnan(value) else value for key, value in record.items()}
        for record in table.to_dict(orient="records")
    ]
    native = answer(served.predict(name), records)
    same = partial(pytest.approx, rel=1e-13) if name.endswith("-linear") else list
    assert native["predictions"] == same(model.predict(table).tolist())
    if hasattr(model, "predict_proba"):
        assert [*chain(*native["probabilities"])] == same(model.predict_proba(table).ravel().tolist())
        assert native["classes"] == model.classes_.tolist()
    else:
        assert "probabilities" not in native


def v2_answers(served: Served, name: str, table: pd.DataFrame) -> list[Any]:
    inputs = []
    for column in table.columns:
        values = table[column].tolist()
        datatype = {str: "BYTES", int: "INT64", float: "FP64"}[type(values[0])]
        inputs.append({"name": column, "shape": [len(values), 1], "datatype": datatype, "data": values})
    return list(answer(f"{served.url}/v2/models/{name}/infer", {"inputs": inputs})["outputs"][0]["data"])


@pytest.mark.parametrize("name", PAIRS)
def test_every_table_and_algorithm_answers_as_in_process(generated: Served, name: str) -> None:
    table = pd.DataFrame(generated.records(name))
    same_as_in_process(generated, name, table)
    assert (
        v2_answers(generated, name, table) == answer(generated.predict(name), table.to_dict("records"))["predictions"]
    )


@pytest.mark.parametrize("name", PAIRS)
def test_the_example_of_every_model_can_be_posted_back(generated: Served, name: str) -> None:
    example = httpx.get(f"{generated.url}/models/{name}/example")
    assert example.status_code == 200
    answer(generated.predict(name), example.content)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_unknown_cells_of_the_bank_are_values_like_others(generated: Served, algorithm: str) -> None:
    name = f"bank-{algorithm}"
    table = pd.DataFrame(generated.records(name))
    for column in ("job", "marital", "education", "default", "housing", "loan"):
        table[column] = "unknown"
        same_as_in_process(generated, name, table)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("missing", [-200.0, None])
def test_missing_readings_of_the_air_station_are_filled_by_the_model(
    generated: Served, algorithm: str, missing: float | None
) -> None:
    name = f"air-quality-{algorithm}"
    table = pd.DataFrame(generated.records(name))
    for column in ("NMHC(GT)", "T", "PT08.S1(CO)"):
        table[column] = np.nan if missing is None else missing
    same_as_in_process(generated, name, table)


def test_null_and_minus_200_are_the_same_missing_reading(generated: Served) -> None:
    (record, *_) = generated.records("air-quality-forest")
    url = generated.predict("air-quality-forest")
    null, number = (answer(url, record | {"AH": value})["predictions"] for value in (None, -200))
    assert null == number


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("bank-forest", "job", "astronaut"),
        ("bank-xgboost", "month", "May"),
        ("bank-linear", "age", "41"),
        ("bank-tree", "age", 40.5),
        ("bank-lightgbm", "euribor3m", None),
        ("iris-forest", "petal_width", -1),
        ("california-linear", "Latitude", 51.5),
        ("california-forest", "HouseAge", None),
        ("air-quality-tree", "T", "13,6"),
    ],
)
def test_what_a_model_would_answer_wrongly_is_refused_by_its_field(
    generated: Served, name: str, field: str, value: Any
) -> None:
    record = generated.records(name)[0] | {field: value}
    error = refusal(generated.predict(name), record)
    assert (error["code"], error["field"]) == ("invalid_input", field)


@pytest.mark.parametrize("name", REAL)
def test_models_of_the_real_tables_answer_as_in_process(real: Served, name: str) -> None:
    table = pd.DataFrame(real.records(name))
    same_as_in_process(real, name, table)


def test_the_bank_s_own_unknown_cells_are_answered_as_in_process(real: Served) -> None:
    table = pd.read_csv(real_data() / "tabular" / "bank" / "bank_marketing_train_data.csv")
    table = table[(table == "unknown").any(axis=1)].head(500).drop(columns=["duration", "y"])
    for name in ("bank-lightgbm", "bank-linear"):
        same_as_in_process(real, name, table.reset_index(drop=True))


def test_the_air_station_s_own_missing_readings_are_answered_as_in_process(real: Served) -> None:
    file = real_data() / "tabular" / "air-quality" / "AirQualityUCI.csv"
    table = pd.read_csv(file, sep=";", decimal=",").dropna(how="all")
    columns = list(real.records("air-quality-forest")[0])
    table = table.loc[(table[columns] == -200).any(axis=1), columns].astype(float).head(500)
    same_as_in_process(real, "air-quality-forest", table.reset_index(drop=True))
