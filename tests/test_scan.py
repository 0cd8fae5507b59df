"""Pickles are read before they are opened: every common model passes, and nothing that would run code does."""

from __future__ import annotations

import builtins
import bz2
import functools
import gzip
import io
import json
import lzma
import operator
import os
import pickle
import pickletools
import random
import struct
import subprocess
import sys
import types
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import cloudpickle
import joblib
import numpy as np
import pandas as pd
import pytest
from catboost import CatBoostClassifier, CatBoostRegressor
from joblib.numpy_pickle import NumpyArrayWrapper
from joblib.numpy_pickle_compat import NDArrayWrapper, ZNDArrayWrapper
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

from lagar.errors import LoadFailed, MissingCode, MissingLibrary, SetupError, UnsafePickle, UnsupportedModel
from lagar.intake import allowlist, compression, scan, unpickle, walk

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


# What must not pass.


class Calls:
    """Pickles as a call of a function with arguments."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


def evil(marker: Path) -> Calls:
    return Calls(os.system, f"touch {marker}")


WRAPPED: dict[str, Callable[[Any], Any]] = {
    "alone": lambda bad: bad,
    "in a list": lambda bad: [1, [bad]],
    "as a dictionary's value": lambda bad: {"model": bad},
    "in a model": lambda bad: LogisticRegression(C=bad),
    "in a pipeline's function": lambda bad: make_pipeline(FunctionTransformer(bad), LogisticRegression()),
    "after an array": lambda bad: [np.arange(1000.0), bad],
    "before an array": lambda bad: [bad, np.arange(1000.0)],
    "in an array of objects": lambda bad: np.array([None, bad], dtype=object),
    "in a record array": lambda bad: np.array([(1, bad)], dtype=[("a", "i4"), ("b", "O")]),
    "in an array of objects after a plain one": lambda bad: [np.arange(9.0), np.array([bad], dtype=object), np.ones(3)],
}
SAVED: dict[str, Callable[[Any], bytes]] = {
    **{f"pickle {p}": functools.partial(pickle.dumps, protocol=p) for p in range(6)},
    **{f"joblib {p}": functools.partial(dumped, protocol=p) for p in (0, 2, 3, 4, 5)},
    **{f"joblib {method}": functools.partial(dumped, compress=(method, 3)) for method in ("zlib", "bz2", "xz", "lzma")},
    "gzip": lambda value: gzip.compress(pickle.dumps(value)),
}


@pytest.mark.parametrize("place", WRAPPED)
@pytest.mark.parametrize("save", SAVED)
def test_code_in_a_pickle_is_refused_and_does_not_run(place: str, save: str, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    data = SAVED[save](WRAPPED[place](evil(marker)))
    with pytest.raises(UnsafePickle, match=r"posix\.system.*--code FILE.*--trust"):
        scan.check(data)
    with pytest.raises(UnsafePickle):
        scan.load(data)
    _opened_without_the_scan(data)
    assert not marker.exists()


def _opened_without_the_scan(data: bytes) -> None:
    """The second line of defence alone: what is opened under the rules when the walk has a hole."""
    payload = compression.opened(data, "the pickle")
    rules = unpickle.Rules(frozenset(), None, False, "the pickle")
    for opened in (unpickle.plain, unpickle.with_arrays):
        with pytest.raises(SetupError):
            opened(payload, rules)


def stack_global(module: str, name: str) -> bytes:
    parts = (bytes([0x8C, len(text.encode())]) + text.encode() for text in (module, name))
    return b"".join(parts) + b"\x93"


def calling(module: str, name: str, argument: str) -> bytes:
    return b"\x80\x04" + stack_global(module, name) + b"\x8c" + bytes([len(argument)]) + argument.encode() + b"\x85R."


BY_HAND: dict[str, Callable[[str], bytes]] = {
    "dotted name": lambda cmd: calling("sklearn.utils", "os.system", cmd),
    "dotted name in an estimator's module": lambda cmd: calling("sklearn.pipeline", "Pipeline.os.system", cmd),
    "imported module": lambda cmd: calling("sklearn.cluster._kmeans", "warnings", cmd),
    "GLOBAL": lambda cmd: b"cos\nsystem\n(S'" + cmd.encode() + b"'\ntR.",
    "INST": lambda cmd: b"(S'" + cmd.encode() + b"'\nios\nsystem\n.",
    "OBJ": lambda cmd: b"(cos\nsystem\nS'" + cmd.encode() + b"'\no.",
    "names from the memo": lambda cmd: b"\x80\x04\x8c\x02os\x94\x8c\x06system\x9400h\x00h\x01\x93\x8c"
    + bytes([len(cmd)]) + cmd.encode() + b"\x85R.",
    "names through DUP and POP": lambda cmd: b"\x80\x04\x8c\x02os2\x30\x8c\x06system\x93\x8c"
    + bytes([len(cmd)]) + cmd.encode() + b"\x85R.",
    "NEWOBJ": lambda cmd: b"\x80\x04" + stack_global("subprocess", "Popen") + b")\x81.",
    "NEWOBJ_EX": lambda cmd: b"\x80\x04" + stack_global("subprocess", "Popen") + b")}\x92.",
    "python 2 built-in": lambda cmd: b"c__builtin__\neval\n(S'1'\ntR.",
    "second pickle": lambda cmd: pickle.dumps(1) + calling("os", "system", cmd),
}  # fmt: skip


@pytest.mark.parametrize("way", BY_HAND)
def test_a_pickle_written_by_hand_is_refused(way: str, tmp_path: Path) -> None:
    marker = tmp_path / "r"
    data = BY_HAND[way](f"touch {marker}"[-250:])
    with pytest.raises(UnsafePickle):
        scan.check(data)
    with pytest.raises(UnsafePickle):
        scan.load(data)
    assert not marker.exists()


def test_a_name_that_is_made_at_run_time_is_refused() -> None:
    made = pickle.dumps(b"os", protocol=2)[:-1]  # a call of _codecs.encode in place of a name
    data = made + b"\x8c\x06system\x93."
    with pytest.raises(UnsafePickle, match="cannot be read from the file"):
        scan.check(data)


@pytest.mark.parametrize("code", [b"\x82\x01.", b"\x83\x01\x00.", b"\x84\x01\x00\x00\x00.", b"Pid\n.", b"K\x01Q."])
def test_extension_codes_and_persistent_ids_are_refused(code: bytes) -> None:
    with pytest.raises(UnsafePickle, match=r"extension code|persistent id"):
        scan.check(b"\x80\x02" + code)
    rules = unpickle.Rules(frozenset(), None, False, "the pickle")
    for opened in (unpickle.plain, unpickle.with_arrays):
        with pytest.raises(SetupError):
            opened(b"\x80\x02" + code, rules)


REFUSED = {
    "eval": Calls(eval, "1"),
    "exec": Calls(exec, "1"),
    "import": Calls(__import__, "os"),
    "open": Calls(open, "/dev/null"),
    "getattr": Calls(getattr, Calls(__import__, "os"), "system"),
    "getattr of a list": Calls(getattr, [], "append"),
    "getattr of str, but no text method": Calls(getattr, str, "format"),
    "attrgetter": operator.attrgetter("__class__.__init__.__globals__"),
    "methodcaller": operator.methodcaller("to_csv", "/tmp/x"),
    "partial of system": functools.partial(os.system, "true"),
    "numpy.load": np.load,
    "numpy.fromfile": np.fromfile,
    "numpy.save": np.save,
    "numpy.vectorize": np.vectorize(abs),
    "joblib.load": joblib.load,
    "joblib.Memory": joblib.Memory(None),
    "joblib.Parallel": joblib.Parallel(1).__class__,
    "pandas.read_pickle": pd.read_pickle,
    "pandas.eval": pd.eval,
    "pandas.HDFStore": pd.HDFStore,
    "pandas.ExcelFile": pd.ExcelFile,
    "codec": Calls(__import__("_codecs").encode, "x", "bz2"),
    "partial called": Calls(functools.partial(str, "x")),
    "memory": Calls(bytearray, 10**12),
    "memory by range": Calls(list, range(10**12)),
    "an object scalar hides a class": Calls(np.float64(1).__reduce__()[0], np.dtype("O"), LogisticRegression),
    "np.object_ hides a class": Calls(np.object_, LogisticRegression),
    "ufunc of os": b"cnumpy.core\n_ufunc_reconstruct\n(S'os'\nS'system'\ntR.",
    "memmap": b"cnumpy\nmemmap\n(S'/tmp/lagar-never'\nS'u1'\nS'w+'\ntR.",
    "fetcher": b"csklearn.datasets\nfetch_openml\n.",
    "test module": b"csklearn.ensemble.tests.test_forest\nX\n.",
    "externals": b"csklearn.externals.joblib\nload\n.",
    "DMatrix": b"cxgboost.core\nDMatrix\n(S'/etc/passwd'\ntR.",
    "Booster of a file": b"cxgboost.core\nBooster\n(N(tS'/etc/passwd'\ntR.",
    "Pool": b"ccatboost.core\nPool\n(S'/etc/passwd'\ntR.",
    "f2py": b"cnumpy.f2py\ncompile\n.",
    "numpy.testing": b"cnumpy.testing\nrundocs\n.",
    "runstring": b"cnumpy.testing._private.utils\nrunstring\n.",
    "DataSource": b"cnumpy\nDataSource\n.",
    "statsmodels": b"cstatsmodels.base.model\nResults\n.",
    "parallel under another name": b"csklearn.ensemble._forest\nParallel\n(tR.",
    "loky": b"cjoblib.externals.loky\nget_reusable_executor\n(tR.",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_reads_files_or_reaches_code_is_refused(name: str) -> None:
    bad = REFUSED[name]
    with pytest.raises(UnsafePickle, match="outside the allow-list"):
        scan.check(bad if isinstance(bad, bytes) else pickle.dumps(bad))


def test_a_scipy_distribution_whose_state_is_code_is_refused(tmp_path: Path) -> None:
    from scipy.stats import uniform

    marker = tmp_path / "ran"
    state = {**uniform.__getstate__(), "_parse_arg_template": f"open({str(marker)!r}, 'w').close()"}
    body = pickle.dumps(state, protocol=4)[:-1]
    data = b"\x80\x04" + stack_global("scipy.stats._continuous_distns", "uniform_gen") + b")\x81" + body + b"b."
    with pytest.raises(UnsafePickle, match=r"best_estimator_"):
        scan.load(data)
    assert not marker.exists()


def test_a_class_is_never_filled_by_the_pickle() -> None:
    cls = stack_global("sklearn.linear_model._logistic", "LogisticRegression")
    for change in (
        b"N}\x8c\x07predict" + stack_global("builtins", "list") + b"s\x86b",
        b"\x8c\x07predict" + b"K\x01s",
        b"K\x01a",
    ):
        with pytest.raises(UnsafePickle, match="changed by the pickle"):
            scan.check(b"\x80\x04" + cls + change + b".")


@pytest.mark.parametrize("flags_or_size", ["flags", "offset", "size"])
def test_a_dtype_that_lies_about_itself_is_refused(flags_or_size: str) -> None:
    dtype = np.dtype([("a", "O"), ("b", "i8")])
    make, args, state = dtype.__reduce__()  # type: ignore[misc]
    version, endian, subarray, names, fields, size, alignment, flags = state
    if flags_or_size == "flags":
        flags = 0
    elif flags_or_size == "offset":
        fields = {**fields, "b": (np.dtype("i8"), 1 << 20)}
    else:
        size = 8
    lie = (version, endian, subarray, names, fields, size, alignment, flags)
    data = pickle.dumps(_Built(make, args, lie))
    with pytest.raises(UnsafePickle, match=r"numpy\.dtype"):
        scan.check(data)
    assert scan.check(pickle.dumps(_Built(make, args, state))).refused == ()


class _Built:
    def __init__(self, make: Any, args: Any, state: Any) -> None:
        self.parts = (make, args, state)

    def __reduce__(self) -> Any:
        return self.parts


@pytest.mark.parametrize("wrapper", [NDArrayWrapper("x.npy", np.ndarray), ZNDArrayWrapper("x.z", (), ())])
def test_arrays_in_other_files_are_refused(wrapper: object) -> None:
    with pytest.raises(UnsafePickle, match=r"joblib before 0\.10"):
        scan.check(pickle.dumps(wrapper))


def test_bytes_of_an_array_are_not_opcodes(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    inside = np.frombuffer(pickle.dumps(evil(marker)), dtype="u1")
    for data in (dumped([inside, 1]), pickle.dumps([inside, 1])):
        assert not any("system" in name for name in scan.check(data).globals)
        scan.load(data)
    assert not marker.exists()


def test_an_array_that_says_it_is_smaller_shows_the_code_behind_it(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    wrapper = NumpyArrayWrapper(np.ndarray, (1,), "C", np.dtype("u1"), numpy_array_alignment_bytes=None)
    data = pickle.dumps(wrapper, protocol=2)[:-1] + b"\x00" + calling("os", "system", f"touch {marker}"[-250:])[2:]
    with pytest.raises(UnsafePickle, match=r"os\.system"):
        scan.load(data)
    assert not marker.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"shape": (10**12,)},
        {"shape": (-1,)},
        {"shape": ("1",)},
        {"order": "X"},
        {"dtype": None},
        {"read": 1},
        {"numpy_array_alignment_bytes": "x"},
    ],
)
def test_an_array_wrapper_that_joblib_would_not_write_is_refused(change: dict[str, Any]) -> None:
    wrapper = NumpyArrayWrapper(np.ndarray, (3,), "C", np.dtype("<f8"), numpy_array_alignment_bytes=None)
    vars(wrapper).update(change)
    data = pickle.dumps(wrapper, protocol=2)[:-1] + np.arange(3.0).tobytes() + b"."
    with pytest.raises(LoadFailed, match="damaged"):
        scan.check(data)


def test_an_array_inside_a_frame_is_refused() -> None:
    wrapper = NumpyArrayWrapper(np.ndarray, (3,), "C", np.dtype("<f8"), numpy_array_alignment_bytes=None)
    body = pickle.dumps(wrapper, protocol=2)[2:-1] + np.arange(3.0).tobytes() + b"."
    with pytest.raises(LoadFailed, match="inside a frame"):
        scan.check(b"\x80\x04\x95" + struct.pack("<Q", len(body)) + body)


# Names that cloudpickle, the user's code and __main__ bring.


def test_functions_by_value_are_refused_naming_cloudpickle() -> None:
    data = cloudpickle.dumps(make_pipeline(FunctionTransformer(lambda x: x), LogisticRegression()))
    with pytest.raises(UnsafePickle, match=r"saved by cloudpickle or dill.*--code FILE"):
        scan.check(data)


@pytest.fixture
def features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    (tmp_path / "own_features.py").write_text(
        "import os\nfrom os import system\nfrom subprocess import Popen, run\n"
        "class Scaler:\n    factor = 2\n    class Inner:\n        pass\n"
        "    def __init__(self):\n        self.by = 3\n"
        "def double(rows):\n    return rows * 2\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_features", raising=False)
    return __import__("own_features")


OWN = frozenset({"own_features"})


def test_the_users_own_classes_and_functions_pass_when_named(features: types.ModuleType) -> None:
    pipeline = make_pipeline(FunctionTransformer(features.double), GaussianNB()).fit(X, Y)
    for value in (features.Scaler(), features.Scaler.Inner(), pipeline):
        for data in (pickle.dumps(value), dumped(value)):
            with pytest.raises(UnsafePickle, match=r"own_features\.\w+.*--code FILE"):
                scan.check(data)
            assert scan.check(data, code_modules=OWN).refused == ()
            assert type(scan.load(data, code_modules=OWN)) is type(value)


@pytest.mark.parametrize("name", ["system", "Popen", "run", "os.system", "os"])
def test_what_the_users_code_only_imports_stays_closed(features: types.ModuleType, name: str, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    data = calling("own_features", name, f"touch {marker}"[-250:])
    with pytest.raises((UnsafePickle, MissingCode)):
        scan.load(data, code_modules=OWN)
    main = calling("__main__", name, f"touch {marker}"[-250:])
    with pytest.raises((UnsafePickle, MissingCode)):
        scan.load(main, code_modules=OWN, resolve_main=vars(features))
    assert not marker.exists()


def test_a_code_module_with_the_name_of_a_known_one_opens_nothing() -> None:
    for module, name in (("os", "system"), ("numpy", "load"), ("pandas", "read_pickle")):
        with pytest.raises(UnsafePickle):
            scan.check(calling(module, name, "x"), code_modules=frozenset({module}))


def test_a_missing_name_in_the_users_code_is_named(features: types.ModuleType) -> None:
    data = b"cown_features\nGone\n."
    with pytest.raises(MissingCode, match=r"Gone.*own_features.*--code FILE"):
        scan.load(data, code_modules=OWN)


def test_names_of_main_are_missing_code_until_given(features: types.ModuleType) -> None:
    data = pickle.dumps(features.double, protocol=2).replace(b"own_features", b"__main__")
    with pytest.raises(MissingCode, match=r"`double`.*__main__.*--code FILE"):
        scan.check(data)
    with pytest.raises(MissingCode, match="`double`"):
        scan.load(data, resolve_main={}, code_modules=OWN)
    assert scan.check(data, code_modules=OWN | {"__main__"}).refused == ()
    assert scan.load(data, code_modules=OWN, resolve_main=vars(features)) is features.double


def test_the_servers_own_main_is_never_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "secret", print, raising=False)
    data = b"c__main__\nsecret\n."
    for options in ({}, {"trust": True}, {"code_modules": frozenset({"__main__"})}, {"resolve_main": {}}):
        with pytest.raises(MissingCode, match="secret"):
            scan.load(data, **options)  # type: ignore[arg-type]


def test_trust_opens_the_file_and_still_reports(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    data = dumped([np.arange(3.0), np.array([evil(marker)], dtype=object)])
    assert scan.check(data, trust=True).refused == ("posix.system",)
    assert not marker.exists()
    scan.load(data, trust=True)
    assert marker.exists()


def test_the_list_of_refused_names_is_bounded() -> None:
    data = b"(" + b"".join(b"cmodule%d\nname\n" % i for i in range(500)) + b"t."
    with pytest.raises(UnsafePickle, match="and 480 more") as caught:
        scan.check(data)
    assert len(caught.value.message) < 2000


def test_a_missing_library_is_named_with_what_to_install() -> None:
    if not _missing("category_encoders"):
        pytest.skip("category_encoders is installed")
    data = b"\x80\x04" + stack_global("category_encoders.ordinal", "OrdinalEncoder") + b")\x81."
    with pytest.raises(MissingLibrary, match="pip install category_encoders"):
        scan.load(data)


def test_a_class_that_the_installed_version_lacks_is_named() -> None:
    data = b"\x80\x04" + stack_global("sklearn.ensemble._gb_losses", "BinomialDeviance") + b")\x81."
    with pytest.raises(LoadFailed, match=r"sklearn\.ensemble\._gb_losses\.BinomialDeviance.*another version"):
        scan.load(data)


# Broken files.


@pytest.mark.parametrize(
    "data",
    [b"", b"# not a pickle", b"a,b\n1,2\n", b"PK\x03\x04rest", b"ZF0x1", b"\x00\x01", b'{"a": 1}', b"\x89HDF\r\n"],
)
def test_what_is_no_pickle_is_said(data: bytes) -> None:
    with pytest.raises(
        (UnsupportedModel, LoadFailed), match=r"not a pickle|empty|zip|joblib before|damaged pickle or none"
    ):
        scan.check(data)


def test_a_file_cut_anywhere_is_one_clear_error() -> None:
    for data in (
        dumped([np.arange(4.0), np.array(["a", None], dtype=object), {"x": LogisticRegression()}]),
        pickle.dumps([np.arange(4.0), LogisticRegression()], protocol=5),
        pickle.dumps(LogisticRegression(), protocol=0),
        dumped(np.arange(40.0), 3),
    ):
        for end in range(len(data)):
            with pytest.raises((LoadFailed, UnsupportedModel)):
                scan.load(data[:end])


def test_damaged_bytes_never_raise_anything_else() -> None:
    dice = random.Random(7)
    for data in (
        dumped([np.arange(4.0), {"k": LogisticRegression()}]),
        pickle.dumps(StandardScaler().fit(X), protocol=2),
    ):
        for _ in range(1500):
            broken = bytearray(data)
            for _ in range(dice.randint(1, 4)):
                broken[dice.randrange(len(broken))] = dice.randrange(256)
            with suppress(SetupError):
                scan.check(bytes(broken))


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02Nr\xff\xff\xff\x7f.",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\xff.",
        b"\x80\x04\x8e\x00\x00\x00\x00\x01\x00\x00\x00x.",
        b"\x80\x05\x96\x00\x00\x00\x00\x10\x00\x00\x00x.",
        b"\x80\x04\x95\xff\xff\xff\xff\x00\x00\x00\x00N.",
        b"\x80\x02" + b"(" * 200_000 + b".",
        b"\x80\x09N.",
        b"\x80\x05\x97.",
        b"\x80\x02h\x05.",
        b"\x80\x02t.",
        b"\x80\x02R.",
        b"\x80\x04\x95\x03\x00\x00\x00\x00\x00\x00\x00K\x01K\x01.",
    ],
)
def test_sizes_and_depths_that_no_pickler_writes_are_refused(data: bytes) -> None:
    with pytest.raises(LoadFailed, match="damaged pickle"):
        scan.check(data)


def test_what_follows_the_pickle_is_noted_and_several_are_read() -> None:
    one = pickle.dumps(LogisticRegression())
    report = scan.check(one + b"\x00garbage")
    assert (report.pickles, report.trailing_bytes) == (1, 8)
    report = scan.check(one + pickle.dumps(StandardScaler()))
    assert (report.pickles, report.trailing_bytes) == (2, 0)
    assert "sklearn.preprocessing._data.StandardScaler" in report.globals
    assert isinstance(scan.load(one + b"\x00garbage"), LogisticRegression)


@pytest.mark.parametrize("compress", [zlib.compress, gzip.compress, bz2.compress, lzma.compress])
def test_a_decompression_bomb_is_refused(compress: Callable[[bytes], bytes]) -> None:
    bomb = compress(bytes(20_000_000))
    with pytest.raises(LoadFailed, match="decompress"):
        compression.opened(bomb, "the pickle", max_bytes=10_000_000)
    assert len(compression.opened(bomb, "the pickle", max_bytes=20_000_000)) == 20_000_000


def test_a_gzip_file_of_several_members_is_opened_whole() -> None:
    data = pickle.dumps(list(range(100)))
    assert scan.load(gzip.compress(data[:50]) + gzip.compress(data[50:])) == list(range(100))


def test_every_opcode_of_this_python_is_known() -> None:
    assert {opcode.name for opcode in pickletools.opcodes} == set(walk._ACTIONS)


def test_no_function_of_a_known_module_is_open_by_accident() -> None:
    for module in (
        "os",
        "posix",
        "sys",
        "subprocess",
        "shutil",
        "importlib",
        "runpy",
        "pickle",
        "ctypes",
        "socket",
        "pty",
    ):
        for name in ("system", "Popen", "load", "exit", "import_module", "CDLL", "Path"):
            assert not allowlist.permits(module, name)
    harmless = {
        "set",
        "frozenset",
        "list",
        "dict",
        "tuple",
        "slice",
        "complex",
        "bytearray",
        "bytes",
        "int",
        "float",
        "str",
    }
    harmless |= {"bool", "object", "range", "Ellipsis", "abs", "len", "round", "getattr"}  # getattr: str.split only
    assert {name for name in dir(builtins) if allowlist.permits("builtins", name)} == harmless


def test_reading_imports_no_model_library(tmp_path: Path) -> None:
    path = tmp_path / "model.joblib"
    joblib.dump(RandomForestClassifier(3).fit(X, Y), path)
    code = (
        "import json, sys; from lagar.intake import scan; from pathlib import Path\n"
        f"scan.check(Path({str(path)!r}).read_bytes())\n"
        "print(json.dumps([m for m in ('sklearn', 'joblib', 'scipy', 'pandas', 'xgboost') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
