"""From the sums of trees to a model's answers, with each library's own operations in its order.

`sums` is (n, targets), float64. scikit-learn's exponentials are NumPy's; its logistic function and all of LightGBM's
are the C library's, as Python's `math` is, and the two differ in the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import msgspec
import numpy as np

from lagar.runtimes.answers import Answer as Reading
from lagar.runtimes.answers import Answers, Labels
from lagar.types import Array, Outputs

Answer = Callable[[Array, tuple[str, ...]], Outputs]


class Finish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Says what the outputs are; subclasses say how."""

    def open(self) -> Answer:
        """The function from sums and the names that are asked for to the outputs."""
        raise NotImplementedError


class Shares(Finish, frozen=True, tag="shares"):
    """Classifying trees and forests: the mean of the trees' probabilities, and the first class that has the most."""

    labels: Labels
    divide: float | None

    def open(self) -> Answer:
        classes, divide = self.labels.array(), self.divide
        each = [classes[index : index + 1] for index in range(len(classes))]

        def answer(sums: Array, names: tuple[str, ...]) -> Outputs:
            proba = sums if divide is None else sums / divide
            found: Outputs = {}
            for name in names:
                if name == "predict_proba":
                    found[name] = proba
                elif len(proba) == 1:
                    found[name] = each[int(proba.argmax())].copy()
                else:
                    found[name] = classes.take(proba.argmax(axis=1))
            return found

        return answer


class Several(Finish, frozen=True, tag="several"):
    """Classifying forests of several targets: the first target's classes come first, padded to `width`."""

    labels: list[Labels]
    width: int
    dtype: str
    """Of the labels of all targets together: the first target's."""
    divide: float | None

    def open(self) -> Answer:
        classes, width, divide, dtype = [each.array() for each in self.labels], self.width, self.divide, self.dtype

        def answer(sums: Array, names: tuple[str, ...]) -> Outputs:
            shares = sums if divide is None else sums / divide
            proba = [shares[:, at * width : at * width + len(own)] for at, own in enumerate(classes)]
            found: Outputs = {}
            for name in names:
                if name != "predict":
                    found[name] = np.ascontiguousarray(proba[int(name.rpartition("_")[2])])
                    continue
                labels = np.empty((len(sums), len(classes)), dtype=np.dtype(dtype))
                for at, own in enumerate(classes):
                    labels[:, at] = own.take(proba[at].argmax(axis=1))
                found[name] = labels
            return found

        return answer


class Values(Finish, frozen=True, tag="values"):
    """Regression: the sums, their mean, or their inverse link."""

    divide: float | None = None
    exponential: bool = False

    def open(self) -> Answer:
        divide, exponential = self.divide, self.exponential

        def answer(sums: Array, names: tuple[str, ...]) -> Outputs:
            values = sums if divide is None else sums / divide
            if exponential:
                with np.errstate(over="ignore"):
                    values = np.exp(values)
            if values.shape[1] == 1:
                values = values[:, 0]
            return dict.fromkeys(names, values)

        return answer


class Scores(Finish, frozen=True, tag="scores"):
    """Scikit-learn's classifying boosters: sums are scores in the space of the loss."""

    labels: Labels
    link: Literal["logit", "half_logit", "softmax"]
    zero: int
    """The class of a score of 0: GradientBoosting says the second, HistGradientBoosting the first."""
    by_class: bool = False
    """Scores of a class stand together in memory, which is the order in which the library adds them up."""

    def open(self) -> Answer:
        classes, zero = self.labels.array(), self.zero
        factor = 2.0 if self.link == "half_logit" else 1.0
        softmax, order = self.link == "softmax", "F" if self.by_class else "C"

        def answer(sums: Array, names: tuple[str, ...]) -> Outputs:
            found: Outputs = {}
            for name in names:
                if name == "predict_proba":
                    found[name] = _softmax(sums, order) if softmax else _two(_logistic(factor * sums[:, 0]))
                elif softmax:
                    found[name] = classes.take(sums.argmax(axis=1))
                else:
                    positive = sums[:, 0] >= 0 if zero else sums[:, 0] > 0
                    found[name] = classes.take(positive.astype(np.intp))
            return found

        return answer


