"""Heads for estimators with scikit-learn's interface: what is asked for in one pass, equal to its own methods.

Labels are taken from probabilities only for families whose own `predict` does just that: forests and trees
(`classes_.take(argmax(predict_proba))`), LightGBM and XGBoost wrappers have heads of their own. Logistic regression
computes its scores once. Everything else is asked twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lagar.errors import UnsupportedModel
from lagar.registry.signature import Scalar, Task
from lagar.runtimes.base import Head, one_per_row, plain, scalars
from lagar.types import Array, Outputs

_LABELS_ARE_ARGMAX = frozenset({
    "RandomForestClassifier", "ExtraTreesClassifier", "DecisionTreeClassifier", "ExtraTreeClassifier",
})  # fmt: skip


def head_of(estimator: Any) -> Head:
    """The head that fits a fitted estimator; UnsupportedModel for one that can answer nothing about new rows."""
    kind = estimator_type(estimator)
    name = type(estimator).__name__
    if hasattr(estimator, "predict"):
        if kind == "classifier" or (kind is None and hasattr(estimator, "classes_")):
            return MultiOutputHead(estimator) if _is_multi_output(estimator) else ClassifierHead(estimator)
        if kind == "outlier_detector":
            return OutlierHead(estimator)
        if kind in {"clusterer", "density_estimator"}:
            return ClustererHead(estimator)
        return RegressorHead(estimator, "regressor" if kind == "regressor" else "unknown")
    if hasattr(estimator, "transform"):
        return TransformerHead(estimator)
    if kind == "clusterer":
        raise UnsupportedModel(
            f"{name} cannot place new rows: it has fit_predict and no predict; serve KMeans, or a classifier trained "
            "on its labels"
        )
    if kind == "outlier_detector":
        raise UnsupportedModel(f"{name} has no predict for new rows; train it with novelty=True")
    raise UnsupportedModel(
        f"{name} has neither predict nor transform; serve the fitted estimator, or wrap it in a class"
    )


def estimator_type(estimator: Any) -> str | None:
    """What an estimator says it is: classifier, regressor, clusterer, outlier_detector, density_estimator, None."""
    try:
        from sklearn.utils import get_tags

        kind = get_tags(estimator).estimator_type
    except (ImportError, AttributeError, TypeError, ValueError):
        kind = getattr(estimator, "_estimator_type", None)
    if kind is None:
        kind = getattr(estimator, "_estimator_type", None)
    names = {"DensityEstimator": "density_estimator", "outlier_detector": "outlier_detector"}
    return None if kind is None else names.get(str(kind), str(kind))


def _is_multi_output(estimator: Any) -> bool:
    """Several targets: classes_ is a list of arrays."""
    classes = getattr(estimator, "classes_", None)
    return isinstance(classes, (list, tuple)) and bool(classes) and np.ndim(classes[0]) == 1


class ClassifierHead(Head):
    """predict and, where the estimator has it, predict_proba."""

    task: Task = "classifier"

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator
        has_proba = hasattr(estimator, "predict_proba")
        self.names: tuple[str, ...] = ("predict", "predict_proba") if has_proba else ("predict",)
        self.native = self.names
        classes = getattr(estimator, "classes_", None)
        self._classes = None if classes is None else np.asarray(classes)
        self.classes: tuple[Scalar, ...] | None = None if classes is None else scalars(self._classes)
        self.meanings = {
            "predict": "the predicted class",
            "predict_proba": "the probability of each class, in the order of the classes",
        }
        self._proba: Callable[[Any], Array] | None = estimator.predict_proba if has_proba else None
        self._labels_are_argmax = has_proba and classes is not None and _is_sklearn(estimator, _LABELS_ARE_ARGMAX)
        self._linear = _LogisticScores.of(estimator) if has_proba else None

    def use_proba(self, proba: Callable[[Any], Array]) -> None:
        """Take probabilities from a quicker function that was proved equal."""
        self._proba = proba

    def outputs(self, x: Any, names: tuple[str, ...]) -> Outputs:
        found: Outputs = {}
        both = "predict" in names and "predict_proba" in names
        if both and self._linear is not None:
            return self._linear.outputs(x)
        if "predict_proba" in names or self._labels_are_argmax:
            assert self._proba is not None
            proba = self._proba(x)
            if "predict_proba" in names:
                found["predict_proba"] = plain(proba)
            if "predict" in names and self._labels_are_argmax:
                assert self._classes is not None
                found["predict"] = plain(self._classes.take(np.argmax(proba, axis=1), axis=0))
        if "predict" in names and "predict" not in found:
            found["predict"] = one_per_row(self.estimator.predict(x))
        return found


class _LogisticScores:
    """Labels and probabilities of a LogisticRegression from one decision_function, as its own two methods do."""

    def __init__(self, estimator: Any, *, sigmoid: bool) -> None:
        self._estimator = estimator
        self._classes = estimator.classes_
        self._sigmoid = sigmoid

    @classmethod
    def of(cls, estimator: Any) -> _LogisticScores | None:
        """None for other estimators, and where a small sample shows that this version computes differently."""
        if not _is_sklearn(estimator, {"LogisticRegression", "LogisticRegressionCV"}):
            return None
        width = estimator.coef_.shape[1]
        sample = np.random.default_rng(0).normal(scale=3.0, size=(64, width)) / max(width, 1)
        sample[0] = 0.0
        names = estimator.__dict__.pop("feature_names_in_", None)  # the sample has no names: nothing to warn of
        try:
            wanted = {"predict": plain(estimator.predict(sample)), "predict_proba": estimator.predict_proba(sample)}
            for sigmoid in (len(estimator.classes_) <= 2, False):
                scores = cls(estimator, sigmoid=sigmoid)
                found = scores.outputs(sample)
                if all(np.array_equal(found[name], wanted[name]) for name in wanted):
                    return scores
        finally:
            if names is not None:
                estimator.feature_names_in_ = names
        return None

    def outputs(self, x: Any) -> Outputs:
        from scipy.special import expit
        from sklearn.utils.extmath import softmax

        scores = self._estimator.decision_function(x)
        index = (scores > 0).astype(np.intp) if scores.ndim == 1 else np.argmax(scores, axis=1)
        labels = plain(self._classes.take(index, axis=0))
        if self._sigmoid and scores.ndim == 1:
            expit(scores, out=scores)
            return {"predict": labels, "predict_proba": np.stack([1 - scores, scores], axis=1)}
        if scores.ndim == 1:
            scores = np.c_[-scores, scores]
        return {"predict": labels, "predict_proba": softmax(scores, copy=False)}


class MultiOutputHead(Head):
    """Several targets at once: predict (n, k) and one predict_proba_<i> per target."""

    task: Task = "classifier"

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator
        self._classes = [scalars(classes) for classes in estimator.classes_]
        self._has_proba = hasattr(estimator, "predict_proba")
        self.names: tuple[str, ...] = ("predict",)
        if self._has_proba:
            self.names += tuple(f"predict_proba_{index}" for index in range(len(self._classes)))
        self.native = self.names
        self.meanings = {"predict": "the predicted class of each target"} | {
            f"predict_proba_{index}": f"target {index}: the probability of each of {list(classes)}"
            for index, classes in enumerate(self._classes)
        }

    def outputs(self, x: Any, names: tuple[str, ...]) -> Outputs:
        found: Outputs = {}
        if "predict" in names:
            found["predict"] = plain(self.estimator.predict(x))
        wanted = [name for name in names if name != "predict"]
        if wanted:
            probabilities = self.estimator.predict_proba(x)
            for name in wanted:
                found[name] = plain(probabilities[int(name.rpartition("_")[2])])
        return found


class RegressorHead(Head):
    """predict: (n,), or (n, k) for several targets."""

    def __init__(self, estimator: Any, task: Task = "regressor") -> None:
        self.estimator = estimator
        self.task: Task = task
        self.meanings = {"predict": "the predicted value"}
        self._predict: Callable[[Any], Array] = estimator.predict

    def use_predict(self, predict: Callable[[Any], Array]) -> None:
        """Take values from a quicker function that was proved equal."""
        self._predict = predict

    def outputs(self, x: Any, names: tuple[str, ...]) -> Outputs:
        return {"predict": one_per_row(self._predict(x))}


class ClustererHead(Head):
    """predict: the cluster's number; transform (distances) and predict_proba (mixtures) where they exist."""

    task: Task = "clusterer"

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator
        extra = tuple(name for name in ("predict_proba", "transform") if hasattr(estimator, name))
        self.names: tuple[str, ...] = ("predict", *extra)
        self.native = tuple(name for name in self.names if name != "transform")
        self.meanings = {
            "predict": "the number of the cluster",
            "predict_proba": "the probability of each component",
            "transform": "the distance to each cluster's centre",
        }

    def outputs(self, x: Any, names: tuple[str, ...]) -> Outputs:
        return {name: plain(getattr(self.estimator, name)(x)) for name in names}


