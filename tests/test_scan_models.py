"""Every common model passes the scan, in every form it is saved in, and answers the same."""

from __future__ import annotations

import functools
import io
import operator
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import joblib
import numpy as np
import pandas as pd
import pytest
from catboost import CatBoostClassifier, CatBoostRegressor
from joblib.numpy_pickle import NumpyArrayWrapper
from lightgbm import LGBMClassifier
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import BisectingKMeans, KMeans
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor, make_column_selector
from sklearn.datasets import load_diabetes, load_iris
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.feature_extraction import DictVectorizer
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.feature_selection import SelectKBest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, WhiteKernel
from sklearn.impute import KNNImputer, SimpleImputer
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, SGDClassifier
from sklearn.metrics import f1_score, make_scorer
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.multioutput import MultiOutputClassifier
from sklearn.naive_bayes import GaussianNB, MultinomialNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    PowerTransformer,
    SplineTransformer,
    StandardScaler,
    TargetEncoder,
)
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier
from xgboost import XGBClassifier

from lagar.errors import MissingLibrary
from lagar.intake import scan

X, Y = load_iris(return_X_y=True)
XD, YD = (part[:120] for part in load_diabetes(return_X_y=True))
FRAME = pd.DataFrame(X, columns=list("abcd")).assign(text=np.where(Y > 0, "sim", "não"))
FRAME["kind"] = pd.Categorical(FRAME["text"])
TEXTS = ["o livro novo", "jogo velho", "batom azul", "livro raro"] * 5
LABELS = ["a", "b", "c", "a"] * 5


def columns() -> ColumnTransformer:
    return ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), ["a", "b"]),
            ("words", OneHotEncoder(handle_unknown="ignore"), ["text", "kind"]),
            ("rest", MinMaxScaler(), make_column_selector(pattern="^[cd]$")),
        ]
    )


BOOSTERS: dict[str, Any] = {"verbose": 0, "allow_writing_files": False, "iterations": 3}
MODELS: dict[str, Callable[[], tuple[Any, Any]]] = {}


def model(name: str, estimator: Any, rows: Any = X, labels: Any = Y) -> None:
    def fit() -> tuple[Any, Any]:
        return (estimator.fit(rows) if labels is None else estimator.fit(rows, labels)), rows

    MODELS[name] = fit


model("linear", LinearRegression(), XD, YD)
model("logistic", LogisticRegression(max_iter=2000))
model("sgd", SGDClassifier(loss="log_loss", random_state=0))
model("forest", RandomForestClassifier(5))
model("forest-regressor", RandomForestRegressor(5, criterion="absolute_error"), XD, YD)
model("extra-trees", ExtraTreesClassifier(5, class_weight="balanced"))
model("tree", DecisionTreeClassifier())
model("gradient-boosting", GradientBoostingClassifier(n_estimators=3))
model("hist-gradient-boosting", HistGradientBoostingClassifier(max_iter=3))
model("hist-gradient-boosting-frame", HistGradientBoostingClassifier(max_iter=3), FRAME[["a", "kind"]])
model("hist-gradient-boosting-poisson", HistGradientBoostingRegressor(max_iter=3, loss="poisson"), XD, YD)
model("svc", SVC())
model("linear-svc-calibrated", CalibratedClassifierCV(LinearSVC(), method="isotonic", cv=2))
model("calibrated", CalibratedClassifierCV(LinearSVC(), cv=2))
for algorithm in ("kd_tree", "ball_tree", "brute"):
    model(f"knn-{algorithm}", KNeighborsClassifier(algorithm=algorithm))
