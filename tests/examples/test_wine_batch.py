"""examples/wine-batch answers what the FastAPI wine server answered, and refuses cleanly where that broke."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import pandas as pd
import pytest
from sklearn.pipeline import Pipeline

from support.examples import KINDS, Examples, answer, post, real_data, refusal
from support.server import LagarServer

pytestmark = pytest.mark.slow  # trains the tutorial's model and serves it, on generated data and on the real

BATCH_0 = [0, 0, 2, 0, 1, 0, 1, 2, 1, 2, 1, 1, 0, 2, 0, 1, 1, 1, 0, 1, 0, 1, 1, 2, 2, 2, 1, 1, 1, 0, 0, 1]
BATCH_1 = [2, 1, 1, 0, 1, 0, 0, 1, 0, 0, 2, 1, 1, 1, 0, 1, 1, 1, 2, 2, 0, 1, 2, 2, 1, 1, 0, 1, 2, 2, 1, 2]


class Served(NamedTuple):
    url: str
    model: Pipeline
    requests: Path
    printed: str


@pytest.fixture(scope="module", params=KINDS)
def wine(
    request: pytest.FixtureRequest, examples: Examples, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    printed = examples.train("wine-batch", request.param)
    folder = examples.folder("wine-batch", request.param)
    with LagarServer(folder, home=tmp_path_factory.mktemp("home")) as server:
        yield Served(server.url, joblib.load(folder / "model.joblib"), folder / "wine-examples", printed)


def wine_of(served: Served, name: str = "1") -> dict[str, Any]:
    return dict(json.loads((served.requests / f"{name}.json").read_text()))


def test_training_reaches_the_tutorial_s_accuracy(wine: Served) -> None:
    assert "accuracy on all 178 wines: 0.9775280898876404\n" in wine.printed


@pytest.mark.parametrize("label", [0, 1, 2])
def test_one_named_wine_gets_one_class(wine: Served, label: int) -> None:
    record = wine_of(wine, str(label))
    assert answer(wine.url + "/predict", record) == {"Prediction": int(wine.model.predict(pd.DataFrame([record]))[0])}


def test_the_order_of_the_names_does_not_matter(wine: Served) -> None:
    record = wine_of(wine)
    assert answer(wine.url + "/predict", dict(reversed(record.items()))) == answer(wine.url + "/predict", record)


def test_a_batch_gets_a_class_for_each_wine_in_order(wine: Served) -> None:
    body = (wine.requests / "batch_0.json").read_bytes()
    assert answer(wine.url + "/predict", body) == {"Prediction": BATCH_0}


def test_a_batch_of_one_is_answered_with_a_list(wine: Served) -> None:
    assert answer(wine.url + "/predict", {"batches": [list(wine_of(wine, "2").values())]}) == {"Prediction": [2]}


@pytest.mark.parametrize("rows", [1, 32, 64])
def test_the_load_test_s_wines_of_ones_are_class_1(wine: Served, rows: int) -> None:
    assert answer(wine.url + "/predict", {"batches": [[1.0] * 13] * rows}) == {"Prediction": [1] * rows}
    assert answer(wine.url + "/predict", dict.fromkeys(wine_of(wine), 1.0)) == {"Prediction": 1}


@pytest.mark.parametrize("name", ["0", "1", "2"])
def test_the_tutorial_s_single_requests_get_the_tutorial_s_classes(wine: Served, name: str) -> None:
    body = (real_data() / "wine-batch" / "no-batch" / f"{name}.json").read_bytes()
    assert answer(wine.url + "/predict", body) == {"Prediction": int(name)}


@pytest.mark.parametrize(("name", "classes"), [("batch_0", BATCH_0), ("batch_1", BATCH_1)])
def test_the_tutorial_s_batches_get_the_tutorial_s_classes(wine: Served, name: str, classes: list[int]) -> None:
    body = (real_data() / "wine-batch" / "with-batch" / f"{name}.json").read_bytes()
    assert answer(wine.url + "/predict", body) == {"Prediction": classes}


def test_the_probabilities_of_the_tutorial_s_wines_are_exact(wine: Served) -> None:
    """The native answer is the handlers'; V2 carries the model's own outputs."""
    rows = [
        list(json.loads((real_data() / "wine-batch" / "no-batch" / f"{name}.json").read_text()).values())
        for name in ("0", "1", "2")
    ]
    body = {
        "inputs": [{"name": "wine", "shape": [3, 13], "datatype": "FP64", "data": rows}],
        "outputs": [{"name": "predict_proba"}],
    }
    (output,) = answer(wine.url + "/v2/models/wine/infer", body)["outputs"]
    assert output["shape"] == [3, 3]
    assert output["data"] == [0.8, 0.2, 0.0, 0.0, 0.9, 0.1, 0.0, 0.0, 1.0]


def test_a_missing_measurement_is_named(wine: Served) -> None:
    record = wine_of(wine)
    del record["hue"]
    error = refusal(wine.url + "/predict", record)
    assert (error["code"], error["field"]) == ("invalid_input", "hue")


@pytest.mark.parametrize("value", ["abc", "1.04", None, True, [1.0]])
def test_a_measurement_that_is_no_number_is_named(wine: Served, value: Any) -> None:
    error = refusal(wine.url + "/predict", wine_of(wine) | {"hue": value})
    assert (error["code"], error["field"], error["row"]) == ("invalid_input", "hue", 0)


@pytest.mark.parametrize("token", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_what_was_a_500_for_numbers_that_are_none_is_a_400(wine: Served, token: str) -> None:
    single = json.dumps(wine_of(wine) | {"hue": "?"}).replace('"?"', token)
    refusal(wine.url + "/predict", single)
    refusal(wine.url + "/predict", f'{{"batches": [[{", ".join([token] * 13)}]]}}')


def test_what_was_a_500_for_an_empty_batch_is_a_400(wine: Served) -> None:
    assert refusal(wine.url + "/predict", {"batches": []})["code"] == "invalid_input"


@pytest.mark.parametrize("width", [12, 14])
def test_a_wine_with_too_few_or_too_many_measurements_is_named_by_its_row(wine: Served, width: int) -> None:
    error = refusal(wine.url + "/predict", {"batches": [[1.0] * 13, [1.0] * width]})
    assert (error["code"], error["row"]) == ("invalid_input", 1)
    assert str(width) in error["message"]


@pytest.mark.parametrize(
    "body", [{"batches": [1.0] * 13}, {"wines": [[1.0] * 13]}, {"batches": [[None] * 13]}, "{bad", ""]
)
def test_a_body_of_another_shape_is_refused(wine: Served, body: Any) -> None:
    refusal(wine.url + "/predict", body)


def test_get_on_predict_and_an_unknown_path_have_their_own_answers(wine: Served) -> None:
    import httpx

    assert httpx.get(wine.url + "/predict").status_code == 405
    assert post(wine.url + "/predictions", {}).status_code == 404
