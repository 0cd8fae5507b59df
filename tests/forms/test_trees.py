"""Trees through ONNX Runtime answer as the library does: bit for bit, errors included."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm
import msgspec
import numpy as np
import onnx
import pandas as pd
import pytest
import xgboost
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.compose import make_column_transformer
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.feature_extraction import DictVectorizer
from sklearn.feature_selection import SelectKBest
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, OneHotEncoder, RobustScaler, StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor, ExtraTreeClassifier
from threadpoolctl import threadpool_limits

from lagar import native
from lagar.errors import InvalidInput, LoadFailed
from lagar.forms import onnx_file, tree_forms, trees
from lagar.forms.candidates import NotApplicable
from lagar.forms.original import Original
from lagar.forms.thresholds import thresholds_of
from lagar.runtimes import examples, form
from lagar.types import Rows
from support.forms import agree, agree_or_refuse, built, hostile, matrix, opened

LABELS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "int": lambda codes: codes * 3 - 1,
    "float": lambda codes: codes * 2.0,
    "str": lambda codes: np.array(["no", "perhaps", "yes", "ß"])[codes],
    "object str": lambda codes: np.array(["no", "perhaps", "yes", "ß"], dtype=object)[codes],
    "bool": lambda codes: codes > 0,
}


def by_tree(original: Original, folder: Path) -> None:
    """The layout for large forests, of any forest."""
    tree_forms.write_form(original, tree_forms.planned(original), folder, "by tree")


BUILDERS: dict[str, Callable[[Original, Path], None]] = {"at once": tree_forms.build, "by tree": by_tree}
HAS_COMPILER = native.prepare()
if HAS_COMPILER:
    BUILDERS["native"] = tree_forms.build_native


class Draw:
    """Random training data and choices from one seed."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.width = int(self.random.integers(1, 7))
        self.n = int(self.random.integers(20, 120))
        x = self.random.normal(size=(self.n, self.width))
        if self.chance():
            x = np.round(x)  # equal values and ties
        if self.chance():
            x[:, 0] = x[:, 0] * 1e-3 + 1e10  # apart in float64, one number in float32
        if self.chance():
            x = np.where(self.random.random(x.shape) < 0.3, 0.0, x)
        self.x = x
        self.classes = int(self.random.integers(2, 5))
        codes = self.random.integers(0, self.classes, self.n)
        codes[: self.classes] = np.arange(self.classes)
        self.labels = LABELS[str(self.random.choice(list(LABELS)))](codes)
        self.codes = codes
        self.target = x @ self.random.normal(size=self.width) + self.random.normal(size=self.n)

    def chance(self, of: float = 0.5) -> bool:
        return bool(self.random.random() < of)

    def pick(self, *choices: Any) -> Any:
        return choices[int(self.random.integers(len(choices)))]

    def holes(self) -> np.ndarray:
        return np.where(self.random.random(self.x.shape) < 0.15, np.nan, self.x)

    def coded(self) -> tuple[np.ndarray, list[int]]:
        """Data with categories: whole numbers with gaps, some missing."""
        x = self.x.copy()
        columns = sorted({int(self.random.integers(self.width)) for _ in range(2)})
        for column in columns:
            x[:, column] = self.random.integers(0, self.pick(3, 12, 60), self.n) * self.pick(1, 2)
        return np.where(self.random.random(x.shape) < 0.05, np.nan, x), columns

    def tree(self) -> dict[str, Any]:
        return {
            "max_depth": self.pick(None, 1, 3, 8),
            "min_samples_leaf": self.pick(1, 2, 15),
            "random_state": int(self.random.integers(1000)),
        }


def forest_classifier(draw: Draw) -> Any:
    kind = draw.pick(RandomForestClassifier, ExtraTreesClassifier)
    weights = draw.pick(None, "balanced")
    model = kind(n_estimators=draw.pick(1, 2, 10, 23), class_weight=weights, **draw.tree())
    x = draw.holes() if draw.chance() and kind is RandomForestClassifier else draw.x
    return model.fit(x, draw.labels)


def forest_regressor(draw: Draw) -> Any:
    kind = draw.pick(RandomForestRegressor, ExtraTreesRegressor)
    y = draw.target if draw.chance() else np.column_stack([draw.target, draw.target**2, draw.codes])
    return kind(n_estimators=draw.pick(1, 2, 17), **draw.tree()).fit(draw.x, y)