model("gaussian-process", GaussianProcessRegressor(1.0 * RBF(100.0) + WhiteKernel(), optimizer=None), X, Y)
model("isolation-forest", IsolationForest(n_estimators=5), X, None)
model("k-means", KMeans(3, n_init=1), X, None)
model("bisecting-k-means", BisectingKMeans(3), X, None)
model("mixture", GaussianMixture(2), X, None)
model("mlp", MLPClassifier((4,), solver="lbfgs", max_iter=5000, alpha=1.0, random_state=0))
model("voting", VotingClassifier([("a", GaussianNB()), ("b", DecisionTreeClassifier())]))
model("stacking", StackingClassifier([("a", GaussianNB()), ("b", DecisionTreeClassifier())], cv=2))
model("log1p", make_pipeline(FunctionTransformer(np.log1p), GaussianNB()))
model("nan-to-num", make_pipeline(FunctionTransformer(np.nan_to_num, kw_args={"nan": 0.0}), GaussianNB()))
model("partial", make_pipeline(FunctionTransformer(functools.partial(np.clip, a_min=0, a_max=5)), GaussianNB()))
model("item", make_pipeline(FunctionTransformer(operator.itemgetter(["a", "b"])), GaussianNB()), FRAME)
model("power", make_pipeline(PowerTransformer(), GaussianNB()))
model("bins", make_pipeline(KBinsDiscretizer(quantile_method="averaged_inverted_cdf"), GaussianNB()).set_params(
    kbinsdiscretizer__encode="ordinal"
))  # fmt: skip
model("splines", make_pipeline(SplineTransformer(), GaussianNB()))
model("target-encoder", make_pipeline(TargetEncoder(cv=2), GaussianNB()), FRAME[["text"]])
model("ordinal", make_pipeline(OrdinalEncoder(), DecisionTreeClassifier()), FRAME[["text", "kind"]])
model("pca", make_pipeline(KNNImputer(), PCA(2), SelectKBest(k=1), GaussianNB()))
model("multi-output", MultiOutputClassifier(RandomForestClassifier(3)), X, np.c_[Y, Y > 0].astype(int))
model("target-transform", TransformedTargetRegressor(Ridge(), func=np.log1p, inverse_func=np.expm1), XD, YD)
model("isotonic", IsotonicRegression(out_of_bounds="clip"), XD[:, 2], YD)
model("columns", Pipeline([("columns", columns()), ("model", GaussianNB())]), FRAME)
model("tfidf", make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), MultinomialNB()), TEXTS, LABELS)
model(
    "str-split", make_pipeline(CountVectorizer(tokenizer=str.split, token_pattern=None), MultinomialNB()), TEXTS, LABELS
)
model(
    "grid-search",
    GridSearchCV(
        Pipeline([("columns", columns()), ("model", RandomForestClassifier(3))]),
        {"model__max_depth": [1, None]},
        cv=2,
        scoring={"f1": make_scorer(f1_score, average="macro"), "accuracy": "accuracy"},
        refit="f1",
    ),
    FRAME,
)
model("xgboost", XGBClassifier(n_estimators=3))
model("lightgbm", make_pipeline(FunctionTransformer(), LGBMClassifier(n_estimators=3, verbose=-1)))
model("catboost", CatBoostClassifier(**BOOSTERS))
model("catboost-categories", CatBoostRegressor(**BOOSTERS, cat_features=["text"]), FRAME[["a", "text"]])


def fit_pair() -> tuple[Any, Any]:
    records = [{"x": float(i), "k": "ab"[i % 2]} for i in range(20)]
    vectorizer = DictVectorizer(sparse=False)
    return (
        vectorizer,
        LogisticRegression().fit(vectorizer.fit_transform(records), [i % 2 for i in range(20)]),
    ), records


MODELS["vectorizer-and-model"] = fit_pair


def answers(model: Any, rows: Any) -> Any:
    if isinstance(model, tuple):
        vectorizer, estimator = model
        return estimator.predict_proba(vectorizer.transform(rows))
    if isinstance(model, MultiOutputClassifier) or not hasattr(model, "predict_proba"):
        return model.predict(rows)
    return model.predict_proba(rows)


def dumped(value: object, compress: Any = 0, protocol: int | None = None) -> bytes:
    """What joblib.dump writes."""
    buffer = io.BytesIO()
    joblib.dump(value, buffer, compress=compress, protocol=protocol)
    return buffer.getvalue()


def files_of(value: object) -> dict[str, bytes]:
    files = {f"pickle protocol {protocol}": pickle.dumps(value, protocol=protocol) for protocol in (2, 3, 4, 5)}
    files |= {f"joblib compress {compress}": dumped(value, compress) for compress in (0, 3, ("xz", 1))}
    return files | {"joblib protocol 2": dumped(value, protocol=2)}


@pytest.mark.parametrize("name", MODELS)
def test_a_common_model_passes_and_answers_the_same(name: str) -> None:
    fitted, rows = MODELS[name]()
    expected = answers(fitted, rows)
    for kind, data in files_of(fitted).items():
        report = scan.check(data)
        assert report.refused == (), kind
        assert report.globals == tuple(sorted(report.globals))
        assert report.trailing_bytes == 0, kind
        np.testing.assert_array_equal(np.asarray(answers(scan.load(data), rows)), np.asarray(expected), err_msg=kind)


@pytest.mark.parametrize("protocol", range(6))
def test_every_pickle_protocol_is_read(protocol: int) -> None:
    fitted = LogisticRegression(max_iter=2000).fit(X, Y)
    for data in (pickle.dumps(fitted, protocol=protocol), dumped(fitted, protocol=protocol)):
        assert scan.check(data).protocol == (protocol if protocol > 1 else 0)
        np.testing.assert_array_equal(scan.load(data).predict_proba(X), fitted.predict_proba(X))  # type: ignore[attr-defined]


