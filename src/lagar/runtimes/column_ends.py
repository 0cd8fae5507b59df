"""Ends of a column program: what the last estimator answers, with its own operations in NumPy.

Scores that are all finite show that every number in front of them was: a product carries NaN and infinity on, also
where the coefficient is 0. So the check that scikit-learn makes of its input is made only when a score is not finite.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import msgspec
import numpy as np

from lagar.runtimes.answers import Labels
from lagar.runtimes.base import one_per_row, plain
from lagar.runtimes.column_linear import Scorer, check_finite
from lagar.runtimes.column_shares import (
    PROBABILITIES,
    Probabilities,
    bayes,
    expit,
    expit_of_one,
    softmax,
    sum_of_lines,
)
from lagar.runtimes.column_sources import Source
from lagar.runtimes.column_steps import NOT_FINITE, AnyStep, Arrays, Ref, chained, ufunc
from lagar.types import Array, Outputs, Rows

Answer = Callable[[Rows, tuple[str, ...]], Outputs]


class Classify(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="classify"):
    """Labels and probabilities out of scores."""

    labels: Labels
    proba: Probabilities

    def open(self, scorer: Scorer) -> Answer:
        classes = self.labels.array()
        probabilities = PROBABILITIES[self.proba]
        quick = scorer.one is not None and len(classes) == 2 and self.proba in ("none", "expit")
        singles = [classes[index : index + 1] for index in range(len(classes))]

        def answer(rows: Rows, names: tuple[str, ...]) -> Outputs:
            if quick and rows.n == 1:
                score = scorer.one(rows)  # type: ignore[misc]
                found = {"predict": singles[1 if score > 0 else 0].copy()}
                if "predict_proba" in names:
                    share = expit_of_one(score)
                    found["predict_proba"] = np.array([[1 - share, share]])
            else:
                scores = scorer.many(rows)
                if scores.ndim == 2 and scores.shape[1] == 1 and len(classes) == 2:
                    scores = scores[:, 0]
                index = (scores > 0).astype(np.intp) if scores.ndim == 1 else scores.argmax(axis=1)
                found = {"predict": classes.take(index)}
                if "predict_proba" in names:
                    found["predict_proba"] = probabilities(scores)
            return {name: found[name] for name in names}

        return answer


class Regress(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="regress"):
    """Values out of scores: the scores, or a function of NumPy of them."""

    function: str | None = None
    finite: bool = False
    """True where the original checks the scores before the function."""

    def open(self, scorer: Scorer) -> Answer:
        function, finite = None if self.function is None else ufunc(self.function), self.finite
        if self.function is not None and function is None:
            raise ValueError(f"NumPy has no function {self.function!r} of one number")

        def answer(rows: Rows, names: tuple[str, ...]) -> Outputs:
            values = np.array([scorer.one(rows)]) if rows.n == 1 and scorer.one is not None else scorer.many(rows)
            if finite and not np.isfinite(values).all():
                raise ValueError(NOT_FINITE)
            if function is not None:
                values = function(values)
            return {name: one_per_row(values) for name in names}

        return answer


class Linear(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="linear"):
    """A product with coefficients, then a head."""

    coef: Ref
    """(outputs, width) or (width,), as scikit-learn keeps it."""
    intercept: Ref
    head: Classify | Regress
    terms: bool = False
    """True where the original multiplies a sparse matrix: term by term, in the order of the columns."""

    def open(self, arrays: Arrays, sources: list[Source]) -> Answer:
        scorer = Scorer(arrays[self.coef], arrays[self.intercept], sources, terms=self.terms)
        return self.head.open(scorer)


class Gaussian(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="gaussian"):
    """Gaussian naive Bayes."""

    labels: Labels
    theta: Ref
    """(classes, width)."""
    var: Ref
    log_prior: Ref
    """(classes,)."""
    log_norm: Ref
    """(classes,): -0.5 · Σ log(2π·var)."""

    def open(self, arrays: Arrays, sources: list[Source]) -> Answer:
        theta, var = arrays[self.theta], arrays[self.var]
        log_prior, log_norm = arrays[self.log_prior], arrays[self.log_norm]
        centres, spreads = theta[:, :, None], var[:, :, None]

        def likelihoods(x: Array) -> Array:
            if len(x) == 1:
                apart = x - theta
                apart *= apart
                apart /= var
                found: Array = log_prior + (log_norm - 0.5 * np.add.reduce(apart, axis=1))
                return found[None]
            lines = np.ascontiguousarray(x.T)
            scores = np.empty((len(theta), len(x)))
            apart = np.empty_like(lines)
            for index, (centre, spread) in enumerate(zip(centres, spreads, strict=True)):
                np.subtract(lines, centre, out=apart)
                apart *= apart
                apart /= spread
                scores[index] = log_prior[index] + (log_norm[index] - 0.5 * sum_of_lines(apart))
            return scores.T

        return _of_likelihoods(self.labels, sources[0], likelihoods, bayes)


class Quadratic(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="quadratic"):
    """Quadratic discriminant analysis."""

    labels: Labels
    means: Ref
    """(classes, width)."""
    rotations: list[Ref]
    """Per class, already scaled."""
    log_sizes: Ref
    log_priors: Ref

    def open(self, arrays: Arrays, sources: list[Source]) -> Answer:
        means, sizes, priors = arrays[self.means], arrays[self.log_sizes], arrays[self.log_priors]
        rotations = [arrays[ref] for ref in self.rotations]

        def likelihoods(x: Array) -> Array:
            norms = [
                np.sum(np.dot(x - mean, rotation) ** 2, axis=1) for mean, rotation in zip(means, rotations, strict=True)
            ]
            found: Array = -0.5 * (np.array(norms).T + sizes) + priors
            return found

        def probabilities(scores: Array) -> Array:
            shifted = scores - scores.max(axis=1)[:, None]
            shares: Array = np.exp(shifted - np.log(np.exp(shifted).sum(axis=1)[:, None]))
            return shares

        return _of_likelihoods(self.labels, sources[0], likelihoods, probabilities)


def _of_likelihoods(
    labels: Labels, source: Source, likelihoods: Callable[[Array], Array], probabilities: Callable[[Array], Array]
) -> Answer:
    classes = labels.array()

    def answer(rows: Rows, names: tuple[str, ...]) -> Outputs:
        x = source.matrix(rows)
        scores = likelihoods(x)
        check_finite(scores, x)
        found = {"predict": classes.take(scores.argmax(axis=1))}
        if "predict_proba" in names:
            found["predict_proba"] = probabilities(scores)
        return {name: found[name] for name in names}

    return answer


ACTIVATIONS: dict[str, Callable[[Array], Any]] = {
    "identity": lambda x: x,
    "relu": lambda x: np.maximum(x, 0, out=x),
    "tanh": lambda x: np.tanh(x, out=x),
    "logistic": lambda x: expit(x),
    "softmax": softmax,
    "exp": lambda x: np.exp(x, out=x),
}


class Network(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="network"):
    """A multi-layer perceptron."""

    weights: list[Ref]
    """(inputs, outputs) per layer."""
    biases: list[Ref]
    hidden: Literal["identity", "relu", "tanh", "logistic"]
    last: Literal["identity", "logistic", "softmax", "exp"]
    labels: Labels | None = None
    """None: a regressor."""

    def open(self, arrays: Arrays, sources: list[Source]) -> Answer:
        layers = [(arrays[weight], arrays[bias]) for weight, bias in zip(self.weights, self.biases, strict=True)]
        *inner, (last_weight, last_bias) = layers
        hidden, last, source = ACTIVATIONS[self.hidden], ACTIVATIONS[self.last], sources[0]
        # tanh, the logistic function and max(·, 0) hide an infinity or a NaN in a column of infinite weight only
        classes = None if self.labels is None else self.labels.array()

        def answer(rows: Rows, names: tuple[str, ...]) -> Outputs:
            x = y = source.matrix(rows)
            if not np.isfinite(x).all():
                check_finite(x, x)
            for weight, bias in inner:
                y = y @ weight
                y += bias
                y = hidden(y)
            y = y @ last_weight
            y += last_bias
            y = last(y)
            if classes is None:
                return {name: one_per_row(y) for name in names}
            if y.shape[1] == 1:
                y = np.concatenate([1 - y, y], axis=1)
                index = (y[:, 1] > 0.5).astype(np.intp)
            else:
                index = y.argmax(axis=1)
            found = {"predict": classes.take(index), "predict_proba": y}
            return {name: found[name] for name in names}

        return answer


class Curve(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Score → probability: logistic with `slope` and `offset`, or interpolated between points."""

    slope: float = 0.0
    offset: float = 0.0
    points: tuple[Ref, Ref] | None = None

    def open(self, arrays: Arrays) -> Callable[[Array], Array]:
        slope, offset = self.slope, self.offset
        if self.points is None:
            return lambda scores: expit(-(slope * scores + offset))
        x, y = (arrays[ref] for ref in self.points)
        if len(x) == 1:
            return lambda scores: np.full(scores.shape, y[0])

        def interpolate(scores: Array) -> Array:
            if not np.isfinite(scores).all():  # it checks its own input, whatever the rows were
                raise ValueError(NOT_FINITE)
            found: Array = np.interp(np.clip(scores, x[0], x[-1]), x, y)
            return found

        return interpolate


class Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One calibrated classifier: steps of its own, scores, and a curve per score."""

    steps: list[AnyStep]
    coef: Ref
    """(scores, width)."""
    intercept: Ref
    curves: list[Curve]


class Calibrated(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="calibrated"):
    """The mean of classifiers whose scores were calibrated, as CalibratedClassifierCV makes it."""

    labels: Labels
    members: list[Member]

    def open(self, arrays: Arrays, sources: list[Source]) -> Answer:
        classes, source = self.labels.array(), sources[0]
        scores_of = self._scores(arrays)
        curve = self._curve(arrays)
        members, count = len(self.members), len(classes)

        def answer(rows: Rows, names: tuple[str, ...]) -> Outputs:
            calibrated = curve(scores_of(source.matrix(rows)))
            lines = np.ascontiguousarray(calibrated.T).reshape(members, -1, rows.n)
            mean: Array = np.add.reduce(_shared(lines, count), axis=0)
            mean /= members
            mean = np.ascontiguousarray(mean.T)
            found = {"predict": classes.take(mean.argmax(axis=1)), "predict_proba": mean}
            return {name: found[name] for name in names}

        return answer

    def _scores(self, arrays: Arrays) -> Callable[[Array], Array]:
        """The scores of all members side by side."""
        coefs = [arrays[member.coef] for member in self.members]
        intercepts = [np.ravel(arrays[member.intercept]) for member in self.members]
        if not any(member.steps for member in self.members):
            weights, offsets = np.concatenate(coefs).T, np.concatenate(intercepts)

            def at_once(x: Array) -> Array:
                scores: Array = x @ weights + offsets
                check_finite(scores, x)
                return scores

            return at_once
        parts = [
            (chained(member.steps, arrays), coef.T, intercept)
            for member, coef, intercept in zip(self.members, coefs, intercepts, strict=True)
        ]

        def one_by_one(x: Array) -> Array:
            found = []
            for steps, coef, intercept in parts:
                own = steps(x)
                scores = own @ coef + intercept
                check_finite(scores, own)
                found.append(scores)
            return np.concatenate(found, axis=1)

        return one_by_one

    def _curve(self, arrays: Arrays) -> Callable[[Array], Array]:
        """All curves, each over its own column."""
        curves = [curve for member in self.members for curve in member.curves]
        if all(curve.points is None for curve in curves):
            slopes = np.array([curve.slope for curve in curves])
            offsets = np.array([curve.offset for curve in curves])
            return lambda scores: expit(-(slopes * scores + offsets))
        opened = [curve.open(arrays) for curve in curves]

        def apply(scores: Array) -> Array:
            return np.stack([curve(scores[:, index]) for index, curve in enumerate(opened)], axis=1)

        return apply


def _shared(lines: Array, count: int) -> Array:
    """Calibrated scores (members, scores, n) as probabilities (members, classes, n): a line per class is quicker than a
    row per row."""
    if count == 2:
        return np.concatenate([1.0 - lines, lines], axis=1)
    sums = sum_of_lines(lines.swapaxes(0, 1))[:, None]
    if sums.all():
        shares: Array = lines / sums
    else:
        shares = np.full(lines.shape, 1 / count)
        np.divide(lines, sums, out=shares, where=sums != 0)
    if shares.max(initial=0.0) > 1.0:
        shares[(shares > 1.0) & (shares <= 1.0 + 1e-5)] = 1.0
    return shares


class Centres(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="centres"):
    """The nearest centre, and the distances to all of them."""

    centres: Ref

    def open(self, arrays: Arrays, sources: list[Source]) -> Answer:
        centres, source = arrays[self.centres], sources[0]
        squares = np.einsum("ij,ij->i", centres, centres)

        def answer(rows: Rows, names: tuple[str, ...]) -> Outputs:
            x = source.matrix(rows)
            products = x @ centres.T
            products *= -2.0
            check_finite(products, x)
            found: Outputs = {}
            if "predict" in names:
                found["predict"] = np.argmin(products + squares, axis=1)
            if "transform" in names:
                far = products + np.einsum("ij,ij->i", x, x)[:, None]
                far += squares
                found["transform"] = np.sqrt(np.maximum(far, 0.0))
            return {name: found[name] for name in names}

        return answer


class Transformed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="transformed"):
    """The matrix itself: a model that is a transformer."""

    def open(self, arrays: Arrays, sources: list[Source]) -> Answer:
        source = sources[0]
        return lambda rows, names: {name: plain(source.matrix(rows)) for name in names}


AnyEnd = Linear | Gaussian | Quadratic | Network | Calibrated | Centres | Transformed
