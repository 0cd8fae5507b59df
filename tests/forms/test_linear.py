"""Column programs of linear models, naive Bayes, discriminants, networks and centres on a matrix."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.feature_selection import SelectKBest
from sklearn.impute import SimpleImputer
from sklearn.linear_model import (
    BayesianRidge,
    ElasticNet,
    HuberRegressor,
    Lasso,
    LinearRegression,
    LogisticRegression,
    Perceptron,
    PoissonRegressor,
    Ridge,
    RidgeClassifier,
    SGDClassifier,
    SGDRegressor,
    TweedieRegressor,
)
from sklearn.naive_bayes import BernoulliNB, ComplementNB, GaussianNB, MultinomialNB
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import (
    Binarizer,
    KBinsDiscretizer,
    MinMaxScaler,
    Normalizer,
    PolynomialFeatures,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
)
from sklearn.svm import LinearSVC, LinearSVR

from lagar.forms.candidates import NotApplicable
from lagar.forms.columns import build
from lagar.types import Rows
from support.forms import agree_or_refuse, built, hostile, opened

RANDOM = np.random.default_rng(3)
WIDTH = 5
X = RANDOM.normal(size=(120, WIDTH))
SUM = X @ np.array([1.0, -2.0, 0.5, 0.0, 3.0])
TARGETS = {
    "two": (SUM > 0).astype(int),
    "three": np.digitize(SUM, [-2.0, 2.0]) + 5,
    "truth": SUM > 0,
    "text": np.array(["não", "sim", "talvez"])[np.digitize(SUM, [-2.0, 2.0])],
    "object": np.array(["a", "bb"], dtype=object)[(SUM > 0).astype(int)],
    "float": np.array([1.0, 2.0])[(SUM > 0).astype(int)],
}
CLASSIFIERS: dict[str, Callable[[], Any]] = {
    "logistic": lambda: LogisticRegression(C=10.0),
    "sgd, logistic": lambda: SGDClassifier(loss="log_loss", random_state=0),
    "sgd, huber": lambda: SGDClassifier(loss="modified_huber", random_state=0),
    "svc": LinearSVC,
    "perceptron": Perceptron,
    "ridge": RidgeClassifier,
    "lda": LinearDiscriminantAnalysis,
    "qda": QuadraticDiscriminantAnalysis,
    "gaussian": GaussianNB,
    "bernoulli": lambda: BernoulliNB(binarize=0.1),
    "network": lambda: MLPClassifier((6, 4), max_iter=5, random_state=0),
    "network, tanh": lambda: MLPClassifier((6,), activation="tanh", max_iter=5, random_state=0),
    "network, logistic": lambda: MLPClassifier((6,), activation="logistic", max_iter=5, random_state=0),
    "calibrated": lambda: CalibratedClassifierCV(LinearSVC(), cv=2),
    "calibrated pipelines": lambda: CalibratedClassifierCV(
        make_pipeline(StandardScaler(), LogisticRegression()), cv=2, method="isotonic"
    ),
    "calibrated once": lambda: CalibratedClassifierCV(LogisticRegression(), cv=2, ensemble=False),
}
REGRESSORS: dict[str, Callable[[], Any]] = {
    "linear": LinearRegression,
    "ridge": Ridge,
    "lasso": lambda: Lasso(alpha=0.1),
    "elastic": lambda: ElasticNet(alpha=0.1),
    "sgd": lambda: SGDRegressor(random_state=0),
    "svr": lambda: LinearSVR(random_state=0),
    "huber": HuberRegressor,
    "bayesian": BayesianRidge,
    "poisson": PoissonRegressor,
    "tweedie": lambda: TweedieRegressor(power=1.5),
    "network": lambda: MLPRegressor(hidden_layer_sizes=(6,), max_iter=5, random_state=0),
}
STEPS: dict[str, Callable[[], Any] | None] = {
    "none": None,
    "standard": StandardScaler,
    "uncentred": lambda: StandardScaler(with_mean=False),
    "min-max": lambda: MinMaxScaler(clip=True),
    "robust": RobustScaler,
    "l1": lambda: Normalizer("l1"),
    "l2": Normalizer,
    "binary": lambda: Binarizer(threshold=0.2),
    "products": lambda: PolynomialFeatures((2, 3), interaction_only=True),
    "powers": lambda: PolynomialFeatures(3, include_bias=False),
    "bins": lambda: KBinsDiscretizer(3, quantile_method="averaged_inverted_cdf"),
    "power": PowerTransformer,
    "quantiles": lambda: QuantileTransformer(n_quantiles=20),
    "components": lambda: PCA(3, whiten=True),
    "svd": lambda: TruncatedSVD(3, random_state=0),
    "chosen": lambda: SelectKBest(k=3),
    "filled": lambda: make_pipeline(SimpleImputer(missing_values=np.nan, add_indicator=True), StandardScaler()),
    "marked": lambda: SimpleImputer(missing_values=0.0, strategy="median"),
    "union": lambda: FeatureUnion(
        [("a", StandardScaler()), ("b", make_pipeline(MinMaxScaler(), PCA(2)))], transformer_weights={"a": 2.0}
    ),
}
property_test = settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def assert_same(model: Any, seed: int, *, absolute: float = 1e-9, relative: float = 1e-9) -> None:
    random = np.random.default_rng(seed)
    bad = np.concatenate([
        hostile(random, WIDTH, 24, holes=False),
        np.full((1, WIDTH), 1e39),
        np.full((1, WIDTH), 1e300),
        X[:4] * 1e-300,
        X[:6] + 1e10,
    ])  # fmt: skip
    broken = X[:8].copy()
    broken[[1, 3, 5, 6, 7], random.integers(0, WIDTH, 5)] = [np.nan, np.inf, -np.inf, 1e39, 1e308]
    with tempfile.TemporaryDirectory() as folder:
        original = opened(model, Path(folder))
        predictor = built(original, build, Path(folder) / "form")
        for values in (X, bad, broken):
            agree_or_refuse(predictor, original, Rows(len(values), matrix=values), absolute, relative)


def with_step(step: str, estimator: Any) -> Any:
    make = STEPS[step]
    return estimator if make is None else make_pipeline(make(), estimator)


@property_test
@given(
    classifier=st.sampled_from(sorted(CLASSIFIERS)),
    step=st.sampled_from(sorted(STEPS)),
    target=st.sampled_from(sorted(TARGETS)),
    seed=st.integers(0, 2**20),
)
@pytest.mark.filterwarnings("ignore")
def test_random_classifiers_are_the_original(classifier: str, step: str, target: str, seed: int) -> None:
    model = with_step(step, CLASSIFIERS[classifier]())
    try:
        model.fit(X, TARGETS[target])
    except (ValueError, TypeError):
        assume(False)  # scikit-learn does not train this combination
    assert_same(model, seed)


@property_test
@given(regressor=st.sampled_from(sorted(REGRESSORS)), step=st.sampled_from(sorted(STEPS)), seed=st.integers(0, 2**20))
@pytest.mark.filterwarnings("ignore")
def test_random_regressors_are_the_original(regressor: str, step: str, seed: int) -> None:
    model = with_step(step, REGRESSORS[regressor]())
    try:
        model.fit(X, np.exp(SUM / 5))
    except TypeError:
        assume(False)  # some take no sparse matrix
    assert_same(model, seed)


def test_probabilities_are_made_alike_where_every_score_is_huge() -> None:
    model = make_pipeline(PolynomialFeatures(3), SGDClassifier(loss="log_loss", random_state=0))
    assert_same(model.fit(X, TARGETS["text"]), 150906)


@pytest.mark.parametrize("kind", [LinearRegression, Ridge, Lasso, MLPRegressor])
@pytest.mark.filterwarnings("ignore")
def test_several_targets_are_columns_of_one_answer(kind: Any) -> None:
    assert_same(kind().fit(X, np.stack([SUM, SUM**2], axis=1)), 0)


@pytest.mark.parametrize("kind", [MultinomialNB, ComplementNB])
def test_naive_bayes_of_counts(kind: Any) -> None:
    assert_same(make_pipeline(MinMaxScaler(clip=True), kind()).fit(X, TARGETS["three"]), 0)


def test_centres_give_their_number_and_the_distances() -> None:
    assert_same(make_pipeline(StandardScaler(), KMeans(3, n_init=1, random_state=0)).fit(X), 0)


@pytest.mark.parametrize("step", sorted(set(STEPS) - {"none"}))
@pytest.mark.filterwarnings("ignore")
def test_a_transformer_alone_is_a_model(step: str) -> None:
    make = STEPS[step]
    assert make is not None
    assert_same(make().fit(X, TARGETS["two"]), 1)


@pytest.mark.filterwarnings("ignore")
def test_several_targets_of_a_classifier_stay_with_the_original(tmp_path: Path) -> None:
    labels = np.stack([SUM > 0, SUM > 2], axis=1).astype(int)
    original = opened(MLPClassifier((4,), max_iter=5).fit(X, labels), tmp_path)
    with pytest.raises(NotApplicable):
        build(original, tmp_path)
