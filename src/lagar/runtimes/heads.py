"""Heads for estimators with scikit-learn's interface: what is asked for in one pass, equal to its own methods.

Labels are taken from probabilities only for families whose own `predict` does just that: forests and trees
(`classes_.take(argmax(predict_proba))`), LightGBM and XGBoost wrappers have heads of their own. Logistic regression
computes its scores once. Everything else is asked twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lagar.errors import UnsupportedModel
from lagar.registry.signature import Scalar, Task
from lagar.runtimes.base import Head, one_per_row, plain, scalars
from lagar.runtimes.direct import Logistic, is_sklearn
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
    """Several targets: classes_ is a list of arrays; a chain has those too, and one matrix of probabilities."""
    if type(estimator).__name__ == "ClassifierChain":
        return False
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
        if isinstance(classes, list):
            classes = None
        self._classes = None if classes is None else np.asarray(classes)
        self.classes: tuple[Scalar, ...] | None = None if classes is None else scalars(self._classes)
        self.meanings = {
            "predict": "the predicted class",
            "predict_proba": "the probability of each class, in the order of the classes",
        }
        self._proba: Callable[[Any], Array] | None = estimator.predict_proba if has_proba else None
        self._labels_are_argmax = has_proba and classes is not None and is_sklearn(estimator, _LABELS_ARE_ARGMAX)
        self._linear = Logistic.of(estimator) if has_proba else None

    def use_proba(self, proba: Callable[[Any], Array]) -> None:
        """Take probabilities from a quicker function that was proved equal."""
        self._proba = proba

    def outputs(self, x: Any, names: tuple[str, ...]) -> Outputs:
        found: Outputs = {}
        if self._linear is not None:
            return self._linear.outputs(x, names)
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
        self.target_classes = {f"predict_proba_{index}": classes for index, classes in enumerate(self._classes)}

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