class OutlierHead(Head):
    """predict: 1 for inliers, -1 for outliers; decision_function: the score, negative for outliers."""

    task: Task = "outlier"

    def __init__(self, estimator: Any) -> None:
        if not hasattr(estimator, "predict"):
            raise UnsupportedModel(
                f"{type(estimator).__name__} has no predict for new rows; train it with novelty=True"
            )
        self.estimator = estimator
        self._has_score = hasattr(estimator, "decision_function")
        self.names: tuple[str, ...] = ("predict", "decision_function") if self._has_score else ("predict",)
        self.native = self.names
        self.meanings = {
            "predict": "1 for an inlier, -1 for an outlier",
            "decision_function": "the score: negative for outliers",
        }

    def outputs(self, x: Any, names: tuple[str, ...]) -> Outputs:
        return {name: one_per_row(getattr(self.estimator, name)(x)) for name in names}


class TransformerHead(Head):
    """transform: the row as the transformer gives it, dense."""

    task: Task = "transformer"
    names = ("transform",)
    native = ("transform",)

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator
        self.meanings = {"transform": "the transformed row"}

    def outputs(self, x: Any, names: tuple[str, ...]) -> Outputs:
        return {"transform": plain(self.estimator.transform(x))}


def _is_sklearn(estimator: Any, names: frozenset[str] | set[str]) -> bool:
    """Exactly one of scikit-learn's own classes: a subclass may predict otherwise."""
    kind = type(estimator)
    return kind.__name__ in names and kind.__module__.partition(".")[0] == "sklearn"