def forest_of_several(draw: Draw) -> Any:
    labels = LABELS[draw.pick("int", "float", "str")]
    both = np.column_stack([labels(draw.codes), labels((draw.codes > 0).astype(int))])
    kind = draw.pick(RandomForestClassifier, ExtraTreesClassifier)
    return kind(n_estimators=draw.pick(1, 6), **draw.tree()).fit(draw.x, both)


def single_tree(draw: Draw) -> Any:
    if draw.chance():
        return DecisionTreeRegressor(**draw.tree()).fit(draw.holes(), draw.target)
    return draw.pick(DecisionTreeClassifier, ExtraTreeClassifier)(**draw.tree()).fit(draw.x, draw.labels)


def gradient_boosting(draw: Draw) -> Any:
    some = {"n_estimators": draw.pick(1, 12), "learning_rate": draw.pick(0.1, 0.37), "max_depth": draw.pick(1, 3)}
    some["init"] = draw.pick(None, "zero")
    if draw.chance():
        loss = draw.pick("squared_error", "absolute_error", "huber", "quantile")
        return GradientBoostingRegressor(loss=loss, **some).fit(draw.x, draw.target)
    if draw.chance():
        return GradientBoostingClassifier(loss="exponential", **some).fit(draw.x, draw.codes > 0)
    return GradientBoostingClassifier(**some).fit(draw.x, draw.labels)


def histogram_boosting(draw: Draw) -> Any:
    x, columns = draw.coded() if draw.chance() else (draw.holes(), None)
    some = {"max_iter": draw.pick(1, 9), "categorical_features": columns, "min_samples_leaf": draw.pick(2, 10)}
    if draw.chance():
        loss = draw.pick("squared_error", "poisson", "gamma", "absolute_error", "quantile")
        y = np.abs(draw.target) + 0.1
        quantile = 0.7 if loss == "quantile" else None
        return HistGradientBoostingRegressor(loss=loss, quantile=quantile, **some).fit(x, y)
    return HistGradientBoostingClassifier(**some).fit(x, draw.labels)


def isolation_forest(draw: Draw) -> Any:
    some = {"max_features": draw.pick(1.0, 0.6), "contamination": draw.pick("auto", 0.1)}
    return IsolationForest(n_estimators=draw.pick(1, 11), max_samples=draw.pick(16, "auto"), **some).fit(draw.x)


def lightgbm_model(draw: Draw) -> Any:
    some: dict[str, Any] = {
        "n_estimators": draw.pick(1, 9), "verbose": -1, "num_threads": 1, "min_child_samples": draw.pick(1, 10),
        "min_data_per_group": 1, "cat_smooth": 1.0, "max_cat_to_onehot": draw.pick(1, 4),
        "zero_as_missing": draw.chance(),
        "use_missing": draw.chance(0.8), "seed": int(draw.random.integers(1000)),
    }  # fmt: skip
    some |= draw.pick(
        {}, {"boosting_type": "dart"}, {"boosting_type": "rf", "bagging_freq": 1, "bagging_fraction": 0.6}
    )
    x, columns = draw.coded() if draw.chance() else (draw.holes(), [])
    fit: dict[str, Any] = {"categorical_feature": columns} if columns else {}
    if draw.chance():
        objective = draw.pick("regression", "regression_l1", "poisson", "tweedie", "quantile", "huber", "cross_entropy")
        y = np.abs(draw.target) + 0.1
        if objective == "cross_entropy":
            y = y / y.max()
        some["reg_sqrt"] = objective == "regression" and draw.chance()
        return lightgbm.LGBMRegressor(objective=objective, **some).fit(x, y, **fit)
    objective = draw.pick(None, "multiclassova") if draw.labels.dtype != bool and draw.classes > 2 else None
    return lightgbm.LGBMClassifier(objective=objective, **some).fit(x, draw.labels, **fit)


