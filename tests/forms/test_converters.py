"""Graph forms: XGBoost's trees through our exporter, other families through skl2onnx, answer as their originals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import CalibratedClassifierCV
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier, StackingClassifier, VotingClassifier
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.naive_bayes import GaussianNB, MultinomialNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC

from lagar.errors import InvalidInput, LoadFailed
from lagar.forms.candidates import NotApplicable
from lagar.forms.compilation import compile_forms
from lagar.forms.converters import build_double, build_float, build_text, build_xgboost
from lagar.runtimes import form
from lagar.types import Rows
from support.forms import agree, built, hostile, matrix, opened

WIDTH = 5
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(240, WIDTH))
SUM = X @ np.array([1.0, -1.0, 0.5, 0.0, 0.2])
TWO, THREE = SUM > 0, np.digitize(SUM, [-0.5, 0.5])
HOLES = np.where(RANDOM.random(X.shape) < 0.05, np.nan, X)


def thresholds(model: Any) -> list[np.ndarray]:
    table = model.get_booster().trees_to_dataframe()
    columns, splits = table["Feature"], table["Split"]
    return [splits[columns == f"f{index}"].to_numpy() for index in range(WIDTH)]


XGBOOST = {
    "two classes": lambda: xgboost.XGBClassifier(n_estimators=9, n_jobs=1).fit(HOLES, TWO),
    "three classes": lambda: xgboost.XGBClassifier(n_estimators=5, n_jobs=1).fit(HOLES, THREE),
    "several targets": lambda: xgboost.XGBClassifier(n_estimators=4, n_jobs=1).fit(HOLES, np.c_[TWO, X[:, 0] > 0]),
    "raw margin": lambda: xgboost.XGBClassifier(objective="binary:logitraw", n_estimators=4, n_jobs=1).fit(X, TWO),
    "values": lambda: xgboost.XGBRegressor(n_estimators=20, n_jobs=1).fit(HOLES, SUM * 100 + 500),
    "two values": lambda: xgboost.XGBRegressor(n_estimators=5, n_jobs=1).fit(X, np.c_[SUM, -SUM]),
    "counts": lambda: xgboost.XGBRegressor(objective="count:poisson", n_estimators=5, n_jobs=1).fit(X, np.exp(SUM)),
    "shares": lambda: xgboost.XGBRegressor(
        objective="reg:logistic", base_score=0.3, n_estimators=5, n_jobs=1
    ).fit(X, TWO),
    "random forest": lambda: xgboost.XGBRFClassifier(n_estimators=7, n_jobs=1).fit(X, THREE),
    "trees of one leaf": lambda: xgboost.XGBRegressor(n_estimators=2, gamma=1e9, n_jobs=1).fit(X, SUM),
}  # fmt: skip


@pytest.mark.parametrize("name", XGBOOST)
def test_xgboosts_trees_answer_as_xgboost_on_hostile_rows(tmp_path: Path, name: str) -> None:
    model = XGBOOST[name]()
    original = opened(model, tmp_path)
    form_ = built(original, build_xgboost, tmp_path / "form")
    # The sums are XGBoost's to the bit; its exponential is not NumPy's.
    exact = name in {"raw margin", "values", "two values", "trees of one leaf"}
    bound = 0.0 if exact else 3e-7
    for seed in range(2):
        x = hostile(np.random.default_rng(seed), WIDTH, 300, thresholds(model))
        x[0, 0], x[1, 1], x[2, 2], x[3, 3] = np.inf, -np.inf, 1e39, -1e39
        agree(form_, original, matrix(x), absolute=bound, relative=bound)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    trees=st.integers(1, 30), depth=st.integers(1, 8), seed=st.integers(0, 1000), classes=st.integers(1, 4),
    parallel=st.integers(1, 2),
)  # fmt: skip
def test_xgboost_ensembles_of_any_shape(
    tmp_path_factory: pytest.TempPathFactory, trees: int, depth: int, seed: int, classes: int, parallel: int
) -> None:
    folder = tmp_path_factory.mktemp("property")
    options = {"n_estimators": trees, "max_depth": depth, "num_parallel_tree": parallel, "n_jobs": 1, "subsample": 0.7}
    if classes == 1:
        model = xgboost.XGBRegressor(**options, random_state=seed).fit(HOLES, SUM)
    else:
        ranks = np.argsort(np.argsort(SUM)) * classes // len(SUM)
        model = xgboost.XGBClassifier(**options, random_state=seed).fit(HOLES, ranks)
    original = opened(model, folder)
    form_ = built(original, build_xgboost, folder / "form")
    x = hostile(np.random.default_rng(seed), WIDTH, 200, thresholds(model))
    agree(form_, original, matrix(x), absolute=0.0 if classes == 1 else 3e-7)


def test_an_early_stop_leaves_out_the_trees_behind_it(tmp_path: Path) -> None:
    model = xgboost.XGBClassifier(n_estimators=60, early_stopping_rounds=2, n_jobs=1, learning_rate=0.9)
    model.fit(X[:160], THREE[:160], eval_set=[(X[160:], THREE[160:])], verbose=False)
    original = opened(model, tmp_path)
    agree(built(original, build_xgboost, tmp_path / "form"), original, matrix(X), absolute=3e-7)


def test_what_xgboost_the_exporter_leaves_alone(tmp_path: Path) -> None:
    cases = [
        (xgboost.XGBRegressor(n_estimators=3, booster="dart", n_jobs=1).fit(X, SUM), "dart"),
        (xgboost.XGBRegressor(n_estimators=3, missing=0.0, n_jobs=1).fit(X, SUM), "means missing"),
        (xgboost.XGBRegressor(n_estimators=3, multi_strategy="multi_output_tree", n_jobs=1).fit(X, np.c_[SUM, SUM]),
         "several values"),
        (xgboost.XGBClassifier(n_estimators=3, objective="binary:hinge", n_jobs=1).fit(X, TWO), "binary:hinge"),
        (make_pipeline(StandardScaler(), xgboost.XGBRegressor(n_estimators=3, n_jobs=1)).fit(X, SUM), "in front"),
    ]  # fmt: skip
    for number, (model, reason) in enumerate(cases):
        original = opened(model, tmp_path, f"{number}.joblib")
        with pytest.raises(NotApplicable, match=reason):
            build_xgboost(original, tmp_path)


DOUBLE = {
    "calibrated": lambda: CalibratedClassifierCV(LinearSVC(), cv=2).fit(X, THREE),
    "naive Bayes": lambda: GaussianNB().fit(X, np.array(["a", "bb", "c"])[THREE]),
    "discriminant": lambda: make_pipeline(StandardScaler(), LinearDiscriminantAnalysis()).fit(X, THREE),
    "quadratic": lambda: QuadraticDiscriminantAnalysis().fit(X, THREE.astype(float)),
    "two values": lambda: LinearRegression().fit(X, np.c_[SUM, SUM * 1e6]),
}
FLOAT = {
    "support vectors": lambda: make_pipeline(StandardScaler(), SVC(random_state=0)).fit(X, TWO),
    "vote": lambda: VotingClassifier(
        [("line", LogisticRegression()), ("forest", RandomForestClassifier(5, random_state=0))], voting="soft"
    ).fit(X, THREE),
    "stack": lambda: StackingClassifier(
        [("line", LogisticRegression()), ("forest", RandomForestClassifier(5, random_state=0))], cv=2
    ).fit(X, THREE),
}


@pytest.mark.parametrize("name", [*DOUBLE, *FLOAT])
def test_a_converted_model_answers_as_its_original(tmp_path: Path, name: str) -> None:
    original = opened((DOUBLE | FLOAT)[name](), tmp_path)
    build, bound = (build_double, 1e-9) if name in DOUBLE else (build_float, 1e-5)
    form_ = built(original, build, tmp_path / "form")
    for rows in (X, hostile(np.random.default_rng(1), WIDTH, 200, holes=False).clip(-1e9, 1e9)):
        agree(form_, original, matrix(rows), absolute=bound, relative=1e-9)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_scikit_learn_refuses_is_not_answered_by_the_graph(tmp_path: Path, value: float) -> None:
    row = np.zeros((2, WIDTH))
    row[1, 3] = value
    original = opened(DOUBLE["discriminant"](), tmp_path)
    form_ = built(original, build_double, tmp_path / "form")
    with pytest.raises((ValueError, InvalidInput)) as told:
        original.predict(matrix(row))
    with pytest.raises(type(told.value)):
        form_.predict(matrix(row), original.outputs)
    assert isinstance(told.value, InvalidInput) == bool(np.isinf(value))


def test_a_number_that_overflows_behind_a_scaler_is_refused_as_the_scaler_s_successor_does(tmp_path: Path) -> None:
    original = opened(make_pipeline(StandardScaler(), LinearRegression()).fit(X * 0.1, SUM), tmp_path)
    form_ = built(original, build_double, tmp_path / "form")
    scale = original.steps[0].scale_
    for column in range(WIDTH):
        most = float(np.finfo(np.float64).max) * scale[column]
        for value, answered in ((most * 0.99, True), (-most * 0.99, True), (most * 1.01, False), (-1.7e308, False)):
            row = np.zeros((1, WIDTH))
            row[0, column] = value
            assert _answers(original.predictor, row) == _answers(form_, row) == answered, value


def _answers(predictor: Any, row: np.ndarray) -> bool:
    try:
        predictor.predict(matrix(row), ("predict",))
    except InvalidInput:
        return False
    return True


def test_what_float32_does_not_hold_is_refused_as_the_trees_inside_do(tmp_path: Path) -> None:
    row = np.zeros((1, WIDTH))
    row[0, 0] = 1e39
    original = opened(FLOAT["stack"](), tmp_path)
    form_ = built(original, build_float, tmp_path / "form")
    with pytest.raises(InvalidInput, match="32-bit"):
        original.predict(matrix(row))
    with pytest.raises(InvalidInput, match="32-bit"):
        form_.predict(matrix(row), original.outputs)
    row[0, 0] = np.nextafter(float(np.finfo(np.float32).max), np.inf)  # rounded to the greatest float32
    assert set(form_.predict(matrix(row), original.outputs)) == set(original.predict(matrix(row)))


WORDS = [
    *["casa", "carro", "maçã", "não", "São", "Paulo", "avião", "coração", "livro", "rápido", "straße", "İstanbul"],
    *["日本", "naïve", "café", "x1", "a", "b_c"],
]
TEXTS = [" ".join(np.random.default_rng(seed).choice(WORDS, 5)) for seed in range(120)]
ODD = [
    "", " ", "CAFE\u0301 cafe\u0301", "NÃO  nao\tNÃO", "ß ẞ STRASSE", "a", "!!", "日本 日本語", "x1 X1 _", "one\n\ntwo",
    "\u200b", "soft\u00adhyphen nb\u00a0sp", "½ ² Ⅷ café²", "casa casa casa",
]  # fmt: skip


@pytest.mark.parametrize(
    ("vectorizer", "final"),
    [
        (TfidfVectorizer(), MultinomialNB()),
        (TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression()),
        (CountVectorizer(binary=True, token_pattern=r"(?u)\b\w+\b"), LogisticRegression()),
        (TfidfVectorizer(strip_accents="unicode", stop_words=["casa"]), MultinomialNB()),
        (TfidfVectorizer(strip_accents="ascii", lowercase=False), LogisticRegression()),
        (TfidfVectorizer(analyzer="char", ngram_range=(2, 3)), LogisticRegression()),
    ],
    ids=["words", "pairs", "short words", "no accents", "ascii", "characters"],
)
def test_a_text_model_answers_accents_capitals_and_odd_strings_as_its_original(
    tmp_path: Path, vectorizer: Any, final: Any
) -> None:
    model = make_pipeline(vectorizer, final).fit(TEXTS, np.array(["x", "y", "z"])[np.arange(120) % 3])
    original = opened(model, tmp_path)
    form_ = built(original, build_text, tmp_path / "form")
    texts = np.array(TEXTS + ODD, dtype=object)
    agree(form_, original, Rows(len(texts), columns={original.signature.names[0]: texts}), absolute=1e-5)


def test_what_converters_get_wrong_is_left_alone(tmp_path: Path) -> None:
    labels = np.arange(120) % 2
    cases = [
        (RandomForestClassifier(3).fit(X, TWO), build_double, "RandomForestClassifier compares in float32"),
        (FLOAT["support vectors"](), build_double, "SVC"),
        (LogisticRegression().fit(X, TWO), build_float, "float64 only"),
        (KNeighborsClassifier().fit(X, TWO), build_double, "slower"),
        (VotingClassifier([("a", RandomForestClassifier(2)), ("b", RandomForestClassifier(3))]).fit(X, TWO),
         build_float, "tie"),
        (LinearDiscriminantAnalysis().fit(X, np.where(TWO, 0.5, 1.5).astype(str)), build_text, "takes no text"),
        (make_pipeline(TfidfVectorizer(sublinear_tf=True), MultinomialNB()).fit(TEXTS, labels), build_text,
         "sublinear"),
        (make_pipeline(TfidfVectorizer(analyzer="char_wb"), MultinomialNB()).fit(TEXTS, labels), build_text, "char_wb"),
        (make_pipeline(CountVectorizer(stop_words=["casa"], ngram_range=(1, 2)), MultinomialNB()).fit(TEXTS, labels),
         build_text, "stop words"),
        (make_pipeline(CountVectorizer(token_pattern="[a-z]+"), MultinomialNB()).fit(TEXTS, labels), build_text, "RE2"),
        (xgboost.XGBRegressor(n_estimators=2, n_jobs=1).fit(X, SUM), build_double, "scikit-learn"),
    ]  # fmt: skip
    for number, (model, build, reason) in enumerate(cases):
        original = opened(model, tmp_path, f"{number}.joblib")
        with pytest.raises(NotApplicable, match=reason):
            build(original, tmp_path)


def test_an_onnx_graph_is_served_as_it_is_and_said_to_be_one(tmp_path: Path) -> None:
    from skl2onnx import to_onnx

    path = tmp_path / "line.onnx"
    graph = to_onnx(LinearRegression().fit(X, SUM), X[:1].astype(np.float32))
    path.write_bytes(graph.SerializeToString())
    proof = compile_forms(opened(path, tmp_path), (), tmp_path / "forms")
    assert (proof.served, proof.words) == ((), "it is an ONNX graph, which ONNX Runtime runs as it is")


def test_a_damaged_graph_is_a_load_failure(tmp_path: Path) -> None:
    built(opened(XGBOOST["values"](), tmp_path), build_xgboost, tmp_path / "form")
    (tmp_path / "form" / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(LoadFailed, match="ONNX Runtime"):
        form.open_folder(tmp_path / "form", 1)


def test_a_process_that_runs_a_graph_imports_no_model_package(tmp_path: Path) -> None:
    built(opened(XGBOOST["two classes"](), tmp_path), build_xgboost, tmp_path / "form")
    code = (
        "import sys, json, pathlib, numpy as np\n"
        "from lagar.runtimes import form\nfrom lagar.types import Rows\n"
        "form_ = form.open_folder(pathlib.Path(sys.argv[1]), 1)\n"
        "form_.predict(Rows(2, matrix=np.zeros((2, 5))), ('predict', 'predict_proba'))\n"
        "heavy = {'sklearn', 'pandas', 'scipy', 'xgboost', 'joblib', 'onnx', 'skl2onnx'}\n"
        "print(json.dumps(sorted(heavy & set(sys.modules))))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "form")]
    assert json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout) == []
