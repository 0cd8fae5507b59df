"""Scores of linear models: a product with a matrix, or term by term where scikit-learn multiplies a sparse matrix.

Term by term keeps a one-hot code what it is, an index: 100,000 categories cost one addition, not a column each; and it
sums in the order of the stored values, so that the bits are those of the sparse product.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from lagar.runtimes.column_shares import FEW
from lagar.runtimes.column_sources import NARROW, NOTHING, Codes, Known, Source, looked_up, number
from lagar.runtimes.column_steps import NOT_FINITE
from lagar.types import Array, Rows


def check_finite(scores: Array, x: Array) -> None:
    """ValueError where x holds NaN or infinity; it is looked at only where a score is not finite."""
    if scores.size <= FEW and math.isfinite(sum(scores.ravel().tolist())):
        return
    if not np.isfinite(scores).all() and not np.isfinite(x).all():
        raise ValueError(NOT_FINITE)


class Scorer:
    """Rows → scores (n, outputs) or (n,); `one` is a single row's only score, None for several outputs."""

    one: Callable[[Rows], float] | None
    many: Callable[[Rows], Array]

    def __init__(self, coef: Array, intercept: Array, sources: list[Source], *, terms: bool) -> None:
        is_single = coef.ndim == 1 or len(coef) == 1
        if terms:
            product = Terms(coef, sources)
            self.many = lambda rows: product.scores(rows) + intercept
            offset = float(np.ravel(intercept)[0])
            self.one = (lambda rows: product.score(rows) + offset) if is_single else None
            return
        source, weights = sources[0], coef.T

        def many(rows: Rows) -> Array:
            x = source.matrix(rows)
            scores: Array = x @ weights + intercept
            check_finite(scores, x)
            return scores

        self.many = many
        self.one = _dense_one(source, np.ascontiguousarray(weights.reshape(-1)), intercept) if is_single else None


def _dense_one(source: Source, weights: Array, intercept: Array) -> Callable[[Rows], float]:
    offset = float(np.ravel(intercept)[0])

    def one(rows: Rows) -> float:
        x = source.matrix(rows)
        score: float = x.dot(weights).item() + offset
        if not math.isfinite(score) and not np.isfinite(x).all():
            raise ValueError(NOT_FINITE)
        return score

    return one


class _Part(Protocol):
    """Some columns of the product."""

    def add_one(self, rows: Rows, score: float) -> float:
        """The score with this part's terms of the only row; for one output."""
        ...

    def collect(self, rows: Rows, columns: list[int], values: list[float]) -> None:
        """The terms of the only row."""
        ...

    def add(self, rows: Rows, scores: Array) -> None:
        """The terms of all rows; scores are (n,) for one output, else (n, outputs)."""
        ...

    def is_finite(self, rows: Rows) -> bool: ...


class Terms:
    """A product summed over the columns from left to right."""

    def __init__(self, coef: Array, sources: Sequence[Source]) -> None:
        self._is_flat = coef.ndim == 1
        weights = np.ascontiguousarray(np.atleast_2d(coef).T)
        self._weights = weights
        self._outputs = weights.shape[1]
        self._parts: list[_Part] = []
        start = 0
        for source in sources:
            own = weights[start : start + source.width]
            if source.tables is not None:
                self._parts.append(_HotPart(source, own, start))
            elif source.entries is not None:
                self._parts.append(_RecordsPart(source, own, start))
            else:
                self._parts.append(_DensePart(source, own, start))
            start += source.width

    def score(self, rows: Rows) -> float:
        """The only output of the only row."""
        score = 0.0
        for part in self._parts:
            score = part.add_one(rows, score)
        if not math.isfinite(score):
            self._check(rows)
        return score

    def scores(self, rows: Rows) -> Array:
        """All outputs, before the intercept: (n, outputs), or (n,) where the coefficients were so."""
        if rows.n == 1 and self._outputs > 1:
            columns: list[int] = []
            values: list[float] = []
            for part in self._parts:
                part.collect(rows, columns, values)
            terms = self._weights.take(columns, axis=0) * np.array(values)[:, None]
            scores: Array = np.add.reduce(terms, axis=0)[None]
        else:
            scores = np.zeros(rows.n if self._outputs == 1 else (rows.n, self._outputs))
            for part in self._parts:
                part.add(rows, scores)
        if not np.isfinite(scores).all():
            self._check(rows)
        return scores[:, None] if self._outputs == 1 and not self._is_flat else scores

    def _check(self, rows: Rows) -> None:
        if not all(part.is_finite(rows) for part in self._parts):
            raise ValueError(NOT_FINITE)