def behind_steps(draw: Draw) -> Any:
    final = draw.pick(forest_classifier, gradient_boosting, histogram_boosting, isolation_forest, forest_regressor)
    model = final(draw)
    steps = [
        draw.pick(StandardScaler(), MinMaxScaler(clip=True), MinMaxScaler((-1, 3)), MaxAbsScaler(), RobustScaler()),
        draw.pick(SimpleImputer(), SimpleImputer(strategy="median"), SimpleImputer(strategy="constant", fill_value=-1)),
    ]
    if draw.chance():
        steps.reverse()
    if isinstance(model, IsolationForest):
        return make_pipeline(*steps, model).fit(draw.holes())
    y = draw.labels if hasattr(model, "classes_") else np.abs(draw.target) + 0.1
    if isinstance(model, HistGradientBoostingClassifier | HistGradientBoostingRegressor):
        model.set_params(categorical_features=None)
    if isinstance(model, GradientBoostingClassifier) and model.loss == "exponential":
        y = draw.codes > 0
    return make_pipeline(*steps, *([SelectKBest(k=1)] if draw.chance(0.3) else []), model).fit(draw.holes(), y)


FAMILIES = (
    forest_classifier, forest_regressor, forest_of_several, single_tree, gradient_boosting, histogram_boosting,
    isolation_forest, lightgbm_model, behind_steps,
)  # fmt: skip


def compare(model: Any, seed: int, folder: Path) -> None:
    """A model's forms against the model on rows made to hurt: the same bits, or the same refusal."""
    random = np.random.default_rng(seed)
    original = opened(model, folder)
    width = original.signature.width
    known = thresholds_of(original, width)
    for name, build in BUILDERS.items():
        made = built(original, build, folder / name)
        for holes in (False, True):
            x = hostile(random, width, 60, known, holes=holes)
            codes = random.choice([*range(70), -1.0, -0.5, 1.5, 2.999, 1e9, 3e9, -1e30], size=x.shape)
            whole = random.random(x.shape) < (0.4 if _has_codes(model) else 0.0)
            same(made, original, np.where(whole, codes, x))
        for value in (1e39, -1e39, np.inf, -np.inf, 3.4028235677973366e38, 3.4028235677973362e38):
            x = random.normal(size=(3, width))
            x[1, random.integers(width)] = value
            same(made, original, x)


def _has_codes(model: Any) -> bool:
    return isinstance(
        model,
        HistGradientBoostingClassifier
        | HistGradientBoostingRegressor
        | lightgbm.LGBMClassifier
        | lightgbm.LGBMRegressor,
    )


def same(made: form.FormPredictor, original: Original, x: np.ndarray) -> None:
    """Equal answers, or for both the same class of error, which names the same field."""
    error = refusal(original.predictor, original.outputs, x)
    if error is None:
        agree(made, original, matrix(x))
        return
    found = refusal(made, original.outputs, x)
    assert type(found) is type(error)
    if isinstance(error, InvalidInput):
        assert isinstance(found, InvalidInput)
        assert (found.field, found.row) == (error.field, error.row)
    for index in range(0, len(x) if len(x) > 1 else 0, 5):
        same(made, original, x[index : index + 1])


