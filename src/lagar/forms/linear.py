"""The last estimator as the end of a column program: linear models, naive Bayes, discriminants, networks, centres."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from lagar.forms.candidates import NotApplicable
from lagar.forms.flow import Flow, Matrix
from lagar.runtimes.answers import Labels
from lagar.runtimes.column_ends import (
    AnyEnd,
    Calibrated,
    Centres,
    Classify,
    Curve,
    Gaussian,
    Linear,
    Member,
    Network,
    Quadratic,
    Regress,
    Transformed,
)
from lagar.runtimes.column_shares import PROBABILITIES, Probabilities
from lagar.runtimes.column_sources import AnySource, Hot, Records, Whole
from lagar.runtimes.column_steps import AnyStep, ufunc
from lagar.types import Array

Ended = tuple[list[AnySource], AnyEnd]

_LINEAR_CLASSIFIERS = frozenset({
    "LogisticRegression", "LogisticRegressionCV", "SGDClassifier", "LinearSVC", "Perceptron", "RidgeClassifier",
    "RidgeClassifierCV", "PassiveAggressiveClassifier", "LinearDiscriminantAnalysis",
})  # fmt: skip
_LINEAR_REGRESSORS = frozenset({
    "LinearRegression", "Ridge", "RidgeCV", "Lasso", "LassoCV", "LassoLars", "LassoLarsCV", "LassoLarsIC", "Lars",
    "LarsCV", "ElasticNet", "ElasticNetCV", "MultiTaskLasso", "MultiTaskLassoCV", "MultiTaskElasticNet",
    "MultiTaskElasticNetCV", "SGDRegressor", "LinearSVR", "HuberRegressor", "TheilSenRegressor", "QuantileRegressor",
    "BayesianRidge", "ARDRegression", "OrthogonalMatchingPursuit", "OrthogonalMatchingPursuitCV",
    "PassiveAggressiveRegressor",
})  # fmt: skip
_GENERALIZED = frozenset({"PoissonRegressor", "GammaRegressor", "TweedieRegressor"})
_DISCRETE_BAYES = frozenset({"MultinomialNB", "ComplementNB", "BernoulliNB"})


def is_transformer(final: Any) -> bool:
    """Whether the model answers rows with transformed rows."""
    return not hasattr(final, "predict") and hasattr(final, "transform")


def check(final: Any) -> None:
    """NotApplicable where the estimator has no end, before anything is built."""
    name = type(final).__name__
    if type(final).__module__.partition(".")[0] != "sklearn":
        raise NotApplicable(f"{name} is not one of scikit-learn's own estimators")
    if name not in _ENDS:
        raise NotApplicable(f"{name} has no column program")


def transformed(flow: Flow) -> Ended:
    """A model that is a transformer."""
    return [flow.source()], Transformed()


def end_of(final: Any, flow: Flow) -> Ended:
    """Sources and end; raises NotApplicable."""
    check(final)
    return _ENDS[type(final).__name__](final, flow)


def _labels(final: Any) -> Labels:
    labels = Labels.of(final.classes_) if not isinstance(final.classes_, list) else None
    if labels is None:
        raise NotApplicable("its classes are not of one type, or it has several targets")
    return labels


def _product(coef: Array, flow: Flow) -> tuple[list[AnySource], bool]:
    """The sources of a product, and whether it goes term by term."""
    sources = flow.sources()
    coded = [source for source in sources if isinstance(source, (Hot, Records))]
    terms = flow.sparse and bool(coded) and all(source.width for source in coded)
    if flow.width != coef.shape[-1]:
        raise NotApplicable(f"the estimator takes {coef.shape[-1]} columns and the steps make {flow.width}")
    if terms and not any(isinstance(source, Whole) for source in sources):
        return sources, True
    return [flow.source()], False


def _linear(final: Any, flow: Flow, coef: Any, intercept: Any, head: Classify | Regress) -> Ended:
    coef = np.asarray(coef)
    sources, terms = _product(coef, flow)
    add = flow.sheet.add
    return sources, Linear(add(coef), add(intercept), head, terms=terms)


def _classifier(final: Any, flow: Flow) -> Ended:
    labels = _labels(final)
    coef = np.atleast_2d(final.coef_)
    if coef.ndim != 2 or (len(coef) == 1) != (len(labels.values) == 2):
        raise NotApplicable("it has several targets")
    return _linear(final, flow, coef, final.intercept_, Classify(labels, _probabilities(final, coef)))


def _probabilities(final: Any, coef: Array) -> Probabilities:
    """The formula by which `predict_proba` goes from scores: it depends on version, solver and loss.

    It is asked about scores of every size, whatever the coefficients make of rows.
    """
    if not hasattr(final, "predict_proba"):
        return "none"
    scores = np.random.default_rng(0).normal(size=(64, len(coef))) * np.geomspace(0.1, 30.0, 64)[:, None]
    scores = scores[:, 0] if len(coef) == 1 else scores
    asked = copy.copy(final)
    asked.__dict__.pop("feature_names_in_", None)  # the rows have no names
    asked.decision_function = lambda x: scores.copy()
    wanted = asked.predict_proba(np.zeros((64, coef.shape[1])))
    kinds: tuple[Probabilities, ...] = (
        ("expit", "softmax2", "huber") if scores.ndim == 1 else ("softmax", "ovr", "huber")
    )
    for kind in kinds:
        found = PROBABILITIES[kind](scores.copy())
        if found.shape == wanted.shape and np.abs(found - wanted).max() < 1e-12:
            return kind
    raise NotApplicable(f"how {type(final).__name__} makes probabilities of its scores is not known")


def _regressor(final: Any, flow: Flow) -> Ended:
    return _linear(final, flow, final.coef_, final.intercept_, Regress())


def _generalized(final: Any, flow: Flow) -> Ended:
    link = type(final._base_loss.link).__name__
    if link not in ("LogLink", "IdentityLink"):
        raise NotApplicable(f"{type(final).__name__} has the link {link}")
    return _linear(final, flow, final.coef_, final.intercept_, Regress("exp" if link == "LogLink" else None))


def _transformed_target(final: Any, flow: Flow) -> Ended:
    """A regressor whose target was transformed: its end, with the way back behind it."""
    from lagar.forms import columns

    back, estimator = final.transformer_, final.regressor_
    name = getattr(getattr(back, "inverse_func", None), "__name__", "")
    if type(back).__name__ != "FunctionTransformer" or ufunc(name) is not back.inverse_func or back.inv_kw_args:
        raise NotApplicable("the way back from its target is code of its own")
    steps: list[Any] = []
    if type(estimator).__name__ == "Pipeline":
        *steps, estimator = (step for _, step in estimator.steps)
    check(estimator)
    sources, end = end_of(estimator, columns.walk(steps, flow, refused_later=True))
    if not isinstance(end, Linear) or end.head != Regress() or np.asarray(estimator.coef_).ndim != 1:
        raise NotApplicable(f"its target is transformed around a {type(estimator).__name__}")
    return sources, msgspec.structs.replace(end, head=Regress(name, finite=bool(back.validate)))


def _discrete_bayes(final: Any, flow: Flow) -> Ended:
    name = type(final).__name__
    labels, logs = _labels(final), np.asarray(final.feature_log_prob_)
    if len(labels.values) == 1:
        raise NotApplicable("it knows one class only")
    prior = np.asarray(final.class_log_prior_)
    if name == "ComplementNB":
        prior = np.zeros_like(prior)
    if name == "BernoulliNB":
        negative = np.log(1 - np.exp(logs))
        prior = prior + negative.sum(axis=1)
        logs = logs - negative
        if final.binarize is not None:
            from lagar.runtimes.column_steps import Binarize, Refuse

            steps: list[AnyStep] = [Refuse(nan=True), Binarize(float(final.binarize))]
            flow = flow if _is_coded(flow, final.binarize) else flow.stepped(steps, flow.width, sparse=flow.sparse)
    return _linear(final, flow, logs, prior, Classify(labels, "bayes"))


def _is_coded(flow: Flow, threshold: float) -> bool:
    """Columns of 0 and 1 are what a threshold between them makes of them."""
    return 0 <= threshold < 1 and all(isinstance(p, Matrix) and isinstance(p.source, Hot) for p in flow.pieces)


def _gaussian(final: Any, flow: Flow) -> Ended:
    add = flow.sheet.add
    norms = [-0.5 * np.sum(np.log(2.0 * np.pi * spread)) for spread in final.var_]
    return [flow.source()], Gaussian(
        _labels(final), add(final.theta_), add(final.var_), add(np.log(final.class_prior_)), add(norms)
    )


def _quadratic(final: Any, flow: Flow) -> Ended:
    add = flow.sheet.add
    rotations = [
        add(rotation * scaling ** (-0.5)) for rotation, scaling in zip(final.rotations_, final.scalings_, strict=True)
    ]
    sizes = [np.sum(np.log(scaling)) for scaling in final.scalings_]
    return [flow.source()], Quadratic(
        _labels(final), add(final.means_), rotations, add(sizes), add(np.log(final.priors_))
    )


def _network(final: Any, flow: Flow) -> Ended:
    add = flow.sheet.add
    labels = None
    if hasattr(final, "classes_"):
        labels = _labels(final)
        if final._label_binarizer.y_type_ not in ("binary", "multiclass"):
            raise NotApplicable("it has several targets")
    return [flow.source()], Network(
        [add(weights) for weights in final.coefs_],
        [add(bias) for bias in final.intercepts_],
        hidden=final.activation,
        last=final.out_activation_,
        labels=labels,
    )


def _calibrated(final: Any, flow: Flow) -> Ended:
    from lagar.forms import columns

    labels = _labels(final)
    members = []
    for fitted in final.calibrated_classifiers_:
        estimator, steps = fitted.estimator, []
        if fitted.method not in ("sigmoid", "isotonic"):
            raise NotApplicable(f"it is calibrated by {fitted.method}")
        inner = flow
        if type(estimator).__name__ == "Pipeline":
            inner = Flow([Matrix(Whole(), flow.width)], flow.sheet)
            inner = columns.walk([step for _, step in estimator.steps[:-1]], inner, refused_later=True)
            estimator = estimator.steps[-1][1]
            steps = _only_steps(inner)
        if type(estimator).__name__ not in _LINEAR_CLASSIFIERS or not np.array_equal(
            estimator.classes_, final.classes_
        ):
            raise NotApplicable(f"it calibrates a {type(estimator).__name__}")
        curves = [_curve(calibrator, flow) for calibrator in fitted.calibrators]
        add = flow.sheet.add
        members.append(Member(steps, add(np.atleast_2d(estimator.coef_)), add(estimator.intercept_), curves))
    return [flow.source()], Calibrated(labels, members)


def _only_steps(flow: Flow) -> list[AnyStep]:
    from lagar.runtimes.column_sources import Stepped

    source = flow.source()
    if isinstance(source, Whole):
        return []
    if isinstance(source, Stepped) and isinstance(source.source, Whole):
        return source.steps
    raise NotApplicable("it calibrates a pipeline with an encoder")


def _curve(calibrator: Any, flow: Flow) -> Curve:
    if type(calibrator).__name__ == "IsotonicRegression":
        add = flow.sheet.add
        return Curve(points=(add(calibrator.X_thresholds_), add(calibrator.y_thresholds_)))
    return Curve(slope=float(calibrator.a_), offset=float(calibrator.b_))


def _centres(final: Any, flow: Flow) -> Ended:
    return [flow.source()], Centres(flow.sheet.add(np.asarray(final.cluster_centers_, dtype=np.float64)))


_ENDS: dict[str, Callable[[Any, Flow], Ended]] = {
    **dict.fromkeys(_LINEAR_CLASSIFIERS, _classifier),
    **dict.fromkeys(_LINEAR_REGRESSORS, _regressor),
    **dict.fromkeys(_GENERALIZED, _generalized),
    **dict.fromkeys(_DISCRETE_BAYES, _discrete_bayes),
    "TransformedTargetRegressor": _transformed_target,
    "GaussianNB": _gaussian,
    "QuadraticDiscriminantAnalysis": _quadratic,
    "MLPClassifier": _network,
    "MLPRegressor": _network,
    "CalibratedClassifierCV": _calibrated,
    "KMeans": _centres,
    "MiniBatchKMeans": _centres,
}