@pytest.mark.parametrize("method", ["zlib", "gzip", "bz2", "lzma", "xz", "lz4"])
def test_every_compression_of_joblib_is_opened(method: str) -> None:
    if method == "lz4":
        pytest.importorskip("lz4", reason="lz4 is not installed")
    fitted = RandomForestClassifier(3).fit(X, Y)
    data = dumped(fitted, (method, 3))
    report = scan.check(data)
    assert (report.compression, report.format) == (method, "joblib")
    np.testing.assert_array_equal(scan.load(data).predict(X), fitted.predict(X))  # type: ignore[attr-defined]


def test_lz4_without_its_library_says_what_to_install() -> None:
    if "lz4" in sys.modules or not _missing("lz4"):
        pytest.skip("lz4 is installed")
    with pytest.raises(MissingLibrary, match="pip install lz4"):
        scan.check(b"\x04\x22\x4d\x18" + bytes(40))


def _missing(module: str) -> bool:
    try:
        __import__(module)
    except ImportError:
        return True
    return False


ARRAYS = {
    "record": np.array([(1.5, "a", (1, 2))], dtype=[("x", "f8"), ("name", "O"), ("pair", "2i4")]),
    "plain-record": np.zeros(3, dtype=np.dtype([("x", "f4"), ("y", "i8")], align=True)),
    "objects": np.array(["a", None, 1.5], dtype=object),
    "text": np.array(["ação", "b"]),
    "dates": np.array(["2020-01-01"], dtype="M8[ns]"),
    "big-endian": np.arange(6, dtype=">i4").reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "empty": np.empty((0, 3)),
    "scalar": np.array(3.0),
    "bools": np.array([True, False]),
}


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize(
    "save", [dumped, pickle.dumps, lambda value: dumped(value, 3), lambda value: dumped(value, 0, 2)]
)
def test_arrays_of_every_kind_come_back(name: str, save: Callable[[object], bytes]) -> None:
    data = save({"before": [1, "x"], "array": ARRAYS[name], "after": ARRAYS[name][:1] if ARRAYS[name].ndim else None})
    loaded: Any = scan.load(data)
    np.testing.assert_array_equal(loaded["array"], ARRAYS[name])
    assert loaded["array"].dtype.newbyteorder("=") == ARRAYS[name].dtype.newbyteorder("=")
    assert loaded["array"].flags.f_contiguous == ARRAYS[name].flags.f_contiguous
    assert loaded["array"].flags.writeable


def test_a_mapped_array_is_loaded_as_a_plain_one(tmp_path: Path) -> None:
    mapped = np.memmap(tmp_path / "array", dtype="f8", mode="w+", shape=(4,))
    mapped[:] = 2.0
    for data in (dumped(mapped), pickle.dumps(mapped)):
        loaded = scan.load(data)
        assert type(loaded) is np.ndarray
        assert loaded.tolist() == [2.0] * 4


def test_array_bytes_of_joblib_before_1_2_have_no_padding() -> None:
    wrapper = NumpyArrayWrapper(np.ndarray, (3,), "C", np.dtype("<f8"), numpy_array_alignment_bytes=None)
    del wrapper.numpy_array_alignment_bytes
    data = pickle.dumps(wrapper, protocol=2)[:-1] + np.arange(3.0).tobytes() + b"."
    assert scan.check(data).format == "joblib"
    assert np.asarray(scan.load(data)).tolist() == [0.0, 1.0, 2.0]


def test_frames_with_columns_of_every_kind_come_back() -> None:
    frame = FRAME.assign(when=pd.Timestamp("2020-01-01"), whole=pd.array([1] * len(FRAME), dtype="Int64"))
    for data in (dumped(frame), pickle.dumps(frame)):
        pd.testing.assert_frame_equal(scan.load(data), frame)  # type: ignore[arg-type]


def test_numpy_1_names_are_read() -> None:
    data = pickle.dumps(np.arange(3.0), protocol=2).replace(b"numpy._core.", b"numpy.core.")
    assert b"numpy.core." in data
    assert np.asarray(scan.load(data)).tolist() == [0.0, 1.0, 2.0]


def test_a_model_saved_by_cloudpickle_without_own_functions_passes() -> None:
    fitted = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, Y)
    loaded: Any = scan.load(cloudpickle.dumps(fitted))
    np.testing.assert_array_equal(loaded.predict(X), fitted.predict(X))