def refusal(predictor: Any, outputs: tuple[str, ...], x: np.ndarray) -> Exception | None:
    """The error that rows meet with; None where they are answered."""
    try:
        predictor.predict(matrix(x), outputs)
    except (ValueError, InvalidInput) as error:
        return error
    return None


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_small_model_answers_bit_for_bit(
    family: Callable[[Draw], Any], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")
        compare(family(Draw(seed)), seed, tmp_path_factory.mktemp("model"))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_many_small_models_answer_bit_for_bit(
    family: Callable[[Draw], Any], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")
        compare(family(Draw(seed)), seed, tmp_path_factory.mktemp("model"))


REGRESSORS: dict[str, Any] = {
    "gradient boosting": GradientBoostingRegressor(n_estimators=7, max_depth=2),
    "histogram boosting": HistGradientBoostingRegressor(max_iter=4, min_samples_leaf=3),
    "forest": RandomForestRegressor(5, max_depth=3),
    "LightGBM": lightgbm.LGBMRegressor(n_estimators=4, min_child_samples=3, verbose=-1, n_jobs=1),
}


@pytest.mark.parametrize("name", REGRESSORS)
def test_a_regressor_for_each_target_is_one_ensemble(name: str, tmp_path: Path) -> None:
    draw = Draw(3)
    y = np.column_stack([draw.target, draw.target**2, draw.codes])
    original = opened(MultiOutputRegressor(REGRESSORS[name]).fit(draw.x, y), tmp_path)
    known = thresholds_of(original, draw.width)
    for way, build in BUILDERS.items():
        if way == "by tree":
            with pytest.raises(NotApplicable, match="behind those of another"):
                build(original, tmp_path)
            continue
        made = built(original, build, tmp_path / way)
        for holes in (False, True):
            same(made, original, hostile(np.random.default_rng(0), draw.width, 60, known, holes=holes))


def test_regressors_that_are_fed_otherwise_are_no_ensemble(tmp_path: Path) -> None:
    draw = Draw(3)
    model = MultiOutputRegressor(RandomForestRegressor(3)).fit(draw.x, np.column_stack([draw.target, draw.codes]))
    model.estimators_[1] = HistGradientBoostingRegressor(max_iter=2).fit(draw.x, draw.codes)
    with pytest.raises(NotApplicable, match="of several kinds"):
        tree_forms.build(opened(model, tmp_path), tmp_path)


X = np.random.default_rng(0).normal(size=(200, 4))
Y = (X[:, 0] + X[:, 1] > 0).astype(int) + (X[:, 2] > 1)


def test_every_tie_of_an_even_forest_goes_to_the_first_class(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 3, size=(300, 3)).astype(float)
    y = np.random.default_rng(1).integers(0, 2, 300)
    original = opened(RandomForestClassifier(50, random_state=0).fit(x, y), tmp_path)
    rows = matrix(np.array([[a, b, c] for a in range(3) for b in range(3) for c in range(3)]))
    agree(built(original, tree_forms.build, tmp_path / "form"), original, rows)


@pytest.mark.parametrize("labels", list(LABELS))
def test_labels_keep_their_type(labels: str, tmp_path: Path) -> None:
    original = opened(RandomForestClassifier(5, random_state=0).fit(X, LABELS[labels](Y)), tmp_path)
    agree(built(original, tree_forms.build, tmp_path / "form"), original, matrix(X))


@pytest.mark.parametrize("dtype", ["category", "str"])
def test_texts_of_a_frame_become_the_codes_that_the_model_was_fitted_with(dtype: str, tmp_path: Path) -> None:
    frame = pd.DataFrame(X, columns=list("abcd"))
    frame["town"] = pd.Series(np.array(["Rom", "Köln", "Oslo"])[Y]).astype(dtype)
    models: list[Any] = [
        HistGradientBoostingClassifier(max_iter=3, min_samples_leaf=5, categorical_features=["town"]).fit(frame, Y)
    ]
    if dtype == "category":
        models.append(lightgbm.LGBMClassifier(n_estimators=3, verbose=-1, min_data_per_group=1).fit(frame, Y))
    for number, model in enumerate(models):
        original = opened(model, tmp_path, f"model{number}.joblib")
        made = built(original, tree_forms.build, tmp_path / f"form{number}")
        columns: dict[str, Any] = {name: X[:9, index].copy() for index, name in enumerate("abcd")}
        towns = ["Rom", "Oslo", "Köln", "Ko\u0308ln", "", None, "rom", "Rom ", "Oslo"]
        columns["town"] = np.array(towns, dtype=object)
        agree(made, original, Rows(9, columns=columns))


SPARSE_ENDS: dict[str, Callable[[], Any]] = {
    "forest": lambda: RandomForestClassifier(5, random_state=0),
    "lightgbm": lambda: lightgbm.LGBMClassifier(n_estimators=5, min_child_samples=2, verbose=-1, n_jobs=1),
    "xgboost": lambda: xgboost.XGBClassifier(n_estimators=5, n_jobs=1),
}


@pytest.mark.parametrize("shape", ["dicts", "frame"])
@pytest.mark.parametrize("end", SPARSE_ENDS)
def test_trees_behind_a_sparse_matrix_take_what_is_not_in_it_as_their_library_does(
    end: str, shape: str, tmp_path: Path
) -> None:
    if end == "xgboost" and not HAS_COMPILER:
        pytest.skip("its sums are in float32, which the compiled walk adds in")
    random = np.random.default_rng(4)
    frame = pd.DataFrame({"heat": random.normal(size=200).round(1), "city": random.choice(list("abcdefgh"), 200)})
    target = ((frame["heat"] > 0) ^ (frame["city"] > "d")).astype(int)
    records = frame.to_dict("records")
    if shape == "dicts":
        model = make_pipeline(DictVectorizer(), SPARSE_ENDS[end]()).fit(records, target)
    else:
        before = make_column_transformer(
            (SimpleImputer(), ["heat"]), (OneHotEncoder(handle_unknown="ignore"), ["city"]), sparse_threshold=1.0
        )
        model = make_pipeline(before, SPARSE_ENDS[end]()).fit(frame, target)
    original = opened(model, tmp_path)
    form_ = built(original, tree_forms.build_native if HAS_COMPILER else tree_forms.build, tmp_path / "form")
    heats = [0.0, -0.0, 0.5, -3.0, 1e-35, -1e-35, float(np.float32(-1e-35)), 1e-38, 5e-324, 1e10, None]
    asked = [*records[:40], *({"heat": heat, "city": city} for heat in heats for city in "ah")]
    rows = examples.rows_of(original.signature.fields or (), False, asked)
    bound = 1e-6 if end == "xgboost" else 1e-12
    for start in range(rows.n):
        agree_or_refuse(form_, original, rows.slice(start, start + 1), absolute=bound)
    agree_or_refuse(form_, original, rows.slice(0, 40), absolute=bound)


def test_the_graph_is_what_the_onnx_package_calls_a_model(tmp_path: Path) -> None:
    original = opened(RandomForestClassifier(5, random_state=0).fit(X, Y), tmp_path)
    for name in ("at once", "by tree"):
        built(original, BUILDERS[name], tmp_path / name)
        model = onnx.load(tmp_path / name / "trees.onnx")
        onnx.checker.check_model(model, full_check=True)
        assert {opset.domain: opset.version for opset in model.opset_import} == {"": 17, "ai.onnx.ml": 5}


def test_packed_numbers_read_back(tmp_path: Path) -> None:
    numbers = np.array([0, 1, 127, 128, 16_383, 16_384, 2**21 - 1, 2**21, 2**32, 2**35 - 1])
    attribute = onnx.AttributeProto()
    attribute.ParseFromString(b"\x42" + bytes([len(onnx_file.varints(numbers))]) + onnx_file.varints(numbers))
    assert list(attribute.ints) == numbers.tolist()


def test_a_root_with_a_leaf_and_a_node_of_equal_number_is_no_leaf() -> None:
    """ONNX Runtime reads a root whose two children have the same number as a leaf; see `trees._renumber`."""
    chain = trees.Trees(
        width=1,
        feature=np.array([0, 0]),
        threshold=np.array([0.0, 1.0]),
        left=np.array([-2, -1]),
        right=np.array([1, -3]),
        missing_left=np.zeros(2, dtype=bool),
        roots=np.array([0]),
        leaf_tree=np.zeros(3, dtype=np.int64),
        values=np.array([[1.0], [2.0], [3.0]]),
        target=np.zeros(1, dtype=np.int64),
    )
    (node,) = onnx.load_from_string(trees.graph(chain, chain.values[:, 0], by_tree=False, missing=False)).graph.node
    found = {attribute.name: list(attribute.ints) for attribute in node.attribute}
    assert found["nodes_truenodeids"][0] != found["nodes_falsenodeids"][0]


def test_too_many_nodes_are_refused_with_the_numbers() -> None:
    with pytest.raises(NotApplicable, match="6,000,000 nodes"):
        trees.refuse_too_large(6_000_000, "native")
    with pytest.raises(NotApplicable, match=r"about 1\.3 GB"):
        trees.refuse_too_large(4_000_000)
    trees.refuse_too_large(4_000_000, "by tree")


def test_what_is_no_sum_of_known_leaves_is_not_built(tmp_path: Path) -> None:
    linear = lightgbm.LGBMRegressor(n_estimators=3, verbose=-1, linear_tree=True).fit(X, X[:, 0])
    started = GradientBoostingRegressor(n_estimators=2, init=LinearRegression()).fit(X, X[:, 0])
    for number, (model, reason) in enumerate([(linear, "linear_tree"), (started, "LinearRegression")]):
        original = opened(model, tmp_path, f"model{number}.joblib")
        with pytest.raises(NotApplicable, match=reason):
            tree_forms.build(original, tmp_path)


def test_small_trees_have_no_layout_for_large_forests(tmp_path: Path) -> None:
    original = opened(RandomForestClassifier(2, random_state=0).fit(X, Y), tmp_path)
    with pytest.raises(NotApplicable, match="cache"):
        tree_forms.build_by_tree(original, tmp_path)


def test_a_damaged_form_is_a_load_that_failed(tmp_path: Path) -> None:
    original = opened(RandomForestClassifier(2, random_state=0).fit(X, Y), tmp_path)
    built(original, tree_forms.build, tmp_path / "form")
    for name in ("trees.onnx", "trees.npy", "form.json"):
        whole = (tmp_path / "form" / name).read_bytes()
        (tmp_path / "form" / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(LoadFailed):
            form.open_folder(tmp_path / "form", 1)
        (tmp_path / "form" / name).write_bytes(whole)


def test_a_worker_answers_without_a_model_library(tmp_path: Path) -> None:
    original = opened(make_pipeline(StandardScaler(), RandomForestClassifier(2, random_state=0)).fit(X, Y), tmp_path)
    built(original, tree_forms.build, tmp_path / "form")
    (tmp_path / "signature.json").write_bytes(msgspec.json.encode(original.signature))
    code = """
import sys, pathlib, msgspec, numpy as np
from lagar.registry.signature import Signature
from lagar.runtimes import examples, form
from lagar.types import Rows
folder = pathlib.Path(sys.argv[1])
made = form.open_folder(folder / "form", 1)
made.bind(msgspec.json.decode((folder / "signature.json").read_bytes(), type=Signature))
print(made.predict(Rows(1, matrix=np.zeros((1, 4))), ("predict",))["predict"].tolist())
print(sorted({"sklearn", "scipy", "pandas", "joblib", "onnx", "lightgbm"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    label, loaded = done.stdout.splitlines()
    assert label == str(original.predict(matrix(np.zeros((1, 4))))["predict"].tolist())
    assert loaded == "[]"


def test_a_lightgbm_text_file_and_an_own_objective(tmp_path: Path) -> None:
    def squared(scores: np.ndarray, data: lightgbm.Dataset) -> tuple[np.ndarray, np.ndarray]:
        return scores - data.get_label(), np.ones_like(scores)

    for objective, y in (("multiclass", Y), (squared, X[:, 0])):
        some = {"objective": objective, "verbose": -1, "num_threads": 1}
        classes = {"num_class": 3} if objective == "multiclass" else {}
        booster = lightgbm.train(some | classes, lightgbm.Dataset(X, y), num_boost_round=4)
        folder = tmp_path / str(len(classes))
        folder.mkdir()
        booster.save_model(folder / "model.txt")
        original = opened(folder / "model.txt", folder)
        for name, build in BUILDERS.items():
            agree(built(original, build, folder / name), original, matrix(X))


@pytest.mark.parametrize(
    "kind", ["lightgbm, 2 classes", "lightgbm, 3 classes", "xgboost, 2 classes", "xgboost, 3 classes"]
)
def test_a_booster_of_an_mlserver_folder_answers_its_own_numbers(kind: str, tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    library, classes = kind.split(", ")[0], int(kind.split(", ")[1][0])
    x = random.normal(size=(300, 4))
    y = (x[:, 0] > 0).astype(int) + (x[:, 1] > 0.5) * (classes - 2)
    if library == "lightgbm":
        objective = {"objective": "binary"} if classes == 2 else {"objective": "multiclass", "num_class": 3}
        lightgbm.train({**objective, "verbose": -1, "num_threads": 1}, lightgbm.Dataset(x, y), 8).save_model(
            tmp_path / "model.bst"
        )
        implementation = "mlserver_lightgbm.LightGBMModel"
    else:
        several = {"objective": "multi:softprob", "num_class": 3}
        objective = {"objective": "binary:logistic"} if classes == 2 else several
        xgboost.train({**objective, "nthread": 1}, xgboost.DMatrix(x, y), 8).save_model(tmp_path / "model.ubj")
        implementation = "mlserver_xgboost.XGBoostModel"
    (tmp_path / "model-settings.json").write_bytes(msgspec.json.encode({"name": "m", "implementation": implementation}))
    original = opened(tmp_path, tmp_path)
    assert original.outputs == ("predict",)
    rows = matrix(hostile(random, 4, 200, thresholds_of(original, 4)))
    bound = 1e-12 if library == "lightgbm" else 1e-6
    agree(built(original, tree_forms.build_native, tmp_path / "native"), original, rows, bound, bound)
    if library == "lightgbm":
        agree(built(original, tree_forms.build, tmp_path / "trees"), original, rows, bound, bound)