class Trees:
    """A forest's own trees called directly, in its own order: the same numbers without a validation per tree.

    scikit-learn checks its input once per tree; for 100 trees and one row that is fourteen fifteenths of the time.
    Sums run in the order of the trees, as the forest's own do with one job; `of` proves equality on rows made to
    hurt (thresholds, their neighbours in float32, missing values) before it is used.
    """

    def __init__(self, estimator: Any) -> None:
        self._estimator = estimator
        self._trees = [tree.tree_ for tree in estimator.estimators_]
        self._width: int = estimator.n_features_in_
        self._is_classifier = hasattr(estimator, "classes_")
        self._classes = int(estimator.n_classes_) if self._is_classifier else 1
        self._own: Callable[[Any], Array] = estimator.predict_proba if self._is_classifier else estimator.predict

    @classmethod
    def of(cls, estimator: Any) -> Trees | None:
        """None when the estimator is no single-output forest, or when the numbers are not the same to the last bit."""
        names = {"RandomForestClassifier", "ExtraTreesClassifier", "RandomForestRegressor", "ExtraTreesRegressor"}
        if not _is_sklearn(estimator, names) or getattr(estimator, "n_outputs_", 0) != 1:
            return None
        try:
            trees = cls(estimator)
            for x in _hurting_rows(trees._trees, trees._width):
                try:
                    wanted = trees._own(x)
                except ValueError:  # this version takes no missing values; `__call__` leaves such rows to it
                    continue
                if not np.array_equal(trees(x), wanted):
                    return None
        except (AttributeError, TypeError, IndexError):  # a version whose trees look otherwise
            return None
        return trees

    def __call__(self, x: Any) -> Array:
        """Probabilities (n, classes), or values (n,); rows that need the forest's own checks go to it."""
        if type(x) is not np.ndarray or x.ndim != 2 or x.shape[1] != self._width or x.dtype != np.float64:
            return self._own(x)
        with np.errstate(over="ignore"):
            x32 = x.astype(np.float32, order="C")
        # The sum is finite for every ordinary row: NaN, infinity and float32 overflow all go the long way.
        if not np.isfinite(x32).all():
            return self._own(x)
        if not self._is_classifier:
            values = np.zeros(len(x32), dtype=np.float64)
            for tree in self._trees:
                values += tree.predict(x32)[:, 0]
            values /= len(self._trees)
            return values
        proba = np.zeros((len(x32), self._classes), dtype=np.float64)
        for tree in self._trees:
            proba += tree.predict(x32)[:, : self._classes]
        proba /= len(self._trees)
        return proba


def _hurting_rows(trees: Sequence[Any], width: int) -> list[Array]:
    """Rows at the trees' own thresholds and beside them, rows far away, and one row alone."""
    random = np.random.default_rng(0)
    thresholds: list[list[float]] = [[0.0] for _ in range(width)]
    for tree in trees[:20]:
        inner = tree.feature >= 0
        for feature, threshold in zip(tree.feature[inner][:500], tree.threshold[inner][:500], strict=True):
            thresholds[feature].append(float(threshold))
    at = np.column_stack([random.choice(values, size=64) for values in thresholds])
    beside = np.nextafter(at.astype(np.float32), np.float32(np.inf)).astype(np.float64)
    far = random.normal(size=(16, width)) * 1e6
    return [at, beside, np.nextafter(at, -np.inf), far, at[:1]]
