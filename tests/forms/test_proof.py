"""The exam of a form: the original passes its own, and whatever is not the original is caught with its first row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_diabetes, load_wine
from sklearn.ensemble import GradientBoostingRegressor, HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.feature_extraction import DictVectorizer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_limits

from lagar.errors import InvalidInput
from lagar.forms.original import Original
from lagar.forms.proof import Exam, NotProvable, Result
from lagar.forms.rows import hostile
from lagar.registry.model import ModelSource
from lagar.registry.proof import EXACT, Criterion
from lagar.types import Outputs, Rows

WINE = load_wine(return_X_y=True)
SMALL = 96


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """As in the confined process that proves: two threads on a busy machine wait for each other at every call."""
    with threadpool_limits(1):
        yield


def opened(model: Any, folder: Path) -> Original:
    path = folder / "model.joblib"
    joblib.dump(model, path)
    return Original.open(ModelSource(name="m", version="1", path=str(path), kind="sklearn", pickled=True))


def exam_of(model: Any, folder: Path) -> tuple[Original, Exam]:
    original = opened(model, folder)
    return original, Exam(original, hostile(original, size=SMALL))


class Altered:
    """The original with a change to what it is asked or what it answers."""

    def __init__(
        self,
        original: Original,
        answer: Callable[[Rows, Outputs], Outputs] = lambda rows, outputs: outputs,
        ask: Callable[[Rows], Rows] = lambda rows: rows,
    ) -> None:
        self._original, self._answer, self._ask = original, answer, ask

    def predict(self, rows: Rows, outputs: tuple[str, ...]) -> Outputs:
        found = self._original.predictor.predict(self._ask(rows), outputs)
        return self._answer(rows, {name: values.copy() for name, values in found.items()})

    def close(self) -> None:
        """Nothing to close."""


def forest() -> Any:
    return RandomForestClassifier(10, max_depth=4, random_state=0).fit(WINE[0], WINE[1] == 1)


def frame_pipeline() -> Any:
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"age": random.normal(40, 9, 200), "plan": random.choice(["basic", "plus", "ação"], 200)})
    frame.loc[::9, "age"] = np.nan
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    columns = make_column_transformer((numbers, ["age"]), (OneHotEncoder(handle_unknown="ignore"), ["plan"]))
    return make_pipeline(columns, LogisticRegression()).fit(frame, frame["plan"] == "plus")


def text_pipeline() -> Any:
    texts = ["good fine café", "bad poor naïve", "fine fine", "poor thing", "Good day", "bad DAY"] * 5
    return make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, [1, 0, 1, 0, 1, 0] * 5)


def records_pipeline() -> Any:
    records = [{"plan": plan, "age": float(age)} for plan in ("a", "b") for age in range(10)]
    return make_pipeline(DictVectorizer(), LogisticRegression()).fit(records, [0, 1] * 10)


MODELS: dict[str, Callable[[], Any]] = {
    "forest": forest,
    "scaled logistic": lambda: make_pipeline(StandardScaler(), LogisticRegression()).fit(*WINE),
    "linear svc": lambda: make_pipeline(StandardScaler(), LinearSVC()).fit(*WINE),
    "boosting": lambda: GradientBoostingRegressor(n_estimators=10).fit(*load_diabetes(return_X_y=True)),
    "histogram boosting": lambda: HistGradientBoostingClassifier(max_iter=5).fit(*WINE),
    "ridge": lambda: Ridge().fit(*load_diabetes(return_X_y=True)),
    "frame": frame_pipeline,
    "text": text_pipeline,
    "records": records_pipeline,
}


@pytest.mark.parametrize("name", MODELS)
def test_the_original_passes_its_own_exam_bit_for_bit_but_for_its_own_jitter(name: str, tmp_path: Path) -> None:
    original, exam = exam_of(MODELS[name](), tmp_path)
    # of a model that is not steady not every row's own difference is known: not all are asked alone
    result = exam.sit(original.predictor, Criterion(1e-14, 1e-14) if exam.worst_jitter else EXACT)
    assert result.violation is None
    assert result.rows > SMALL
    assert not np.any(exam.undecided & np.isin(exam.kinds, ("example", "ordinary")))


def caught(model: Any, folder: Path, alter: Callable[[Original], Altered], criterion: Criterion = EXACT) -> Result:
    original, exam = exam_of(model, folder)
    result = exam.sit(alter(original), criterion)
    assert result.violation is not None
    return result


def test_a_probability_that_is_off_by_more_than_the_criterion_is_caught(tmp_path: Path) -> None:
    def off(rows: Rows, outputs: Outputs) -> Outputs:
        outputs["predict_proba"][:, 0] += 2e-9
        return outputs

    original, exam = exam_of(forest(), tmp_path)
    assert exam.sit(Altered(original, off), Criterion(absolute=1e-8)).violation is None
    result = exam.sit(Altered(original, off), Criterion(absolute=1e-9))
    assert result.violation is not None
    assert result.violation.output == "predict_proba"
    assert set(result.violation.row) == {f"x{index}" for index in range(13)}
    assert result.worst == pytest.approx(2e-9, rel=1e-3)


def test_a_label_that_turns_at_an_exact_tie_is_caught(tmp_path: Path) -> None:
    def ties_go_the_other_way(rows: Rows, outputs: Outputs) -> Outputs:
        tied = outputs["predict_proba"][:, 0] == outputs["predict_proba"][:, 1]
        outputs["predict"] = np.where(tied, ~outputs["predict"], outputs["predict"])
        return outputs

    found = caught(forest(), tmp_path, lambda original: Altered(original, ties_go_the_other_way)).violation
    assert found is not None
    assert found.output == "predict"
    assert found.original is not found.candidate


def test_labels_keep_their_type(tmp_path: Path) -> None:
    def as_numbers(rows: Rows, outputs: Outputs) -> Outputs:
        return {**outputs, "predict": outputs["predict"].astype(np.int64)}

    found = caught(forest(), tmp_path, lambda original: Altered(original, as_numbers)).violation
    assert found is not None
    assert "int64" in found.words
    assert "bool" in found.words


def test_a_model_of_doubles_that_is_asked_in_single_precision_is_caught_at_its_thresholds(tmp_path: Path) -> None:
    def single(rows: Rows) -> Rows:
        assert rows.matrix is not None
        with np.errstate(over="ignore"):
            return Rows(rows.n, matrix=rows.matrix.astype(np.float32).astype(np.float64))

    model = HistGradientBoostingClassifier(max_iter=5).fit(*WINE)
    loose = Criterion(absolute=1e-6)
    found = caught(model, tmp_path, lambda original: Altered(original, ask=single), loose).violation
    assert found is not None
    assert found.kind in ("thresholds", "edges", "borders")


def test_an_answer_where_the_original_refuses_is_caught(tmp_path: Path) -> None:
    def holes_filled(rows: Rows) -> Rows:
        assert rows.matrix is not None
        return Rows(rows.n, matrix=np.nan_to_num(rows.matrix, nan=0.0, posinf=1.0, neginf=1.0).clip(-1e30, 1e30))

    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(*WINE)
    found = caught(model, tmp_path, lambda original: Altered(original, ask=holes_filled), Criterion(1e-9)).violation
    assert found is not None
    assert (found.output, found.size) == ("", 1)
    assert found.original.startswith("no (")
    assert found.candidate == "an answer"


def test_a_refusal_of_another_class_is_caught(tmp_path: Path) -> None:
    def always_the_callers_fault(original: Original) -> Altered:
        def predict(rows: Rows) -> Rows:
            try:
                original.predict(rows)
            except Exception as error:
                raise InvalidInput("it must be yours") from error
            return rows

        return Altered(original, ask=predict)

    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(*WINE)
    found = caught(model, tmp_path, always_the_callers_fault, Criterion(1e-9)).violation
    assert found is not None
    assert (found.original, found.candidate) == ("no (model_failed)", "no (invalid_input)")


def test_a_refusal_where_the_original_answers_is_caught(tmp_path: Path) -> None:
    def no_accents(rows: Rows) -> Rows:
        assert rows.columns is not None
        if any(text is not None and not str(text).isascii() for text in rows.columns["text"]):
            raise ValueError("only ASCII")
        return rows

    found = caught(text_pipeline(), tmp_path, lambda original: Altered(original, ask=no_accents)).violation
    assert found is not None
    assert (found.original, found.candidate) == ("an answer", "no (model_failed)")


def test_text_that_is_lowercased_otherwise_is_caught(tmp_path: Path) -> None:
    def ascii_only(rows: Rows) -> Rows:
        assert rows.columns is not None
        lowered = [text.encode().lower().decode() for text in rows.columns["text"]]  # leaves É as it is
        return Rows(rows.n, columns={"text": np.array([text + "é" for text in lowered], dtype=object)})

    caught(text_pipeline(), tmp_path, lambda original: Altered(original, ask=ascii_only), Criterion(1e-6))


def test_a_missing_value_that_goes_the_wrong_way_is_caught(tmp_path: Path) -> None:
    def filled(rows: Rows) -> Rows:
        assert rows.columns is not None
        return Rows(rows.n, columns={**rows.columns, "age": np.nan_to_num(rows.columns["age"])})

    found = caught(frame_pipeline(), tmp_path, lambda original: Altered(original, ask=filled), Criterion(1e-6))
    assert found.violation is not None
    assert "NaN" in str(found.violation.row["age"])


def test_a_wrong_answer_in_a_large_block_only_is_caught(tmp_path: Path) -> None:
    def last_row_forgotten(rows: Rows, outputs: Outputs) -> Outputs:
        if rows.n > 500:
            outputs["predict_proba"][-1] = outputs["predict_proba"][0]
        return outputs

    model = RandomForestClassifier(10, random_state=0).fit(*WINE)
    original = opened(model, tmp_path)
    exam = Exam(original, hostile(original))
    found = exam.sit(Altered(original, last_row_forgotten), EXACT).violation
    assert found is not None
    assert found.size > 500


def test_a_model_whose_answers_depend_on_the_rows_beside_them_cannot_be_proved(tmp_path: Path) -> None:
    centred = make_pipeline(FunctionTransformer(_centred), Ridge()).fit(*load_diabetes(return_X_y=True))
    original = opened_by(centred)
    with pytest.raises(NotProvable, match=r"changes by .* with the rows beside it"):
        Exam(original, hostile(original, size=SMALL))


def _centred(x: Any) -> Any:
    return x - np.mean(x, axis=0)


def opened_by(model: Any) -> Original:
    """Without a pickle: a function of this module is none that another process finds."""
    from lagar.runtimes import contract, sklearn

    source = ModelSource(name="m", version="1", path="model.joblib", kind="sklearn")
    opened = sklearn.of_object(model, source, 1)
    return Original(contract.keep(source, opened, None), opened)
