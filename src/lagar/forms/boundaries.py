"""Rows at which a model's answers change, found by asking it: needs no knowledge of what is inside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lagar.forms.original import Original
from lagar.registry.signature import Field
from lagar.runtimes.comparison import is_label
from lagar.types import Outputs, Rows

Matrix = NDArray[np.float64]
_SEARCHED: Final = 48
"""Pairs of rows between which an edge is looked for, bit by bit."""
_BORDERS: Final = 24
"""Pairs between which the place is looked for where the label turns."""
_FROM_BORDER: Final = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
"""How far from there rows are made, as parts of the way between the two."""
_LEAST_STEPS: Final = 2.0**20
"""And never nearer than so many doubles: there rounding decides."""


def beside(values: Matrix, random: np.random.Generator) -> Matrix:
    """Each value as it is, or one of the numbers next to it in double or single precision."""
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
        choices = np.stack(
            [
                values,
                np.nextafter(values, np.inf),
                np.nextafter(values, -np.inf),
                single.astype(np.float64),
                np.nextafter(single, np.float32(np.inf)).astype(np.float64),
                np.nextafter(single, np.float32(-np.inf)).astype(np.float64),
            ]
        )
    picked = random.integers(len(choices), size=values.shape)
    found: Matrix = np.take_along_axis(choices, picked[None], axis=0)[0]
    return found


class _Turns(NamedTuple):
    """Pairs of rows that differ in one number, and neighbouring doubles between them with different answers."""

    base: Rows
    slots: list[int | str]
    slot: NDArray[Any]
    way: Matrix
    """From the first row's number to the second's."""
    before: Matrix
    """The last number, on the way, with the answer of the first row."""
    after: Matrix

    def at(self, values: Matrix) -> Rows:
        """The rows with these numbers."""
        return _written(self.base, self.slots, self.slot, values)


def edges(original: Original, ordinary: Rows, random: np.random.Generator) -> Rows | None:
    """Rows on both sides of the places where an answer changes, found between two values of one number, to the bit.

    Between a row and the same row with another value there is a pair of neighbouring doubles with different answers, if
    the two rows have different ones.
    """
    turns = _turns(original, ordinary, random, original.outputs, _SEARCHED)
    if turns is None:
        return None
    at = np.stack([turns.before, turns.after])
    sides = [*at, *(beside(values, random) for values in at), *(beside(values, random) for values in at)]
    return Rows.join([turns.at(values) for values in sides])


def borders(original: Original, ordinary: Rows, random: np.random.Generator) -> Rows | None:
    """Rows close to a place where the label turns, so that one that computes in single precision says another there.

    Not at the place itself, where double precision would not know either.
    """
    if "predict" not in original.outputs:
        return None
    answer = _asked(original, ordinary.slice(0, 1))
    if answer is None or not is_label(original.signature, "predict", answer["predict"]):
        return None
    turns = _turns(original, ordinary, random, ("predict",), _BORDERS)
    if turns is None:
        return None
    found = []
    for part in _FROM_BORDER:
        for start, step in ((turns.before, -turns.way * part), (turns.after, turns.way * part)):
            far = np.abs(step) > _LEAST_STEPS * np.spacing(np.abs(start))
            found.append(turns.at(start + step).take(np.flatnonzero(far)))
    return Rows.join(found)


def _turns(
    original: Original, ordinary: Rows, random: np.random.Generator, outputs: tuple[str, ...], count: int
) -> _Turns | None:
    """At most `count` places where one of these outputs changes; None where none was found."""
    slots = _slots(ordinary, original.signature.fields or ())
    if not slots or ordinary.n < 2:
        return None
    pairs = random.integers(ordinary.n, size=(2, _SEARCHED * 4))
    base, other = ordinary.take(pairs[0]), ordinary.take(pairs[1])
    slot = random.integers(len(slots), size=base.n)
    low, high = _read(base, slots, slot), _read(other, slots, slot)
    good = np.isfinite(low) & np.isfinite(high) & (low != high)
    first, last = _asked(original, base), _asked(original, _written(base, slots, slot, high))
    if first is None or last is None:
        return None
    changed = np.flatnonzero(good & _differs(first, last, outputs))[:count]
    if not len(changed):
        return None
    base, slot, low, high = base.take(changed), slot[changed], low[changed], high[changed]
    first = {name: values[changed] for name, values in first.items()}
    a, b = _ordered(low), _ordered(high)
    for _ in range(64):
        middle = (a >> 1) + (b >> 1) + (a & b & 1)
        if np.all((middle == a) | (middle == b)):
            break
        found = _asked(original, _written(base, slots, slot, _number(middle)))
        if found is None:
            return None
        moved = _differs(first, found, outputs)
        a, b = np.where(moved, a, middle), np.where(moved, middle, b)
    return _Turns(base, slots, slot, high - low, _number(a), _number(b))


def ties(original: Original, ordinary: Rows, random: np.random.Generator) -> Rows | None:
    """Rows at which a classifier can hardly decide: crossed and halved rows, those with the smallest margin kept."""
    if "predict_proba" not in original.outputs or ordinary.n < 4:
        return None
    pool, margins = ordinary, _margins(_asked(original, ordinary))
    if margins is None:
        return None
    for _ in range(4):
        best = np.argsort(margins, kind="stable")[: min(96, pool.n)]
        parents = pool.take(best)
        children = _crossed(parents, random, 288)
        found = _margins(_asked(original, children))
        if found is None:
            return None
        pool, margins = Rows.join([parents, children]), np.concatenate([margins[best], found])
    kept = np.argsort(margins, kind="stable")[:160]
    return pool.take(kept)


def _crossed(parents: Rows, random: np.random.Generator, count: int) -> Rows:
    """Rows that have each value from one of two parents; half of the matrices are the middle of the two."""
    left, right = random.integers(parents.n, size=(2, count))
    if parents.matrix is not None:
        a, b = parents.matrix[left], parents.matrix[right]
        mixed = np.where(random.random(a.shape) < 0.5, a, b)
        mixed[::2] = (a[::2] + b[::2]) / 2
        return Rows(count, matrix=np.ascontiguousarray(mixed))
    assert parents.columns is not None
    columns = {}
    for name, column in parents.columns.items():
        columns[name] = np.where(random.random(count) < 0.5, column[left], column[right]).astype(column.dtype)
    return Rows(count, columns=columns)


def _margins(answer: Outputs | None) -> Matrix | None:
    """The distance of the two likeliest classes, per row."""
    probabilities = None if answer is None else answer.get("predict_proba")
    if probabilities is None or probabilities.ndim != 2 or probabilities.dtype.kind != "f":
        return None
    top = np.sort(np.nan_to_num(probabilities, nan=9.0), axis=1)
    if top.shape[1] < 2:
        return None
    margins: Matrix = np.abs(top[:, -1] - top[:, -2])
    return margins


def _asked(original: Original, rows: Rows) -> Outputs | None:
    """The original's answer; None where it refuses."""
    try:
        return original.predict(rows)
    except Exception:  # of any kind: it is the model's
        return None


