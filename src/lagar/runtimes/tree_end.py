"""Trees as the end of a form: a float64 matrix in, a model's answers out.

The checks that the library makes are made here first: ONNX Runtime answers what scikit-learn refuses. One row goes
through a buffer that lies where the walk through the trees looks for it, so an end is called by one thread at a time,
as every predictor is.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from lagar.errors import LoadFailed
from lagar.runtimes.arrays import ORDINARY, read, weights
from lagar.runtimes.tree_finish import AnyFinish
from lagar.runtimes.tree_walks import NativeWalk, OnnxWalk, Shape, Walk
from lagar.types import Array, Outputs

TABLES = "trees.npy"
ZERO = float(np.float32(1e-35))
"""LightGBM's zero: what is not farther from it counts as 0."""
FLOAT32_MAX = float(np.finfo(np.float32).max)


class Categories(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Splits by the category in one column: column `first` and the following of the trees' matrix."""

    source: int
    first: int
    table: str
    """Name of an array (codes + 1, splits): 0 for left and 1 for right; the last row is for all other values."""
    values: str | None = None
    """Name of an array with the value of each code, ascending; None: values are codes, cut to whole numbers."""


class End(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How trees are fed and what is made of their answers."""

    width: int
    """Columns of the matrix that comes in."""
    trees: int
    targets: int
    walk: Literal["leaf", "sum", "leaf by tree", "sum by tree", "native"]
    """What runs the trees: a graph that gives rows of the table `leaves`, or sums, perhaps tree by tree; or Lagar's own
    machine code."""
    single: bool
    """Values are rounded to float32 and have to fit."""
    finish: AnyFinish
    narrow: bool = False
    """The graph itself computes in float32; else in float64."""
    sums: Literal["float64", "float32"] = "float64"
    """In which leaves are added up; float32 by the machine code only."""
    nan: bool = False
    """NaN is let through."""
    infinite: bool = False
    """Infinity is let through."""
    finite: list[int] = []
    """Columns in which it is not, even so."""
    snap: bool = False
    """Values within ±1e-35 become 0."""
    zero_missing: list[int] = []
    """Columns in which 0 becomes missing."""
    categories: list[Categories] = []
    tables: list[str] = []
    """Names of the arrays in the data file, one after the other in NumPy's own format."""


class TreeEnd:
    """Loaded trees."""

    def __init__(self, folder: Path, end: End, threads: int) -> None:
        self._end = end
        try:
            arrays = _tables(folder, end.tables)
            self._categories = [_Category(each, arrays) for each in end.categories]
        except (OSError, ValueError, EOFError, KeyError) as error:
            raise LoadFailed(f"{folder.name}: its tables cannot be read: {error}; compile it again") from error
        self._splits = sum(each.table.shape[1] for each in self._categories)
        self._dtype: Any = np.float32 if end.narrow else np.float64
        self._finish = end.finish.open()
        self._as_it_comes = not (self._categories or end.snap or end.zero_missing)
        self._rounds_first = end.single and not end.narrow
        shape = Shape(
            columns=end.width + self._splits,
            trees=end.trees,
            targets=end.targets,
            dtype=self._dtype,
            sums=np.dtype(end.sums),
        )
        self._walk: Walk
        if end.walk == "native":
            self._walk = NativeWalk(folder, arrays, shape)
        else:
            self._walk = OnnxWalk(folder, arrays.get("leaves"), end.walk.endswith("by tree"), shape, threads)
        self.libraries = self._walk.libraries
        self._line = self._walk.line
        self._rounded = np.zeros(end.width, dtype=np.float32)
        self._takes_all = end.nan and end.infinite and not end.finite
        self._warns = end.single and not self._walk.rounds
        # numbers with which the sum shows every value that needs a closer look
        if self._takes_all:
            self._guard = weights(end.width)
        else:
            self._guard = np.full(end.width, float(np.finfo(np.float64).max) / FLOAT32_MAX if end.single else 1.0)

    def outputs(self, x: Array, names: tuple[str, ...]) -> Outputs:
        """The named outputs for a float64 matrix (n, width); ValueError for what the library refuses."""
        if len(x) == 1:
            return self._finish(self._one(x[0]), names)
        if not len(x):
            raise ValueError("Found array with 0 sample(s) while a minimum of 1 is required.")
        with np.errstate(all="ignore"):
            return self._finish(self._many(x), names)

    def _one(self, x: Array) -> Array:
        """Sums (1, targets) of one row (width,)."""
        if not self._takes_all:
            if not math.isfinite(x.dot(self._guard)):
                self._check(x)
        elif self._warns and not -ORDINARY < x.dot(self._guard) < ORDINARY:
            with np.errstate(over="ignore"):  # a number beyond float32, which the library takes
                self._fill_one(x)
            return self._walk.one()
        self._fill_one(x)
        return self._walk.one()

    def _fill_one(self, x: Array) -> None:
        line = self._line
        if self._as_it_comes:
            if self._rounds_first:
                self._rounded[:] = x
                x = self._rounded
            line[:] = x
            return
        line[: self._end.width] = self._base(x[None, :])[0]
        for each in self._categories:
            line[each.columns] = each.table[each.code(x.item(each.source))]

    def _many(self, x: Array) -> Array:
        """Sums (n, targets) of at least two rows."""
        end = self._end
        if end.single:
            rounded = x.astype(np.float32)
            if not np.isfinite(rounded).all():
                self._check(x)
            x = rounded
        elif end.finite:
            self._check(x)
        if not self._as_it_comes:
            x = self._filled(x)
        return self._walk.many(np.ascontiguousarray(x, dtype=self._dtype))

    def _filled(self, x: Array) -> Array:
        """The trees' matrix of rows: what is zero and what is missing told, categorical splits behind."""
        width = self._end.width
        filled = np.empty((len(x), width + self._splits), dtype=self._dtype)
        filled[:, :width] = self._base(x)
        for each in self._categories:
            filled[:, each.columns] = each.table.take(each.codes(x[:, each.source]), axis=0)
        return filled

    def _base(self, x: Array) -> Array:
        end = self._end
        if end.snap or end.zero_missing:
            x = x.copy()
        if end.snap:
            x[np.abs(x) <= ZERO] = 0.0
        for column in end.zero_missing:
            values = x[:, column]
            values[np.abs(values) <= ZERO] = np.nan
        return x

    def _check(self, x: Array) -> None:
        """Raise ValueError for what the library's own validation refuses."""
        end = self._end
        if end.finite and np.isinf(x[..., end.finite]).any():
            raise ValueError("Input X contains infinity or a value too large for dtype('float64').")
        if end.nan and end.infinite:
            return
        if end.single:
            with np.errstate(over="ignore"):
                x = x.astype(np.float32)
        if not end.infinite and np.isinf(x).any():
            raise ValueError("Input X contains infinity or a value too large for dtype('float32').")
        if not end.nan and np.isnan(x).any():
            raise ValueError("Input X contains NaN.")


class _Category:
    """Loaded `Categories`."""

    def __init__(self, document: Categories, arrays: dict[str, Array]) -> None:
        self.source = document.source
        self.table = arrays[document.table]
        self.columns = slice(document.first, document.first + self.table.shape[1])
        self._other = len(self.table) - 1
        self._values = None if document.values is None else arrays[document.values]
        self._known = {} if self._values is None else {value: code for code, value in enumerate(self._values.tolist())}

    def code(self, value: float) -> int:
        """The row of the table for one value."""
        if self._values is not None:
            return self._known.get(value, self._other)
        return int(value) if -1.0 < value < self._other else self._other

    def codes(self, values: Array) -> Array:
        """The rows of the table."""
        if self._values is not None:
            place = np.searchsorted(self._values, values).clip(max=max(len(self._values) - 1, 0))
            known = self._values.take(place) == values if len(self._values) else np.zeros(len(values), dtype=bool)
            return np.where(known, place, self._other)
        known = (values > -1.0) & (values < self._other)
        return np.where(known, values, self._other).astype(np.intp)


def _tables(folder: Path, names: list[str]) -> dict[str, Array]:
    return dict(zip(names, read(folder / TABLES, len(names)), strict=True))
