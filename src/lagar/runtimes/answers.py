"""From what a compiled model computes to the outputs of its original: labels with their type, and probabilities."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable
from typing import Any, Final, Literal

import msgspec
import numpy as np

from lagar.runtimes.base import FLOAT32_MAX, one_per_row, plain
from lagar.types import Array, Outputs

_FEW: Final = 16
"""Classes up to which one row is quicker without NumPy."""


class Labels(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Classes in the order of the probabilities, as `plain` gives them."""

    values: list[str | bool | int | float]
    dtype: str
    """NumPy's name: "<i8", "|b1", "<f8", "<U5", "|O" for texts in an object array."""

    @classmethod
    def of(cls, classes: Any) -> Labels | None:
        """None where the type of an answer would depend on which classes are in it, or a class is no scalar."""
        array = plain(np.asarray(classes))
        values = array.tolist()
        if array.ndim != 1 or array.dtype.kind not in "biufUO":
            return None
        if array.dtype.kind == "O" and not all(type(value) is str for value in values):
            return None
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            return None
        return cls(values, array.dtype.str)

    def array(self) -> Array:
        """The classes, to take answers from."""
        return np.array(self.values, dtype=np.dtype(self.dtype))


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How values become outputs."""

    form: Literal["value", "label", "probabilities"]
    labels: Labels | None = None
    border: float = 0.5
    """A single value above it is the second class."""
    argmax: bool = False
    """A single value p is read as (1 - p, p) and the greater one wins; the first one when they are equal."""
    many: bool = False
    """One label 0 or 1 per target."""
    finish: Literal["none", "exponent", "sigmoid", "softmax"] = "none"
    """What makes values or probabilities of sums, in their own precision."""
    finished: bool = False
    """Labels are taken from what is finished; otherwise from the sums."""


class Answers:
    """Values (n,) or (n, k) → outputs. One row of one value goes without NumPy, to the same bits in float32."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._labels = answer.labels.array() if answer.labels is not None else np.arange(2)
        finishes: dict[str, Callable[[Array], Array]] = {
            "none": lambda values: values,
            "exponent": np.exp,
            "sigmoid": _sigmoid,
            "softmax": _softmax,
        }
        self._finish = finishes[answer.finish]
        self._alone = (
            answer.form != "value"
            and not answer.many
            and len(self._labels) == 2
            and answer.finish in ("none", "sigmoid")
        )
        """A single value is answered without NumPy."""

    def outputs(self, values: Array, names: tuple[str, ...]) -> Outputs:
        """The named outputs of n rows."""
        answer = self._answer
        if answer.form == "value":
            return {"predict": one_per_row(self._finish(values))}
        if self._alone and values.shape == (1,):
            return self.one(values.item(), values.dtype == np.float32, names)
        if answer.finish == "softmax" and len(values) == 1 and values.shape[1] <= _FEW:
            return self._one_of_several(values, names)
        found: Outputs = {}
        if answer.finished:
            values = self._finish(values)
        if answer.argmax and values.ndim == 1:
            values = _both(values)
        if "predict" in names:
            found["predict"] = self._label(values)
        if "predict_proba" in names:
            if not answer.finished:
                values = self._finish(values)
            if values.ndim == 1:
                values = _both(values)
            found["predict_proba"] = np.ascontiguousarray(values, dtype=np.float64)
        return found

    def _label(self, values: Array) -> Array:
        if self._answer.many:
            return (values > self._answer.border).astype(np.int64)
        if values.ndim == 2:
            index: Array = values.argmax(axis=1)
        else:
            index = (values > self._answer.border).astype(np.intp)
        return self._labels.take(index)

    def one(self, value: float, single: bool, names: tuple[str, ...]) -> Outputs:
        """One row with one value, in float32 if `single`: NumPy's calls would take longer than the model."""
        answer = self._answer
        if not self._alone:
            values = np.array([value], dtype=np.float32 if single else np.float64)
            return self.outputs(values, names)
        last = _sigmoid_of_one(value, single) if answer.finish == "sigmoid" else value
        first = float(np.float32(1.0 - last)) if single else 1.0 - last
        found: Outputs = {}
        if "predict" in names:
            is_second = last > first if answer.argmax else (last if answer.finished else value) > answer.border
            found["predict"] = self._labels[1:].copy() if is_second else self._labels[:1].copy()
        if "predict_proba" in names:
            found["predict_proba"] = np.array([[first, last]])
        return found

    def _one_of_several(self, values: Array, names: tuple[str, ...]) -> Outputs:
        """One row with a sum for each of a few classes."""
        sums = values[0].tolist()
        greatest = max(sums)
        if values.dtype == np.float32:
            differences = array("f", [value - greatest for value in sums])  # rounds as NumPy does, ten times as fast
            powers = array("f", map(math.exp, differences))
            (total,) = array("f", [sum(powers)])
            shares = array("f", [power / total for power in powers]).tolist()
        else:
            doubles = [math.exp(value - greatest) for value in sums]
            total = sum(doubles)
            shares = [power / total for power in doubles]
        found: Outputs = {}
        if "predict" in names:
            deciding = shares if self._answer.finished else sums
            index = deciding.index(max(deciding))
            found["predict"] = self._labels[index : index + 1].copy()
        if "predict_proba" in names:
            found["predict_proba"] = np.array([shares])
        return found


def _sigmoid_of_one(value: float, single: bool) -> float:
    try:
        power = math.exp(-value)
    except OverflowError:
        power = math.inf
    if not single:
        return 1.0 / (1.0 + power)
    if power > FLOAT32_MAX:
        return 0.0
    return float(np.float32(1.0 / float(np.float32(1.0 + float(np.float32(power))))))


def _both(values: Array) -> Array:
    """One probability per row, (n,) → (n, 2), in its own precision."""
    both = np.empty((len(values), 2), dtype=values.dtype)
    np.subtract(1.0, values, out=both[:, 0])
    both[:, 1] = values
    return both


def _sigmoid(values: Array) -> Array:
    with np.errstate(over="ignore"):
        found: Array = np.reciprocal(1.0 + np.exp(-values))
    return found


def _softmax(values: Array) -> Array:
    found: Array = np.exp(values - values.max(axis=1, keepdims=True))
    found /= np.sum(found, axis=1, keepdims=True, dtype=np.float64).astype(found.dtype, copy=False)
    return found
