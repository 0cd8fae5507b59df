"""From scores to probabilities, with the operations and the order of summing that NumPy has in scikit-learn.

Sums over short rows are what NumPy is slowest at. Here a matrix of many rows is turned first, so that a sum over a row
becomes one over lines; `sum_of_lines` adds those in the order in which NumPy adds a row's numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np

from lagar.types import Array

Probabilities = Literal["none", "expit", "softmax", "softmax2", "ovr", "huber", "bayes"]
FEW = 16
"""Up to so many scores go quicker without NumPy."""
_LANES = 8
"""NumPy sums fewer numbers than this from left to right, more of them in so many sums side by side."""
_BLOCK = 128
"""More numbers than this it halves first."""


def sum_of_lines(lines: Array) -> Array:
    """The sum over the first axis, to the bit that a sum over rows of the turned matrix would give."""
    count = len(lines)
    total: Array
    if count < _LANES or count > _BLOCK:
        total = np.add.reduce(lines, axis=0)
        return total
    lanes = lines[:_LANES].copy()
    whole = count - count % _LANES
    for start in range(_LANES, whole, _LANES):
        lanes += lines[start : start + _LANES]
    pairs = lanes[0::2] + lanes[1::2]
    total = (pairs[0] + pairs[1]) + (pairs[2] + pairs[3])
    for line in lines[whole:]:
        total += line
    return total


def expit(scores: Array) -> Array:
    """1 / (1 + e^-score); one by one for a few, because the C library's e^x is the one that scipy has."""
    if scores.size <= FEW:
        return np.array([expit_of_one(score) for score in scores.ravel().tolist()]).reshape(scores.shape)
    shares: Array = np.exp(-scores)
    shares += 1
    np.divide(1, shares, out=shares)
    return shares


def expit_of_one(score: float) -> float:
    """1 / (1 + e^-score)."""
    try:
        return 1 / (1 + math.exp(-score))
    except OverflowError:
        return 0.0


def softmax(scores: Array) -> Array:
    """e^score over the row's sum of them."""
    if len(scores) == 1 and scores.shape[1] < _LANES:
        shares: Array = np.exp(scores - max(scores[0].tolist()))
        shares /= sum(shares[0].tolist())
        return shares
    columns = np.ascontiguousarray(scores.T)
    if columns.shape[0] <= _BLOCK:
        columns -= np.maximum.reduce(columns, axis=0)
        np.exp(columns, out=columns)
        columns /= sum_of_lines(columns)
        return np.ascontiguousarray(columns.T)
    scores = scores - np.max(scores, axis=1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= np.sum(scores, axis=1, keepdims=True)
    return scores


def binary_or(many: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """One score per row is that of the second of two classes."""

    def probabilities(scores: Array) -> Array:
        if scores.ndim == 2:
            return many(scores)
        share = expit(scores)
        return np.stack([1 - share, share], axis=1)

    return probabilities


def each_against_the_rest(scores: Array) -> Array:
    """Each class's own probability, over their sum."""
    return normal(expit(scores))


def normal(shares: Array) -> Array:
    """Rows that sum to 1; a row of zeros becomes even."""
    sums = shares.sum(axis=1)
    empty = sums == 0
    if empty.any():
        shares[empty] = 1
        sums[empty] = shares.shape[1]
    shares /= sums[:, None]
    return shares


def huber(scores: Array) -> Array:
    """What SGDClassifier(loss="modified_huber") makes of its scores."""
    shares = (np.clip(scores, -1, 1) + 1.0) / 2.0
    return np.stack([1.0 - shares, shares], axis=1) if scores.ndim == 1 else normal(shares)


def softmax_of_two(scores: Array) -> Array:
    """As `softmax`, with one score per row as that of the second class and its negative as that of the first."""
    return softmax(np.stack([-scores, scores], axis=1) if scores.ndim == 1 else scores)


def bayes(likelihoods: Array) -> Array:
    """e^likelihood over the row's sum. Source: scipy.special.logsumexp, which takes the largest term out of the sum: it
    is done so for one row and where all are infinite; else the last bit may be another."""
    if len(likelihoods) == 1 and likelihoods.shape[1] < _LANES:
        values: list[float] = likelihoods[0].tolist()
        largest = max(values)
        count = values.count(largest)
        if math.isfinite(largest) and count:
            rest = np.exp(likelihoods - largest)[0].tolist()
            total = sum(share for share, value in zip(rest, values, strict=True) if value != largest)
            shares: Array = np.exp(likelihoods - (math.log1p(total / count) + math.log(count) + largest))
            return shares
    columns = np.ascontiguousarray(likelihoods.T)
    most = np.maximum.reduce(columns, axis=0)
    if np.isfinite(most).all():
        columns -= most
        np.exp(columns, out=columns)
        columns /= sum_of_lines(columns)
        return np.ascontiguousarray(columns.T)
    is_most = columns == most
    counts = np.add.reduce(is_most, axis=0, dtype=np.float64)
    others = sum_of_lines(np.exp(np.where(is_most, -np.inf, columns) - most))
    columns -= np.log1p(np.where(others == 0, others, others / counts)) + np.log(counts) + most
    np.exp(columns, out=columns)
    return np.ascontiguousarray(columns.T)


PROBABILITIES: dict[Probabilities, Callable[[Array], Array]] = {
    "none": softmax,
    "expit": binary_or(each_against_the_rest),
    "softmax": softmax,
    "softmax2": softmax_of_two,
    "ovr": binary_or(each_against_the_rest),
    "huber": huber,
    "bayes": bayes,
}
"""How scores become probabilities."""
