"""How the answers of two forms of one model are compared, and how what differs is shown."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lagar.registry.signature import Signature
from lagar.types import Array, Outputs, Rows

SLACK: Final = 4.0
"""A form may be off by so many times what the original's own answers differ by."""
SHARES: Final = "predict_proba"
"""The output that says how near a row is to a tie."""
NEAR: Final = 10.0
"""A tie is near for a form in single precision where the two likeliest classes are no further apart than so many times
the largest difference that its proof has seen."""
_LABELLED: Final = frozenset({"classifier", "outlier", "clusterer"})
_TEXTS: Final = frozenset({"U", "O"})


def is_label(signature: Signature, name: str, values: Array) -> bool:
    """Labels have no tolerance: what is no float, and what a classifier predicts."""
    return values.dtype.kind != "f" or (name == "predict" and signature.task in _LABELLED)


def differences_of(was: Array, got: Array) -> NDArray[np.float64]:
    """Per row the largest difference of a number; 0 where both are NaN, infinite where one is."""
    if was.shape != got.shape:
        return np.full(len(was), np.inf)
    a, b = was.reshape(len(was), -1), got.reshape(len(got), -1)
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.abs(a - b)
    difference = np.where(np.isnan(difference), np.inf, difference)
    difference[(a == b) | (np.isnan(a) & np.isnan(b))] = 0.0
    return np.asarray(difference.max(axis=1, initial=0.0))


def margins_of(shares: Array) -> NDArray[np.float64]:
    """How far apart the two likeliest classes of each row are, of (n, classes); infinite for one class."""
    if shares.shape[1] < 2:
        return np.full(len(shares), np.inf)
    if shares.shape[1] == 2:
        return np.asarray(np.abs(shares[:, 0] - shares[:, 1]))
    top = np.partition(shares, -2, axis=1)
    return np.asarray(top[:, -1] - top[:, -2])


def unsure(shares: Array, margin: float) -> NDArray[np.bool_]:
    """Rows whose two likeliest classes are no further apart, or whose shares overflowed: NaN."""
    return np.asarray(~(margins_of(shares) > margin))


def same_labels(was: Array, got: Array) -> NDArray[np.bool_]:
    """Per row whether the labels are the same, in value and type."""
    if was.shape != got.shape:
        return np.zeros(len(was), dtype=bool)
    if was.dtype == got.dtype and was.dtype.kind in "biuf":
        same = was == got
        if was.dtype.kind == "f":
            same |= np.isnan(was) & np.isnan(got)
    else:
        pairs = zip(was.reshape(-1).tolist(), got.reshape(-1).tolist(), strict=True)
        same = np.array([type(a) is type(b) and (a == b or a != a) for a, b in pairs], dtype=bool).reshape(was.shape)
    return np.asarray(np.asarray(same).reshape(len(was), -1).all(axis=1))


def shape_problem(was: Array, got: Array) -> str:
    """What is wrong with an output's type or shape; "" for nothing."""
    if not isinstance(got, np.ndarray):
        return f"the output is a {type(got).__name__} and no array"
    if was.dtype != got.dtype and not {was.dtype.kind, got.dtype.kind} <= _TEXTS:
        return f"the output's type is {got.dtype}, the original's {was.dtype}"
    return "" if was.shape == got.shape else f"the output's shape is {got.shape}, the original's {was.shape}"


def outcome(refusal: str, answer: Outputs | None) -> str:
    """What came of a call, in words."""
    if refusal:
        return f"no ({refusal})"
    return "nothing" if answer is None else "an answer"


def value_of(values: Array, place: int) -> Any:
    """One row's output as JSON can carry it."""
    return plain(values[place].tolist() if isinstance(values[place], np.ndarray) else values[place])


def plain(value: Any) -> Any:
    """A value as JSON can carry it; NaN and the infinities as texts."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def record_of(rows: Rows, place: int, signature: Signature) -> dict[str, Any]:
    """One row by name."""
    if rows.matrix is not None:
        names = signature.names or tuple(f"x{index}" for index in range(rows.matrix.shape[1]))
        return {name: plain(value) for name, value in zip(names, rows.matrix[place].tolist(), strict=True)}
    assert rows.columns is not None
    return {name: plain(column[place]) for name, column in rows.columns.items()}