def _differs(first: Outputs, second: Outputs, outputs: tuple[str, ...]) -> NDArray[np.bool_]:
    """Which rows have another answer in these outputs."""
    found: NDArray[np.bool_] | None = None
    for name in outputs:
        values = first[name]
        changed = values != second[name]
        if values.dtype.kind == "f":
            changed &= ~(np.isnan(values) & np.isnan(second[name]))
        changed = np.asarray(np.asarray(changed).reshape(len(values), -1).any(axis=1))
        found = changed if found is None else np.logical_or(found, changed)
    assert found is not None
    return found


def _slots(rows: Rows, fields: Sequence[Field]) -> list[int | str]:
    """Columns that hold any float, by index or by name."""
    if rows.matrix is not None:
        return list(range(rows.matrix.shape[1]))
    assert rows.columns is not None
    return [field.name for field in fields if rows.columns[field.name].dtype == np.float64 and not is_closed(field)]


def _read(rows: Rows, slots: Sequence[Any], slot: NDArray[Any]) -> Matrix:
    index = np.arange(rows.n)
    if rows.matrix is not None:
        return np.asarray(rows.matrix[index, slot])
    assert rows.columns is not None
    return np.asarray(np.stack([rows.columns[name] for name in slots])[slot, index])


def _written(rows: Rows, slots: Sequence[Any], slot: NDArray[Any], values: Matrix) -> Rows:
    """The rows with one number of each replaced."""
    index = np.arange(rows.n)
    if rows.matrix is not None:
        matrix = rows.matrix.copy()
        matrix[index, slot] = values
        return Rows(rows.n, matrix=matrix)
    assert rows.columns is not None
    columns = dict(rows.columns)
    for place, name in enumerate(slots):
        here = slot == place
        if here.any():
            columns[name] = np.where(here, values, columns[name])
    return Rows(rows.n, columns=columns)


def _ordered(values: Matrix) -> NDArray[np.int64]:
    """Doubles as whole numbers in the same order, neighbours one apart."""
    bits = values.astype(np.float64).view(np.int64)
    return np.where(bits >= 0, bits, np.int64(-(2**63)) - bits)


def _number(order: NDArray[np.int64]) -> Matrix:
    bits = np.where(order >= 0, order, np.int64(-(2**63)) - order)
    return bits.astype(np.int64).view(np.float64)


def is_closed(field: Field) -> bool:
    """No value outside its categories ever reaches the model."""
    return field.categories is not None and field.unknown == "refuse"
