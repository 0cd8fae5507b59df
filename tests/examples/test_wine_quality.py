"""examples/wine-quality answers in the Flask app's words, and refuses what made that app fail."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import joblib
import pandas as pd
import pytest

from support.examples import KINDS, Examples, answer, real_data, refusal
from support.server import LagarServer

pytestmark = pytest.mark.slow  # trains the tutorial's models, several times

WORDS = {0: "bom", 1: "ruim"}

real_only = pytest.mark.parametrize("quality", ["real"], indirect=True, scope="module")
"""The recorded answers belong to the model of the real data."""


class Served(NamedTuple):
    kind: str
    url: str
    model: Any
    folder: Path
    printed: str

    def wine(self, name: str) -> dict[str, Any]:
        return dict(json.loads((self.folder / f"{name}.json").read_text()))


@pytest.fixture(scope="module", params=KINDS)
def quality(
    request: pytest.FixtureRequest, examples: Examples, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    printed = examples.train("wine-quality", request.param)
    folder = examples.folder("wine-quality", request.param)
    with LagarServer(folder, home=tmp_path_factory.mktemp("home")) as server:
        yield Served(request.param, server.url, joblib.load(folder / "model.joblib"), folder, printed)


def probabilities(served: Served, body: dict[str, Any]) -> list[float]:
    """p(bom) and p(ruim) over V2, which carries the model's own outputs."""
    inputs = [
        {"name": name, "shape": [1, 1], "datatype": "FP64", "data": [body[name]]}
        for name in served.model.feature_names_in_
    ]
    asked = {"inputs": inputs, "outputs": [{"name": "predict_proba"}]}
    data: list[float] = answer(served.url + "/v2/models/wine-quality/infer", asked)["outputs"][0]["data"]
    return data


def test_training_prints_the_tutorial_s_numbers(quality: Served) -> None:
    if quality.kind == "generated":
        assert "accuracy on the 440 held-out wines: 0.9" in quality.printed
        return
    assert "accuracy on the 1430 held-out wines: 0.8783216783216783\n" in quality.printed
    assert "[[209, 84], [90, 1047]]" in quality.printed


@pytest.mark.parametrize("name", ["bom", "ruim"])
def test_a_wine_is_answered_with_a_bare_list_of_one_word(quality: Served, name: str) -> None:
    assert answer(quality.url + "/predict", quality.wine(name)) == [name]


def test_several_wines_are_answered_in_order(quality: Served) -> None:
    wines = [quality.wine("ruim"), quality.wine("bom"), quality.wine("ruim")]
    assert answer(quality.url + "/predict", wines) == ["ruim", "bom", "ruim"]


def test_keys_may_come_in_any_order(quality: Served) -> None:
    assert answer(quality.url + "/predict", dict(reversed(quality.wine("ruim").items()))) == ["ruim"]


def test_an_extra_key_never_reaches_the_model(quality: Served) -> None:
    for level in (3, 9):
        assert answer(quality.url + "/predict", quality.wine("bom") | {"quality": level}) == ["bom"]


def test_the_example_can_be_posted_back(quality: Served) -> None:
    example = httpx.get(quality.url + "/models/wine-quality/example")
    assert example.status_code == 200
    assert answer(quality.url + "/predict", example.content) == ["ruim"]


@real_only
@pytest.mark.parametrize("name", ["bom", "ruim"])
def test_the_tutorial_s_two_bodies_are_the_same_bad_wine(quality: Served, name: str) -> None:
    body = json.loads((real_data() / "wine-quality" / f"{name}.json").read_text())
    assert answer(quality.url + "/predict", body) == ["ruim"]
    assert probabilities(quality, body)[1] == 0.8574403724879971


@real_only
def test_the_tutorial_s_good_wine_is_good_in_spite_of_its_extra_key(quality: Served) -> None:
    body = json.loads((real_data() / "wine-quality" / "bom-readme-current.json").read_text())
    assert "quality" in body
    assert answer(quality.url + "/predict", body) == ["bom"]
    assert probabilities(quality, body)[0] == 0.8726547915045628


def test_all_wines_of_the_file_get_the_model_s_word(quality: Served) -> None:
    if quality.kind == "generated":
        wines = pd.DataFrame([quality.wine("bom"), quality.wine("ruim")])
    else:
        wines = pd.read_csv(real_data() / "wine-quality" / "winequality-merged.csv")
        wines["color"] = (wines["color"] == "white").astype(int)
    answers = answer(quality.url + "/predict", wines.to_dict(orient="records"))
    assert answers == [WORDS[int(label)] for label in quality.model.predict(wines[quality.model.feature_names_in_])]
    if quality.kind == "real":
        assert (answers.count("bom"), answers.count("ruim")) == (1389, 5108)


def test_what_was_a_500_for_a_missing_key_names_it(quality: Served) -> None:
    wine = quality.wine("ruim")
    del wine["pH"]
    error = refusal(quality.url + "/predict", wine)
    assert (error["code"], error["field"], error["row"]) == ("invalid_input", "pH", 0)


@pytest.mark.parametrize("value", ["abc", "3.0", None, False])
def test_what_was_a_500_for_a_value_that_is_no_number_names_its_field(quality: Served, value: Any) -> None:
    error = refusal(quality.url + "/predict", quality.wine("ruim") | {"residual sugar": value})
    assert (error["code"], error["field"]) == ("invalid_input", "residual sugar")


@pytest.mark.parametrize(("field", "value"), [("color", 2), ("color", 0.5), ("pH", 15.0), ("alcohol", -1)])
def test_a_value_outside_the_rules_of_lagar_toml_names_its_field(quality: Served, field: str, value: float) -> None:
    error = refusal(quality.url + "/predict", quality.wine("ruim") | {field: value})
    assert (error["code"], error["field"]) == ("invalid_input", field)


@pytest.mark.parametrize("body", [{}, [], "{bad", "null"])
def test_what_was_a_500_for_a_body_of_another_shape_is_a_400(quality: Served, body: Any) -> None:
    refusal(quality.url + "/predict", body)
