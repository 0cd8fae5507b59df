"""Rows near a tie: a form in single precision shows itself there, or leans on the original."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_limits

from lagar.forms import boundaries
from lagar.forms.original import Original
from lagar.forms.proof import Exam
from lagar.forms.rows import hostile
from lagar.registry.proof import Criterion
from lagar.runtimes.comparison import NEAR, margins_of
from lagar.types import Outputs, Rows
from support.forms import matrix, opened

WINE = load_wine(return_X_y=True)
SINGLE = Criterion(absolute=1e-5)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="module")
def logistic(tmp_path_factory: pytest.TempPathFactory) -> Original:
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(*WINE)
    return opened(model, tmp_path_factory.mktemp("logistic"))


@pytest.fixture(scope="module")
def exam(logistic: Original) -> Exam:
    return Exam(logistic, hostile(logistic, size=96))


class Altered:
    """The original with a change to what it answers."""

    def __init__(self, original: Original, change: Callable[[Rows, Outputs], Outputs]) -> None:
        self._original, self._change = original, change

    def predict(self, rows: Rows, outputs: tuple[str, ...]) -> Outputs:
        answer = self._original.predictor.predict(rows, self._original.outputs)
        answer = self._change(rows, {name: values.copy() for name, values in answer.items()})
        return {name: answer[name] for name in outputs}

    def close(self) -> None:
        """Nothing to close."""


def rounded(rows: Rows, answer: Outputs) -> Outputs:
    """Shares in single precision, and the label that these give."""
    shares = answer["predict_proba"].astype(np.float32)
    swapped = shares[:, ::-1]  # of equal ones the last, as another library may say
    return {
        "predict": (shares.shape[1] - 1 - swapped.argmax(axis=1)).astype(np.int64),
        "predict_proba": shares.astype(np.float64),
    }


def margins(original: Original, rows: Rows) -> np.ndarray:
    return margins_of(original.predict(rows)["predict_proba"])


def test_rows_are_made_on_both_sides_of_where_the_label_turns(logistic: Original) -> None:
    ordinary = matrix(WINE[0])
    found = boundaries.borders(logistic, ordinary, np.random.default_rng(0))
    assert found is not None
    assert found.n % 12 == 0
    labels = logistic.predict(found)["predict"].reshape(12, -1)
    assert (labels[-2] != labels[-1]).all(), "one side says another label than the other"
    near = margins(logistic, found)
    assert near.min() < 1e-7
    assert near.min() > 1e-12, "not so near that rounding in double precision decides"


def test_a_model_without_labels_has_no_such_rows(tmp_path: Path) -> None:
    from sklearn.linear_model import Ridge

    original = opened(Ridge().fit(*WINE), tmp_path)
    assert boundaries.borders(original, matrix(WINE[0]), np.random.default_rng(0)) is None


def test_labels_in_single_precision_are_wrong_there(logistic: Original, exam: Exam) -> None:
    found = exam.sit(Altered(logistic, rounded), SINGLE).violation
    assert found is not None
    assert (found.output, found.kind) == ("predict", "borders")


def test_a_form_that_leans_on_the_original_near_a_tie_is_proved_and_says_how_near(
    logistic: Original, exam: Exam
) -> None:
    result = exam.sit(Altered(logistic, rounded), SINGLE, leans=True)
    assert result.violation is None
    assert result.words == ""
    assert result.margin == pytest.approx(NEAR * result.worst)
    assert 1e-9 < result.margin < 1e-5


def test_a_wrong_label_that_is_further_from_a_tie_is_caught_all_the_same(logistic: Original, exam: Exam) -> None:
    def wrong(rows: Rows, answer: Outputs) -> Outputs:
        found = rounded(rows, answer)
        off = (margins_of(answer["predict_proba"]) < 1e-3) & (found["predict_proba"][:, 1] > 0.1)
        found["predict"][off] = 0
        return found

    found = exam.sit(Altered(logistic, wrong), SINGLE, leans=True).violation
    assert found is not None
    assert "from a tie" in found.words


def test_a_form_that_overflows_leaves_those_rows_to_the_original(logistic: Original, exam: Exam) -> None:
    def overflowing(above: float) -> Callable[[Rows, Outputs], Outputs]:
        def change(rows: Rows, answer: Outputs) -> Outputs:
            assert rows.matrix is not None
            lost = (np.abs(rows.matrix) > above).any(axis=1)
            answer["predict_proba"][lost], answer["predict"][lost] = np.nan, 0
            return answer

        return change

    result = exam.sit(Altered(logistic, overflowing(1e38)), SINGLE, leans=True)
    assert (result.violation, result.words) == (None, "")
    assert result.margin > 0, "or nobody would look"
    found = exam.sit(Altered(logistic, overflowing(1e38)), SINGLE).violation
    assert found is not None, "one that does not lean has to know"
    assert "would answer them" in exam.sit(Altered(logistic, overflowing(1.0)), SINGLE, leans=True).words


def test_a_form_that_would_lean_on_the_original_all_the_time_is_of_no_use(logistic: Original, exam: Exam) -> None:
    def vague(rows: Rows, answer: Outputs) -> Outputs:
        answer["predict_proba"] += 0.04
        return answer

    result = exam.sit(Altered(logistic, vague), Criterion(absolute=0.1), leans=True)
    assert result.violation is None
    assert "ordinary rows lie so near a tie" in result.words


def test_without_shares_nothing_says_how_near_a_tie_is(tmp_path: Path) -> None:
    original = opened(make_pipeline(StandardScaler(), LinearSVC()).fit(*WINE), tmp_path)
    exam = Exam(original, hostile(original, size=96))
    coarse = [(step.mean_, step.scale_) for step in original.steps[:1]]

    def single(rows: Rows, answer: Outputs) -> Outputs:
        assert rows.matrix is not None
        ((mean, scale),) = coarse
        with np.errstate(all="ignore"):
            x = ((rows.matrix - mean) / scale).astype(np.float32)
            final: Any = original.steps[-1]
            scores = x @ final.coef_.T.astype(np.float32) + final.intercept_.astype(np.float32)
        return {"predict": final.classes_[scores.argmax(axis=1)].astype(np.int64)}

    assert exam.sit(Altered(original, single), SINGLE, leans=True).violation is not None
