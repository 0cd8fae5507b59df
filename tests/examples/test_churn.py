"""examples/churn answers what the churn service answered, and refuses what that got silently wrong."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest

from support.examples import KINDS, Examples, answer, real_data, refusal
from support.server import LagarServer

pytestmark = pytest.mark.slow  # trains the tutorial's model and serves it, on generated data and on the real

real_only = pytest.mark.parametrize("churn", ["real"], indirect=True, scope="module")
"""The recorded answers belong to the model of the real data."""


class Served(NamedTuple):
    kind: str
    url: str
    folder: Path
    model: tuple[Any, Any]
    printed: str

    def probability(self, customers: list[dict[str, Any]]) -> list[float]:
        """In process, as the tutorial's script does it."""
        vectoriser, model = self.model
        answers: list[float] = model.predict_proba(vectoriser.transform(customers))[:, 1].tolist()
        return answers


@pytest.fixture(scope="module", params=KINDS)
def churn(
    request: pytest.FixtureRequest, examples: Examples, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    printed = examples.train("churn", request.param)
    folder = examples.folder("churn", request.param)
    model = pickle.loads((folder / "churn-model.bin").read_bytes())
    with LagarServer(folder, home=tmp_path_factory.mktemp("home")) as server:
        yield Served(request.param, server.url, folder, model, printed)


@pytest.fixture
def customer(churn: Served) -> dict[str, Any]:
    return dict(json.loads((churn.folder / "customer.json").read_text()))


def tutorial_customer(name: str) -> dict[str, Any]:
    return dict(json.loads((real_data() / "churn" / f"{name}.json").read_text()))


def held_out(examples: Examples, kind: str) -> pd.DataFrame:
    """The rows that training kept for the test, prepared as train.py prepares them, with their ids."""
    script = (
        "import sys, pathlib, train; from sklearn.model_selection import train_test_split;"
        "table = train.prepare(train.read_customers(pathlib.Path(sys.argv[1])));"
        "train_test_split(table, test_size=0.2, random_state=1)[1].to_json('held-out.json', orient='records')"
    )
    examples.python("churn", kind, "-c", script, str(real_data()))
    return pd.DataFrame(json.loads((examples.folder("churn", kind) / "held-out.json").read_text()))


def test_one_customer_gets_the_decision_and_its_probability(churn: Served, customer: dict[str, Any]) -> None:
    (probability,) = churn.probability([customer])
    assert answer(churn.url + "/predict", customer) == {
        "churn": probability >= 0.5,
        "churn_probability": probability,
    }


def test_a_list_of_customers_which_was_a_500_gets_a_list(churn: Served, customer: dict[str, Any]) -> None:
    customers = [customer, customer | {"tenure": 1, "contract": "month-to-month"}]
    answers = answer(churn.url + "/predict", customers)
    assert [one["churn_probability"] for one in answers] == churn.probability(customers)


def test_an_extra_key_changes_nothing(churn: Served, customer: dict[str, Any]) -> None:
    with_id = answer(churn.url + "/predict", {"customerid": "8879-zkjof"} | customer)
    assert with_id == answer(churn.url + "/predict", customer)


def test_training_reaches_the_book_s_figures(churn: Served) -> None:
    if churn.kind == "generated":
        assert "trained on 2400 customers" in churn.printed
        return
    assert "area under the ROC curve on 1409 others: 0.8579752889813339\n" in churn.printed
    assert "accuracy at 0.5: 0.8126330731014905\n" in churn.printed


@real_only
@pytest.mark.parametrize(
    ("name", "churns", "probability"),
    [("cliente-8879-zkjof", False, 0.05960590758316391), ("cliente-zoomcamp", True, 0.6430619752152091)],
)
def test_the_tutorial_s_customers_get_the_printed_probabilities(
    churn: Served, name: str, churns: bool, probability: float
) -> None:
    got = answer(churn.url + "/predict", tutorial_customer(name))
    assert got == {"churn": churns, "churn_probability": pytest.approx(probability, abs=1e-6)}


@real_only
def test_every_test_customer_gets_the_recorded_probability(churn: Served, examples: Examples) -> None:
    """To 2e-6: liblinear stops unconverged, so processors differ after that; see train.py."""
    expected = pd.read_csv(real_data() / "expected" / "4-churn-test-predictions.csv")
    customers = held_out(examples, churn.kind)
    assert customers["customerid"].tolist() == expected["customerid"].tolist()
    answers = answer(churn.url + "/predict", customers.to_dict(orient="records"))
    assert [one["churn_probability"] for one in answers] == pytest.approx(expected["p"].tolist(), abs=2e-6)
    assert sum(one["churn"] for one in answers) == 326


def test_every_test_customer_gets_the_recorded_probability_to_the_last_digit(
    examples: Examples, tmp_path: Path
) -> None:
    """With the alphabetical columns of the recording and the kernels of linear algebra it was made with."""
    if "avx512f" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("the recording was made with OpenBLAS's kernels for AVX-512, which this processor has not")
    data = real_data()
    folder = examples.folder("churn", "sorted")
    script = (
        "import sys, pathlib, pickle, train; from sklearn.model_selection import train_test_split;"
        "table = train.prepare(train.read_customers(pathlib.Path(sys.argv[1])));"
        "rows, _ = train_test_split(table, test_size=0.2, random_state=1);"
        "pickle.dump(train.train(rows, sort=True), open('churn-model.bin', 'wb'))"
    )
    kernels = {"OPENBLAS_CORETYPE": "SkylakeX"}
    examples.python("churn", "sorted", "-c", script, str(data), environment=kernels)
    expected = pd.read_csv(data / "expected" / "4-churn-test-predictions.csv")
    with LagarServer(folder, home=tmp_path / "home", env=kernels) as server:
        answers = answer(server.url + "/predict", held_out(examples, "sorted").to_dict(orient="records"))
        seed = answer(server.url + "/predict", tutorial_customer("cliente-8879-zkjof"))
        course = answer(server.url + "/predict", tutorial_customer("cliente-zoomcamp"))
    assert [one["churn_probability"] for one in answers] == expected["p"].tolist()
    assert seed["churn_probability"] == pytest.approx(0.05960570371897223, rel=1e-15)
    assert course["churn_probability"] == pytest.approx(0.6430619752152091, rel=1e-15)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tenure", "41"),  # was 200 with 0.4503
        ("contract", "three_year"),  # was 200 with 0.0690
        ("gender", "Female"),  # was 200 with 0.0626
        ("tenure", None),  # was 500
        ("tenure", [41]),  # was 500
        ("tenure", -1),
        ("tenure", 4.5),
        ("seniorcitizen", 2),
        ("monthlycharges", -0.01),
        ("totalcharges", "3320.75"),
        ("contract", 1),
        ("partner", True),
    ],
)
def test_what_was_answered_with_a_wrong_number_is_refused_by_its_field(
    churn: Served, customer: dict[str, Any], field: str, value: Any
) -> None:
    error = refusal(churn.url + "/predict", customer | {field: value})
    assert (error["code"], error["field"], error["row"]) == ("invalid_input", field, 0)


