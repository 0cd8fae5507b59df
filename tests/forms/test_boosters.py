"""Booster forms: the libraries' own compiled code, and CatBoost's trees in NumPy, answer as the packages do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import catboost
import lightgbm
import numpy as np
import pandas as pd
import pytest
import xgboost
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from lagar import native
from lagar.errors import InvalidInput, LoadFailed
from lagar.forms import tree_forms
from lagar.forms.boosters import build_catboost, build_catboost_native, build_lightgbm, build_xgboost
from lagar.forms.candidates import NotApplicable
from lagar.forms.original import Original
from lagar.runtimes import form
from lagar.runtimes.symmetric_trees import before_rounding
from lagar.types import Rows
from support.forms import agree, built, hostile, matrix, opened

WIDTH = 5
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(300, WIDTH))
X[RANDOM.random(X.shape) < 0.05] = np.nan
SUM = np.nan_to_num(X) @ np.array([1.0, -1.0, 0.5, 0.0, 0.2])
TARGETS = {
    "two classes": (SUM > 0).astype(int),
    "three classes": np.digitize(SUM, [-0.5, 0.5]),
    "texts": np.array(["não", "sim"])[(SUM > 0).astype(int)],
    "texts as objects": np.array(["a", "bb", "ccc"], dtype=object)[np.digitize(SUM, [-0.5, 0.5])],
    "booleans": SUM > 0,
    "floats": np.array([1.0, 2.0, 3.0])[np.digitize(SUM, [-0.5, 0.5])],
    "values": SUM * 100 + 500,
    "counts": np.floor(np.exp(SUM / 3)),
}
property_test = settings(
    max_examples=10, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
HAS_COMPILER = native.prepare()
needs_a_compiler = pytest.mark.skipif(not HAS_COMPILER, reason="no C compiler, or the package cannot be written")


def lightgbm_model(target: str, **options: Any) -> Any:
    kind = lightgbm.LGBMRegressor if target in ("values", "counts") else lightgbm.LGBMClassifier
    settings = {"n_estimators": 8, "num_leaves": 7, "min_child_samples": 2, "verbose": -1, "n_jobs": 1}
    return kind(**settings | options).fit(X, TARGETS[target])


def xgboost_model(target: str, **options: Any) -> Any:
    kind = xgboost.XGBRegressor if target in ("values", "counts") else xgboost.XGBClassifier
    return kind(**{"n_estimators": 8, "max_depth": 3, "n_jobs": 1} | options).fit(X, TARGETS[target])


def catboost_model(target: str, **options: Any) -> Any:
    kind = catboost.CatBoostRegressor if target in ("values", "counts") else catboost.CatBoostClassifier
    settings = {"iterations": 12, "depth": 4, "verbose": 0, "allow_writing_files": False, "thread_count": 1}
    return kind(**settings | options).fit(X, TARGETS[target])


def thresholds(model: Any) -> list[np.ndarray]:
    """What the trees ask, per column."""
    found: list[list[float]] = [[] for _ in range(WIDTH)]
    if isinstance(model, lightgbm.LGBMModel):
        for column, value in model.booster_.trees_to_dataframe()[["split_feature", "threshold"]].dropna().values:
            found[int(str(column).rpartition("_")[2])].append(float(value))
    elif isinstance(model, xgboost.XGBModel):
        table = model.get_booster().trees_to_dataframe()
        for column, value in table[["Feature", "Split"]].dropna().values:
            found[int(str(column).removeprefix("f"))].append(float(value))
    else:
        found = [list(map(float, values)) for values in model.get_borders().values()]
    return [np.array(values) for values in found]


MODELS = [
    *((lightgbm_model, build_lightgbm, target, {}) for target in TARGETS if target != "counts"),
    (lightgbm_model, build_lightgbm, "counts", {"objective": "poisson"}),
    (lightgbm_model, build_lightgbm, "three classes", {"objective": "multiclassova"}),
    (lightgbm_model, build_lightgbm, "values", {"boosting_type": "dart"}),
    (lightgbm_model, build_lightgbm, "values", {"linear_tree": True}),
    *((xgboost_model, build_xgboost, target, {}) for target in ("two classes", "three classes", "booleans", "values")),
    (xgboost_model, build_xgboost, "counts", {"objective": "count:poisson"}),
    (xgboost_model, build_xgboost, "two classes", {"objective": "binary:hinge"}),
    (xgboost_model, build_xgboost, "two classes", {"booster": "dart", "rate_drop": 0.5}),
    (xgboost_model, build_xgboost, "values", {"missing": 0.0}),
    (xgboost_model, build_xgboost, "values", {"base_score": 0.5, "num_parallel_tree": 2}),
    *((catboost_model, build_catboost, target, {}) for target in TARGETS if target != "counts"),
    (catboost_model, build_catboost, "counts", {"loss_function": "Poisson"}),
    (catboost_model, build_catboost, "three classes", {"loss_function": "MultiClassOneVsAll"}),
    (catboost_model, build_catboost, "values", {"nan_mode": "Max", "boost_from_average": False}),
    (catboost_model, build_catboost, "two classes", {"depth": 9, "iterations": 3}),
]
if HAS_COMPILER:
    MODELS += [(train, build_catboost_native, *case) for train, build, *case in MODELS if build is build_catboost]


@pytest.mark.parametrize(
    ("train", "build", "target", "options"),
    MODELS,
    ids=[f"{case[0].__name__.removesuffix('_model')}, {case[2]}, {case[3]}" for case in MODELS],
)
def test_a_booster_answers_the_same_bits_on_hostile_rows(
    tmp_path: Path, train: Any, build: Any, target: str, options: dict[str, Any]
) -> None:
    model = train(target, **options)
    original = opened(model, tmp_path)
    form_ = built(original, build, tmp_path / "form")
    known = thresholds(model)
    # CatBoost's exponential is not NumPy's; everything else is the library's own code or the same sums.
    bound = 1e-15 if build in (build_catboost, build_catboost_native) else 0.0
    for seed in range(3):
        x = hostile(np.random.default_rng(seed), WIDTH, 200, known)
        if options.get("missing") == 0.0:
            x = np.nan_to_num(x)  # XGBoost refuses NaN where something else means missing
        agree(form_, original, matrix(x), absolute=bound, relative=bound)


@property_test
@given(
    iterations=st.integers(1, 20),
    depth=st.integers(1, 6),
    classes=st.integers(1, 4),
    seed=st.integers(0, 1000),
    nan_mode=st.sampled_from(["Min", "Max"]),
)
def test_symmetric_trees_of_any_shape_answer_as_catboost(
    tmp_path_factory: pytest.TempPathFactory, iterations: int, depth: int, classes: int, seed: int, nan_mode: str
) -> None:
    folder = tmp_path_factory.mktemp("property")
    random = np.random.default_rng(seed)
    target = SUM if classes == 1 else np.argsort(np.argsort(SUM)) * classes // len(SUM)
    kind = catboost.CatBoostRegressor if classes == 1 else catboost.CatBoostClassifier
    model = kind(
        iterations=iterations, depth=depth, nan_mode=nan_mode, verbose=0, allow_writing_files=False, thread_count=1
    ).fit(X, target)
    original = opened(model, folder)
    x = hostile(random, WIDTH, 300, thresholds(model))
    builders = [build_catboost, *([build_catboost_native] if HAS_COMPILER else [])]
    for number, build in enumerate(builders):
        form_ = built(original, build, folder / f"form {number}")
        agree(form_, original, matrix(x), absolute=1e-15, relative=1e-15)


def test_borders_in_float64_part_the_numbers_as_rounding_to_float32_does() -> None:
    odd = [0.0, -0.0, 1e-45, -1e-45, 1.0, -1.0, 3.4028235e38, -3.4028235e38, 1.17549435e-38, 16777217.0]
    borders = np.concatenate([np.array(odd, np.float32), RANDOM.normal(size=500).astype(np.float32)])
    found = before_rounding(borders)
    for shift in (-2, -1, 0, 1, 2):
        x = found.copy()
        for _ in range(abs(shift)):
            x = np.nextafter(x, np.inf * np.sign(shift))
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(x > found, x.astype(np.float32) > borders)


def test_infinity_is_answered_as_the_library_answers_it(tmp_path: Path) -> None:
    x = np.array([[np.inf, 0.0, -np.inf, 1e39, -1e39], [0.0, 1e308, 1.0, np.nan, 0.0]])
    for number, (model, build) in enumerate(
        [
            (lightgbm_model("two classes"), build_lightgbm),
            (xgboost_model("two classes"), build_xgboost),
            (catboost_model("two classes"), build_catboost),
        ]
    ):
        original = opened(model, tmp_path, f"{number}.joblib")
        form_ = built(original, build, tmp_path / str(number))
        try:
            original.predict(matrix(x))
        except Exception as error:
            with pytest.raises(type(error)):
                form_.predict(matrix(x), original.outputs)
        else:
            agree(form_, original, matrix(x), absolute=1e-15)


def test_a_file_of_a_booster_with_an_early_stop_answers_with_its_best_trees(tmp_path: Path) -> None:
    model = xgboost.XGBClassifier(n_estimators=60, early_stopping_rounds=2, n_jobs=1, learning_rate=0.9)
    model.fit(X[:200], TARGETS["two classes"][:200], eval_set=[(X[200:], TARGETS["two classes"][200:])], verbose=False)
    model.save_model(tmp_path / "wine.ubj")
    original = opened(tmp_path / "wine.ubj", tmp_path)
    agree(built(original, build_xgboost, tmp_path / "form"), original, matrix(X))


def test_a_scaler_in_front_of_a_booster_refuses_infinity_as_it_does(tmp_path: Path) -> None:
    for number, (model, build) in enumerate(
        [
            (lightgbm.LGBMClassifier(n_estimators=5, verbose=-1, n_jobs=1), build_lightgbm),
            (xgboost.XGBClassifier(n_estimators=5, n_jobs=1), build_xgboost),
        ]
    ):
        pipeline = make_pipeline(StandardScaler(), StandardScaler(with_mean=False), model).fit(X, TARGETS["booleans"])
        original = opened(pipeline, tmp_path, f"{number}.joblib")
        form_ = built(original, build, tmp_path / str(number))
        agree(form_, original, matrix(hostile(np.random.default_rng(1), WIDTH, 100)))
        with pytest.raises(InvalidInput):
            original.predict(matrix([[np.inf, 0, 0, 0, 0]]))
        with pytest.raises(InvalidInput, match="inf"):
            form_.predict(matrix([[np.inf, 0, 0, 0, 0]]), original.outputs)


def test_pandas_categories_are_found_by_their_values(tmp_path: Path) -> None:
    frame = pd.DataFrame({"size": X[:, 0], "colour": pd.Categorical(np.array(["blue", "red"])[(SUM > 0).astype(int)])})
    target = ((frame["colour"] == "red") ^ (SUM > 0.5)).astype(int)
    model = lightgbm.train({"objective": "binary", "verbose": -1}, lightgbm.Dataset(frame, target), 5)
    model.save_model(tmp_path / "words.txt")
    original = opened(tmp_path / "words.txt", tmp_path)
    form_ = built(original, build_lightgbm, tmp_path / "form")
    colours = np.array(["red", "blue", None, "red"], dtype=object)
    agree(form_, original, Rows(4, columns={"size": np.array([0.0, 1.0, -1.0, np.nan]), "colour": colours}))


def test_a_row_of_another_width_never_reaches_the_compiled_code(tmp_path: Path) -> None:
    for number, (model, build) in enumerate(
        [(lightgbm_model("values"), build_lightgbm), (xgboost_model("values"), build_xgboost)]
    ):
        original = opened(model, tmp_path, f"{number}.joblib")
        form_ = built(original, build, tmp_path / str(number))
        with pytest.raises(ValueError, match="takes 5 columns, got 3"):
            form_.predict(matrix(np.zeros((2, 3))), original.outputs)
        form_.close()


def test_what_has_no_booster_form_says_why(tmp_path: Path) -> None:
    words = pd.DataFrame({"a": X[:, 0], "b": np.where(SUM > 0, "x", "y")})
    cases = [
        (catboost_model("values", grow_policy="Lossguide"), build_catboost, "not symmetric"),
        (catboost.CatBoostClassifier(iterations=3, verbose=0, cat_features=["b"], allow_writing_files=False)
         .fit(words, TARGETS["two classes"]), build_catboost, "counts categories"),
        (catboost_model("values", loss_function="RMSEWithUncertainty"), build_catboost, "variance"),
        (xgboost_model("values", booster="gblinear", max_depth=None), build_xgboost, "linear"),
        (make_pipeline(MinMaxScaler(), lightgbm_model("values")).fit(X, SUM), build_lightgbm, "MinMaxScaler"),
        (LogisticRegression().fit(np.nan_to_num(X), SUM > 0), build_xgboost, "not one of xgboost"),
    ]  # fmt: skip
    for number, (model, build, reason) in enumerate(cases):
        original = opened(model, tmp_path, f"{number}.joblib")
        with pytest.raises(NotApplicable, match=reason):
            build(original, tmp_path)


def test_a_damaged_file_is_a_load_failure(tmp_path: Path) -> None:
    for number, (model, build) in enumerate(
        [
            (lightgbm_model("values"), build_lightgbm),
            (xgboost_model("values"), build_xgboost),
            (catboost_model("values"), build_catboost),
        ]
    ):
        folder = tmp_path / str(number)
        built(opened(model, tmp_path, f"{number}.joblib"), build, folder).close()
        (data,) = (path for path in folder.iterdir() if path.name != form.DOCUMENT)
        data.write_bytes(b"no model")
        with pytest.raises(LoadFailed, match="is no model that the installed"):
            form.open_folder(folder, 1)


def test_a_process_that_runs_booster_forms_imports_no_model_package(tmp_path: Path) -> None:
    folders = []
    for number, (model, build) in enumerate(
        [
            (lightgbm_model("three classes"), build_lightgbm),
            (xgboost_model("three classes"), build_xgboost),
            (catboost_model("three classes"), build_catboost),
        ]
    ):
        original: Original = opened(model, tmp_path, f"{number}.joblib")
        built(original, build, tmp_path / str(number)).close()
        folders.append(str(tmp_path / str(number)))
    code = (
        "import sys, json, pathlib, numpy as np\n"
        "from lagar.runtimes import form\nfrom lagar.types import Rows\n"
        "for folder in sys.argv[1:]:\n"
        "    form_ = form.open_folder(pathlib.Path(folder), 1)\n"
        "    form_.predict(Rows(2, matrix=np.zeros((2, 5))), ('predict', 'predict_proba'))\n"
        "heavy = {'sklearn', 'pandas', 'scipy', 'lightgbm', 'xgboost', 'catboost', 'joblib'}\n"
        "print(json.dumps(sorted(heavy & set(sys.modules))))\n"
    )
    said = subprocess.run([sys.executable, "-c", code, *folders], capture_output=True, text=True, check=True).stdout
    assert json.loads(said) == []


@needs_a_compiler
@pytest.mark.parametrize(
    ("target", "options"),
    [
        *((target, {}) for target in ("two classes", "three classes", "booleans", "values")),
        ("counts", {"objective": "count:poisson"}),
        ("values", {"base_score": 0.5, "num_parallel_tree": 2}),
        ("two classes", {"objective": "binary:logitraw"}),
        ("three classes", {"n_estimators": 1, "max_depth": 1}),
    ],
)
def test_trees_of_xgboost_are_added_up_in_its_own_precision(
    tmp_path: Path, target: str, options: dict[str, Any]
) -> None:
    model = xgboost_model(target, **options)
    original = opened(model, tmp_path)
    form_ = built(original, tree_forms.build_native, tmp_path / "form")
    for seed in range(3):
        x = hostile(np.random.default_rng(seed), WIDTH, 200, thresholds(model))
        agree(form_, original, matrix(x), absolute=1e-6, relative=1e-6)
    beyond = [[np.inf, 0.0, 1.0, 1e39, -1e39], [0.0, 1e308, -np.inf, np.nan, 0.0]]
    agree(form_, original, matrix(beyond), absolute=1e-6, relative=1e-6)


@needs_a_compiler
def test_trees_of_xgboost_behind_a_scaler_answer_as_the_pipeline(tmp_path: Path) -> None:
    x = np.nan_to_num(X)
    model = make_pipeline(StandardScaler(), xgboost.XGBClassifier(n_estimators=8, max_depth=3, n_jobs=1))
    original = opened(model.fit(x, TARGETS["three classes"]), tmp_path)
    form_ = built(original, tree_forms.build_native, tmp_path / "form")
    rows = hostile(np.random.default_rng(0), WIDTH, 200)
    agree(form_, original, matrix(rows), absolute=1e-6)
    assert tree_forms.criterion(original).absolute == 1e-6


def test_what_adds_in_double_precision_is_no_form_of_xgboost(tmp_path: Path) -> None:
    original = opened(xgboost_model("values"), tmp_path)
    with pytest.raises(NotApplicable, match="its sums are in float32"):
        tree_forms.build(original, tmp_path)
    other = opened(xgboost_model("values", missing=0.0), tmp_path, "missing.joblib")
    with pytest.raises(NotApplicable, match="means missing"):
        tree_forms.build_native(other, tmp_path)


@needs_a_compiler
def test_tables_that_would_lead_out_of_themselves_do_not_load(tmp_path: Path) -> None:
    original = opened(catboost_model("two classes"), tmp_path)
    built(original, build_catboost_native, tmp_path / "form").close()
    path = tmp_path / "form" / "trees.npz"
    with np.load(path) as file:
        whole = {name: file[name] for name in file.files}
    for name, broken in (
        ("features", whole["features"] + WIDTH),
        ("features", whole["features"] - WIDTH),
        ("leaves", whole["leaves"][:, :-1]),
        ("borders", whole["borders"][:-1]),
        ("bias", np.zeros(3)),
        ("nan_above", np.array([WIDTH])),
    ):
        np.savez(path, **{**whole, name: broken})
        with pytest.raises(LoadFailed, match="do not hold together"):
            form.open_folder(tmp_path / "form", 1)


@needs_a_compiler
@pytest.mark.parametrize("size", [1, 2, 15, 16, 17, 63, 64, 65, 200])
def test_symmetric_trees_answer_blocks_of_any_size(tmp_path: Path, size: int) -> None:
    original = opened(catboost_model("three classes"), tmp_path)
    form_ = built(original, build_catboost_native, tmp_path / "form")
    rows = matrix(np.resize(X, (size, WIDTH)))
    wanted, got = original.predict(rows), form_.predict(rows, original.outputs)
    np.testing.assert_allclose(got["predict_proba"], wanted["predict_proba"], atol=1e-15)
    assert got["predict"].tolist() == wanted["predict"].tolist()
