"""An estimator's own arithmetic without its validation per call, used where it gives the same bits.

scikit-learn checks its input in every step, and a forest once per tree: for one row that is most of the time. Each
class here does the operations of one estimator's own method, in their order, on an ordinary float64 matrix; anything
else (NaN, infinity, numbers beyond float32, sparse, frames) goes to the estimator itself. `of` compares both when a
model is loaded, on rows made to hurt, and gives None where a bit differs, as in another version of the library.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lagar.runtimes.base import plain
from lagar.types import Array, Outputs

_TREES = frozenset({
    "RandomForestClassifier", "ExtraTreesClassifier", "RandomForestRegressor", "ExtraTreesRegressor",
    "DecisionTreeClassifier", "DecisionTreeRegressor", "ExtraTreeClassifier", "ExtraTreeRegressor",
})  # fmt: skip


def is_sklearn(estimator: Any, names: frozenset[str] | set[str]) -> bool:
    """Exactly one of scikit-learn's own classes: a subclass may predict otherwise."""
    kind = type(estimator)
    return kind.__name__ in names and kind.__module__.partition(".")[0] == "sklearn"


def transform_of(step: Any) -> Callable[[Any], Any]:
    """A step's transform, or the same without its validation."""
    return Scaler.of(step) or step.transform


def _ordinary(x: Any, width: int) -> bool:
    """A float64 matrix of the right width without NaN or infinity; a sum that overflows only costs the long way."""
    if type(x) is not np.ndarray or x.dtype != np.float64 or x.ndim != 2 or x.shape[1] != width:
        return False
    return bool(np.isfinite(x.sum())) or bool(np.isfinite(x).all())


class Scaler:
    """StandardScaler: subtract the means, divide by the scales."""

    def __init__(self, estimator: Any) -> None:
        self._own: Callable[[Any], Any] = estimator.transform
        self._mean = np.asarray(estimator.mean_, np.float64) if estimator.with_mean else None
        self._scale = np.asarray(estimator.scale_, np.float64) if estimator.with_std else None
        self._width: int = estimator.n_features_in_

    @classmethod
    def of(cls, estimator: Any) -> Scaler | None:
        """None for other steps, steps that give frames, and where a bit differs."""
        if not is_sklearn(estimator, {"StandardScaler"}) or hasattr(estimator, "_sklearn_output_config"):
            return None
        try:
            scaler = cls(estimator)
            same = all(np.array_equal(scaler(x), estimator.transform(x)) for x in _samples(scaler._width))
        except (AttributeError, TypeError, ValueError):
            return None
        return scaler if same else None

    def __call__(self, x: Any) -> Any:
        if not _ordinary(x, self._width):
            return self._own(x)
        scaled = x - self._mean if self._mean is not None else x.copy()
        if self._scale is not None:
            scaled /= self._scale
        return scaled


class Logistic:
    """LogisticRegression: one product for labels and probabilities, which its two methods compute twice."""

    def __init__(self, estimator: Any, *, sigmoid: bool) -> None:
        self._estimator = estimator
        self._classes: Array = estimator.classes_
        self._coef: Array = estimator.coef_.T
        self._intercept = estimator.intercept_
        self._width = int(estimator.coef_.shape[1])
        self._sigmoid = sigmoid

    @classmethod
    def of(cls, estimator: Any) -> Logistic | None:
        """None for other estimators, and where a bit differs."""
        if not is_sklearn(estimator, {"LogisticRegression", "LogisticRegressionCV"}):
            return None
        names = estimator.__dict__.pop("feature_names_in_", None)  # samples have no names: nothing to warn of
        try:
            for sigmoid in (True, False):
                logistic = cls(estimator, sigmoid=sigmoid)
                if all(logistic._agrees(x) for x in _samples(logistic._width)):
                    return logistic
        except (AttributeError, TypeError, ValueError):
            return None
        finally:
            if names is not None:
                estimator.feature_names_in_ = names
        return None

    def _agrees(self, x: Array) -> bool:
        found = self.outputs(x, ("predict", "predict_proba"))
        return np.array_equal(found["predict"], plain(self._estimator.predict(x))) and np.array_equal(
            found["predict_proba"], self._estimator.predict_proba(x)
        )

    def outputs(self, x: Any, names: tuple[str, ...]) -> Outputs:
        """The named outputs for what the steps made of the rows; sparse and odd input goes to decision_function."""
        if _ordinary(x, self._width) and self._coef.ndim == 2:
            scores = x @ self._coef + self._intercept
            if scores.shape[1] == 1:
                scores = scores.reshape(-1)
        else:
            scores = self._estimator.decision_function(x)
        found: Outputs = {}
        for name in names:
            if name == "predict":
                index = (scores > 0).astype(np.intp) if scores.ndim == 1 else np.argmax(scores, axis=1)
                found[name] = plain(self._classes.take(index, axis=0))
            else:
                found[name] = self._probabilities(scores)
        return found

    def _probabilities(self, scores: Array) -> Array:
        if scores.ndim == 1 and self._sigmoid:
            from scipy.special import expit

            positive = expit(scores)
            return np.stack([1 - positive, positive], axis=1)
        if scores.ndim == 1:
            scores = np.c_[-scores, scores]
        scores = scores - np.max(scores, axis=1).reshape((-1, 1))
        np.exp(scores, out=scores)
        scores /= np.sum(scores, axis=1).reshape((-1, 1))
        return scores


def _samples(width: int) -> list[Array]:
    """Rows of several sizes and magnitudes: sums over one row and over many may run in another order."""
    random = np.random.default_rng(0)
    rows = random.normal(size=(300, width)) * np.exp(random.uniform(-6.0, 6.0, size=(300, 1)))
    rows[0] = 0.0
    return [rows[:1], rows[1:2], rows[2:5], rows[5:37], rows]


class Trees:
    """Forests and single trees: the trees' leaves summed in the order of the trees, as one job of a forest does."""

    def __init__(self, estimator: Any) -> None:
        self._estimator = estimator
        self._trees = [tree.tree_ for tree in getattr(estimator, "estimators_", [estimator])]
        self._width: int = estimator.n_features_in_
        self._is_classifier = hasattr(estimator, "classes_")
        self._classes = int(estimator.n_classes_) if self._is_classifier else 1
        self._own: Callable[[Any], Array] = estimator.predict_proba if self._is_classifier else estimator.predict

    @classmethod
    def of(cls, estimator: Any) -> Trees | None:
        """None when the estimator is no single-output forest or tree, and where a bit differs."""
        if not is_sklearn(estimator, _TREES) or getattr(estimator, "n_outputs_", 0) != 1:
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