class _DensePart:
    """Columns that are numbers."""

    def __init__(self, source: Source, weights: Array, start: int) -> None:
        self._source = source
        self._weights = weights if weights.shape[1] > 1 else weights[:, 0]
        self._floats: list[float] = weights[:, 0].tolist()
        self._columns = range(start, start + len(weights))

    def add_one(self, rows: Rows, score: float) -> float:
        for value, weight in zip(self._source.floats(rows), self._floats, strict=True):
            score += value * weight
        return score

    def collect(self, rows: Rows, columns: list[int], values: list[float]) -> None:
        columns += self._columns
        values += self._source.floats(rows)

    def add(self, rows: Rows, scores: Array) -> None:
        x = self._source.many(rows)
        if len(self._weights) > NARROW:
            scores += x @ self._weights
        elif scores.ndim == 1:
            for column, weight in zip(x.T, self._floats, strict=True):
                scores += column * weight
        else:
            for column, weights in zip(x.T, self._weights, strict=True):
                scores += column[:, None] * weights

    def is_finite(self, rows: Rows) -> bool:
        return bool(np.isfinite(self._source.matrix(rows)).all())


class _HotPart:
    """One-hot columns: the weight of the value's column, nothing for a value that has none."""

    def __init__(self, source: Source, weights: Array, start: int) -> None:
        assert source.tables is not None
        single = weights[:, 0].tolist()
        several = np.concatenate([weights, np.zeros((1, weights.shape[1]))])  # NOTHING is the last
        self._several = several
        self._one = [
            (value, Codes(table, lambda code: single[code] if code >= 0 else 0.0)) for value, _, table in source.tables
        ]
        self._codes = [
            (value, column, Codes(table, lambda code: code + start if code >= 0 else NOTHING))
            for value, column, table in source.tables
        ]
        self._all = [
            (column, Codes(table), weighted)
            for (_, column, table), (_, weighted) in zip(source.tables, self._one, strict=True)
        ]

    def add_one(self, rows: Rows, score: float) -> float:
        for value, weights in self._one:
            score += weights[value(rows)]
        return score

    def collect(self, rows: Rows, columns: list[int], values: list[float]) -> None:
        for value, _, codes in self._codes:
            code = codes[value(rows)]
            if code >= 0:
                columns.append(code)
                values.append(1.0)

    def add(self, rows: Rows, scores: Array) -> None:
        for column, codes, weights in self._all:
            if scores.ndim == 1:
                scores += looked_up(weights, column(rows), np.float64)
            else:
                scores += self._several.take(looked_up(codes, column(rows)), axis=0)

    def is_finite(self, rows: Rows) -> bool:
        return True


class _RecordsPart:
    """A DictVectorizer's columns."""

    def __init__(self, source: Source, weights: Array, start: int) -> None:
        assert source.entries is not None
        self._start = start
        self._single: list[float] = weights[:, 0].tolist()
        self._several = np.concatenate([weights, np.zeros((1, weights.shape[1]))])
        self._sources = source.entries
        self._entries = [(column, entry.number, Known(entry.texts, NOTHING)) for column, entry in source.entries]
        self._weighted = [
            (
                column,
                self._single[entry.number] if entry.number >= 0 else None,
                Known({text: self._single[index] for text, index in entry.texts.items()}, 0.0),
            )
            for column, entry in source.entries
        ]

    def add_one(self, rows: Rows, score: float) -> float:
        for column, weight, texts in self._weighted:
            value = column(rows).item()
            if type(value) is str:
                score += texts[value]
            elif weight is not None:
                score += number(value) * weight
        return score

    def collect(self, rows: Rows, columns: list[int], values: list[float]) -> None:
        for column, index, texts in self._entries:
            value = column(rows).item()
            code = texts[value] if type(value) is str else index
            if code >= 0:
                columns.append(code + self._start)
                values.append(1.0 if type(value) is str else number(value))

    def add(self, rows: Rows, scores: Array) -> None:
        is_flat = scores.ndim == 1
        for (column, entry), (_, _, texts), (_, _, weights) in zip(
            self._sources, self._entries, self._weighted, strict=True
        ):
            found = column(rows)
            if found.dtype != object:
                if entry.number >= 0:
                    own = self._several[entry.number]
                    scores += found * own[0] if is_flat else found[:, None] * own
                continue
            if entry.number >= 0:
                codes, factors = entry.coded(found)
                terms = self._several.take(codes, axis=0) * np.where(codes < 0, 0.0, factors)[:, None]
                scores += terms[:, 0] if is_flat else terms
            elif is_flat:
                scores += looked_up(weights, found, np.float64)
            else:
                scores += self._several.take(looked_up(texts, found), axis=0)

    def is_finite(self, rows: Rows) -> bool:
        return all(
            math.isfinite(number(value))
            for column, index, _ in self._entries
            if index >= 0
            for value in column(rows).tolist()
            if type(value) is not str
        )