def test_a_refused_category_is_told_with_those_that_are_known(churn: Served, customer: dict[str, Any]) -> None:
    message = refusal(churn.url + "/predict", customer | {"contract": "three_year"})["message"]
    for known in ("month-to-month", "one_year", "two_year"):
        assert known in message


def test_an_empty_customer_which_was_answered_is_refused(churn: Served) -> None:
    error = refusal(churn.url + "/predict", {})
    assert error["code"] == "invalid_input"
    assert error["field"] is not None


def test_a_missing_field_which_was_answered_is_named(churn: Served, customer: dict[str, Any]) -> None:
    del customer["tenure"]
    error = refusal(churn.url + "/predict", customer)
    assert (error["code"], error["field"]) == ("invalid_input", "tenure")


def test_in_a_list_the_wrong_customer_is_named_by_its_row(churn: Served, customer: dict[str, Any]) -> None:
    error = refusal(churn.url + "/predict", [customer, customer, customer | {"gender": "Female"}])
    assert (error["field"], error["row"]) == ("gender", 2)


def test_a_probability_is_the_same_alone_and_in_a_list(churn: Served, customer: dict[str, Any]) -> None:
    alone = answer(churn.url + "/predict", customer)["churn_probability"]
    among = answer(churn.url + "/predict", [customer] * 7)[3]["churn_probability"]
    assert among == pytest.approx(alone, rel=1e-13)
