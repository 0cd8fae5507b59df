"""Steps of a column program: float64 matrix in, float64 matrix out, with the operations of scikit-learn in its order.

Each step is data (a msgspec struct whose arrays are numbers of arrays in the form's data file) and opens as a function
over matrices of shape (n, width). Where one row goes quicker as a list of Python floats, `row` gives that function too:
the same IEEE operations one by one, so the same bits. Nothing here changes its argument: it may be the caller's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec
import numpy as np

from lagar.types import Array

Matrix = Callable[[Array], Array]
Row = Callable[[list[float]], list[float]]
Arrays = Sequence[Array]
Ref = int
"""The number of an array in the form's data file."""

NORMS = ("l1", "l2", "max")
_ALMOST_ZERO = 10 * float(np.finfo(np.float64).eps)
"""Norms below this one are no divisors in scikit-learn."""
NOT_FINITE = "Input contains NaN, infinity or a value too large for dtype('float64')."


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One step; subclasses say what it does."""

    def matrix(self, arrays: Arrays) -> Matrix:
        """The step over (n, width)."""
        raise NotImplementedError

    def row(self, arrays: Arrays) -> Row | None:
        """The same over one row, where that is quicker."""
        return None


class Scale(Step, frozen=True, tag="scale"):
    """Subtract, divide, multiply, add, clip: each where it is given, in this order."""

    subtract: Ref | None = None
    divide: Ref | None = None
    multiply: Ref | None = None
    add: Ref | None = None
    clip: tuple[float, float] | None = None

    def matrix(self, arrays: Arrays) -> Matrix:
        pairs = (
            (np.subtract, self.subtract), (np.divide, self.divide), (np.multiply, self.multiply), (np.add, self.add),
        )  # fmt: skip
        operations = [(operation, arrays[ref]) for operation, ref in pairs if ref is not None]
        clip = self.clip

        def scale(x: Array) -> Array:
            for operation, values in operations:
                x = operation(x, values)
            return x if clip is None else np.minimum(np.maximum(x, clip[0]), clip[1])

        return scale

    def row(self, arrays: Arrays) -> Row | None:
        if self.clip is not None or self.multiply is not None or self.add is not None:
            return None
        means = None if self.subtract is None else [float(value) for value in arrays[self.subtract]]
        scales = None if self.divide is None else [float(value) for value in arrays[self.divide]]
        if scales is not None and 0.0 in scales:
            return None
        if means is not None and scales is not None:
            both = list(zip(means, scales, strict=True))
            return lambda row: [(v - m) / s for v, (m, s) in zip(row, both, strict=True)]
        if means is not None:
            return lambda row: [v - m for v, m in zip(row, means, strict=True)]
        if scales is not None:
            return lambda row: [v / s for v, s in zip(row, scales, strict=True)]
        return lambda row: row


class Impute(Step, frozen=True, tag="impute"):
    """Replace a missing value, leave out columns that have no replacement, say where it was missing."""

    fills: Ref
    """Of all columns that are kept."""
    marker: float | None = None
    """What counts as missing; None: NaN."""
    keep: Ref | None = None
    indicators: Ref | None = None
    """Columns, of those that come in, whose missing values become further columns of 0 and 1."""

    def matrix(self, arrays: Arrays) -> Matrix:
        fills, marker = arrays[self.fills], self.marker
        keep = None if self.keep is None else arrays[self.keep]
        indicators = None if self.indicators is None else arrays[self.indicators]

        def impute(x: Array) -> Array:
            missing = np.isnan(x) if marker is None else x == marker
            if indicators is None and not missing.any():
                return x if keep is None else x[:, keep]
            kept = np.where(missing, fills, x) if keep is None else np.where(missing[:, keep], fills, x[:, keep])
            return kept if indicators is None else np.concatenate([kept, missing[:, indicators]], axis=1)

        return impute

    def row(self, arrays: Arrays) -> Row | None:
        if self.keep is not None or self.indicators is not None or self.marker is not None:
            return None
        fills = [float(value) for value in arrays[self.fills]]
        return lambda row: [f if v != v else v for v, f in zip(row, fills, strict=True)]


class Refuse(Step, frozen=True, tag="refuse"):
    """What scikit-learn's own validation refuses at this point: infinity, and NaN where it is not let through."""

    nan: bool

    def matrix(self, arrays: Arrays) -> Matrix:
        refused = _not_finite if self.nan else _infinite

        def refuse(x: Array) -> Array:
            if refused(x):
                raise ValueError(NOT_FINITE)
            return x

        return refuse

    def row(self, arrays: Arrays) -> Row | None:
        nan = self.nan

        def refuse(row: list[float]) -> list[float]:
            if not math.isfinite(sum(row)) and not all(
                math.isfinite(value) or (value != value and not nan) for value in row
            ):
                raise ValueError(NOT_FINITE)
            return row

        return refuse