class Boosted(Finish, frozen=True, tag="boosted"):
    """LightGBM: what its objective makes of the sums (src/objective/*.hpp, ConvertOutput)."""

    convert: Literal["none", "sigmoid", "softmax", "exp", "square", "log1p_exp"]
    sigmoid: float = 1.0
    divide: float | None = None
    labels: Labels | None = None

    def open(self) -> Answer:
        convert, divide = self._converted(), self.divide
        classes = None if self.labels is None else self.labels.array()

        def answer(sums: Array, names: tuple[str, ...]) -> Outputs:
            values = convert(sums if divide is None else sums / divide)
            if classes is None:
                plain = values[:, 0] if values.shape[1] == 1 else values
                return dict.fromkeys(names, plain)
            proba = _two(values[:, 0]) if values.shape[1] == 1 else values
            found: Outputs = {}
            for name in names:
                found[name] = proba if name == "predict_proba" else classes.take(proba.argmax(axis=1))
            return found

        return answer

    def _converted(self) -> Callable[[Array], Array]:
        if self.convert == "sigmoid":
            sigmoid = self.sigmoid
            return lambda sums: 1.0 / (1.0 + _exp(-sigmoid * sums))
        if self.convert == "softmax":
            return _softmax_in_c
        if self.convert == "square":
            return lambda sums: np.where(sums < 0, -1.0, 1.0) * sums * sums
        if self.convert == "log1p_exp":
            return lambda sums: _each(math.log1p, _exp(sums))
        return _exp if self.convert == "exp" else lambda sums: sums


class Isolation(Finish, frozen=True, tag="isolation"):
    """Isolation forests: depths as a score, and on which side of the threshold it is."""

    denominator: float
    offset: float

    def open(self) -> Answer:
        denominator, offset = self.denominator, self.offset

        def answer(sums: Array, names: tuple[str, ...]) -> Outputs:
            depths = sums[:, 0]
            shares = depths / denominator if denominator != 0 else np.ones_like(depths)
            score = -(2**-shares) - offset
            found: Outputs = {}
            for name in names:
                found[name] = score if name == "decision_function" else np.where(score < 0, -1, 1)
            return found

        return answer


class Margins(Finish, frozen=True, tag="margins"):
    """XGBoost: float32 throughout, as the library computes."""

    reading: Reading

    def open(self) -> Answer:
        answers = Answers(self.reading)

        def answer(sums: Array, names: tuple[str, ...]) -> Outputs:
            if sums.shape == (1, 1):
                return answers.one(sums.item(), True, names)
            return answers.outputs(sums[:, 0] if sums.shape[1] == 1 else sums, names)

        return answer


AnyFinish = Shares | Several | Values | Scores | Boosted | Isolation | Margins


def _two(positive: Array) -> Array:
    proba = np.empty((len(positive), 2))
    proba[:, 1] = positive
    proba[:, 0] = 1 - positive
    return proba


def _logistic(x: Array) -> Array:
    """Source: scipy.special.expit."""
    return 1 / (1 + _exp(-x))


def _exp(x: Array) -> Array:
    """The C library's exponential, infinite where Python's raises."""
    try:
        return _each(math.exp, x)
    except OverflowError:
        return _each(lambda value: math.exp(value) if value < 709.0 else float(np.exp(value)), x)


def _each(function: Callable[[float], float], x: Array) -> Array:
    return np.array([function(value) for value in x.ravel().tolist()]).reshape(x.shape)


def _softmax(sums: Array, order: Any) -> Array:
    """Source: sklearn.utils.extmath.softmax."""
    proba = np.array(sums, order=order)
    proba -= np.max(proba, axis=1).reshape((-1, 1))
    np.exp(proba, out=proba)
    proba /= np.sum(proba, axis=1).reshape((-1, 1))
    return np.ascontiguousarray(proba)


def _softmax_in_c(sums: Array) -> Array:
    """Source: LightGBM, Common::Softmax; the classes are added up from the first to the last."""
    proba = _exp(sums - sums.max(axis=1, keepdims=True))
    proba /= np.add.accumulate(proba, axis=1)[:, -1:]
    return proba