def _not_finite(x: Array) -> bool:
    return not np.isfinite(x).all()


def _infinite(x: Array) -> bool:
    return bool(np.isinf(x).any())


class Select(Step, frozen=True, tag="select"):
    """Some columns, in the order given."""

    columns: Ref

    def matrix(self, arrays: Arrays) -> Matrix:
        columns = arrays[self.columns]
        return lambda x: x.take(columns, axis=1)

    def row(self, arrays: Arrays) -> Row | None:
        columns = arrays[self.columns].tolist()
        return lambda row: [row[column] for column in columns]


class Normalize(Step, frozen=True, tag="normalize"):
    """Each row by its own norm; a row that is all but zero stays."""

    norm: Literal["l1", "l2", "max"]

    def matrix(self, arrays: Arrays) -> Matrix:
        norm = self.norm

        def normalize(x: Array) -> Array:
            if norm == "l2":
                size = np.sqrt(np.einsum("ij,ij->i", x, x))
            else:
                size = np.sum(np.abs(x), axis=1) if norm == "l1" else np.max(np.abs(x), axis=1)
            size[size < _ALMOST_ZERO] = 1.0
            scaled: Array = x / size[:, None]
            return scaled

        return normalize


class Binarize(Step, frozen=True, tag="binarize"):
    """1 above the threshold, else 0."""

    threshold: float

    def matrix(self, arrays: Arrays) -> Matrix:
        threshold = self.threshold
        return lambda x: (x > threshold).astype(np.float64)


class Polynomial(Step, frozen=True, tag="polynomial"):
    """Products of columns: term i is an earlier term times a column, level by level."""

    width: int
    levels: list[tuple[Ref, Ref]]
    """Per degree from 2: the numbers of the terms to multiply; 0 is the constant 1, then come the columns."""
    keep: Ref
    """The terms that are the answer."""

    def matrix(self, arrays: Arrays) -> Matrix:
        levels = [(arrays[terms], arrays[columns]) for terms, columns in self.levels]
        keep = arrays[self.keep]

        sizes = [1 + self.width, *(len(columns) for _, columns in levels)]

        def expand(x: Array) -> Array:
            terms = np.empty((sum(sizes), len(x)))  # a term is a line: products run over contiguous memory
            terms[0] = 1.0
            terms[1 : sizes[0]] = x.T
            start = sizes[0]
            for (earlier, columns), size in zip(levels, sizes[1:], strict=True):
                np.multiply(terms.take(earlier, axis=0), terms.take(columns, axis=0), out=terms[start : start + size])
                start += size
            return np.ascontiguousarray(terms.take(keep, axis=0).T)

        return expand


class Bins(Step, frozen=True, tag="bins"):
    """The number of the interval that each value is in, or one column of 0 and 1 per interval."""

    edges: list[Ref]
    """Per column the inner edges, ascending; a value at an edge is in the upper interval."""
    one_hot: bool

    def matrix(self, arrays: Arrays) -> Matrix:
        edges = [arrays[ref] for ref in self.edges]
        offsets = np.cumsum([0, *(len(inner) + 1 for inner in edges)])
        one_hot = self.one_hot

        def bins(x: Array) -> Array:
            codes = np.empty(x.shape, dtype=np.intp)
            for column, inner in enumerate(edges):
                codes[:, column] = np.searchsorted(inner, x[:, column], side="right")
            if not one_hot:
                return codes.astype(np.float64)
            hot = np.zeros((len(x), int(offsets[-1])))
            hot[np.arange(len(x))[:, None], codes + offsets[:-1]] = 1.0
            return hot

        return bins


class Power(Step, frozen=True, tag="power"):
    """Yeo-Johnson or Box-Cox with one exponent per column."""

    lambdas: Ref
    box_cox: bool

    def matrix(self, arrays: Arrays) -> Matrix:
        lambdas: list[float] = arrays[self.lambdas].tolist()
        transform = _box_cox if self.box_cox else _yeo_johnson

        def power(x: Array) -> Array:
            out = np.empty_like(x)
            for column, exponent in enumerate(lambdas):
                out[:, column] = transform(x[:, column], exponent)
            return out

        return power


def _yeo_johnson(x: Array, exponent: float) -> Array:
    """Source: scipy.stats.yeojohnson."""
    out: Array = np.zeros_like(x)
    positive = x >= 0  # NaN goes the other way and stays NaN
    if abs(exponent) < np.spacing(1.0):
        out[positive] = np.log1p(x[positive])
    else:
        out[positive] = np.expm1(exponent * np.log1p(x[positive])) / exponent
    if abs(exponent - 2) > np.spacing(1.0):
        out[~positive] = -np.expm1((2 - exponent) * np.log1p(-x[~positive])) / (2 - exponent)
    else:
        out[~positive] = -np.log1p(-x[~positive])
    return out


def _box_cox(x: Array, exponent: float) -> Array:
    """Source: scipy.special.boxcox; scikit-learn refuses numbers that are not positive."""
    if (x <= 0).any():
        raise ValueError("The Box-Cox transformation can only be applied to strictly positive data")
    logs = np.log(x)
    if abs(exponent) < 1e-19:
        return logs
    out: Array = np.where(np.abs(exponent * logs) < 709.78, np.expm1(exponent * logs) / exponent, np.nan)
    far = np.abs(exponent * logs) >= 709.78
    if far.any():
        big = np.sign(exponent) * np.exp(exponent * logs[far] - np.log(abs(exponent))) - 1 / exponent
        out[far] = big
    return out


class Quantile(Step, frozen=True, tag="quantile"):
    """The share of the training data below each value, interpolated from both sides."""

    quantiles: Ref
    """(references, columns)."""
    references: Ref

    def matrix(self, arrays: Arrays) -> Matrix:
        references = arrays[self.references]
        quantiles = [np.ascontiguousarray(column) for column in arrays[self.quantiles].T]
        turned = [-column[::-1] for column in quantiles]
        references_turned = -references[::-1]

        def shares(x: Array) -> Array:
            out = np.empty_like(x)
            for index, column in enumerate(quantiles):
                values = x[:, index]
                out[:, index] = 0.5 * (
                    np.interp(values, column, references) - np.interp(-values, turned[index], references_turned)
                )
                out[values == column[-1], index] = 1
                out[values == column[0], index] = 0
            return out

        return shares


class Project(Step, frozen=True, tag="project"):
    """A product with a matrix; then subtract and divide, where given."""

    components: Ref
    """(outputs, width), as scikit-learn keeps it."""
    subtract: Ref | None = None
    divide: Ref | None = None
    before: Ref | None = None
    """Subtracted from the columns before the product."""

    def matrix(self, arrays: Arrays) -> Matrix:
        components = arrays[self.components].T
        before = None if self.before is None else arrays[self.before]
        after = Scale(subtract=self.subtract, divide=self.divide).matrix(arrays)
        return lambda x: after((x if before is None else x - before) @ components)


class Apply(Step, frozen=True, tag="apply"):
    """One of NumPy's functions of one number, on every value."""

    function: str

    def matrix(self, arrays: Arrays) -> Matrix:
        function = ufunc(self.function)
        if function is None:
            raise ValueError(f"NumPy has no function {self.function!r} of one number")
        return function


def ufunc(name: str) -> Matrix | None:
    """NumPy's own function of that name, where it is one of numbers to numbers, one by one."""
    found = getattr(np, name, None)
    return found if isinstance(found, np.ufunc) and (found.nin, found.nout) == (1, 1) else None


AnyStep = (
    Scale | Impute | Refuse | Select | Normalize | Binarize | Polynomial | Bins | Power | Quantile | Project | Apply
)


def chained(steps: Sequence[AnyStep], arrays: Arrays) -> Matrix:
    """All steps in order."""
    functions = [step.matrix(arrays) for step in steps]
    if len(functions) == 1:
        return functions[0]

    def chain(x: Array) -> Array:
        for function in functions:
            x = function(x)
        return x

    return chain


def chained_row(steps: Sequence[AnyStep], arrays: Arrays) -> Row | None:
    """All steps over one row; None when one of them has no such form."""
    functions = [step.row(arrays) for step in steps]
    rows = [function for function in functions if function is not None]
    if len(rows) < len(functions):
        return None

    def chain(row: list[float]) -> list[float]:
        for function in rows:
            row = function(row)
        return row

    return chain
