"""CatBoost's trees: every level of a tree asks one question, so the answers are the bits of the leaf's number.

The sums of the leaves run in the order of the trees, as CatBoost adds them up: in NumPy or in Lagar's machine code.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lagar import native
from lagar.errors import LoadFailed
from lagar.runtimes.arrays import ORDINARY, weights
from lagar.types import Array

MAX_DEPTH = 16


class Tables(NamedTuple):
    """What a file of trees holds."""

    features: Array
    """(trees, depth): the column that a level asks."""
    borders: Array
    """(trees, depth), float32: above it the bit is 1; infinite where a tree has no such level."""
    leaves: Array
    """(trees, 2 ** depth, k), float64."""
    scale: float
    bias: Array
    nan_above: Array
    """Columns whose missing values are above every border; elsewhere they are below, as NaN > b is false."""


def read(path: Path, width: int) -> Tables:
    """The tables, checked so that no walk leaves them; raises ValueError."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in ("features", "borders", "leaves", "scale", "bias", "nan_above")}
    except (OSError, KeyError, EOFError) as error:
        raise ValueError(f"no tables of trees: {error}") from error
    features, borders = found["features"], found["borders"].astype(np.float32, copy=False)
    leaves, above = found["leaves"].astype(np.float64, copy=False), found["nan_above"]
    sound = (
        features.ndim == 2 and features.shape == borders.shape and 1 <= features.shape[1] <= MAX_DEPTH
        and leaves.ndim == 3 and leaves.shape[:2] == (len(features), 1 << features.shape[1])
        and features.dtype.kind == above.dtype.kind == "i" and found["bias"].shape == leaves.shape[2:]
        and all(((columns >= 0) & (columns < width)).all() for columns in (features, above))
    )  # fmt: skip
    if not sound:
        raise ValueError("its tables do not hold together")
    return Tables(features, borders, leaves, float(found["scale"]), found["bias"], above)


class NativeTrees:
    """Through `walk.c`; one thread at a time."""

    def __init__(self, tables: Tables, width: int) -> None:
        library = native.library()
        if library is None:
            raise LoadFailed(
                f"this installation has no compiled walk through trees ({native.path().name}); compile the version "
                "again here"
            )
        trees, depth = tables.features.shape
        self._k = tables.leaves.shape[2]
        self._width = width
        self._scale, self._bias, self._nan_above = tables.scale, tables.bias, tables.nan_above
        self._kept = (
            np.ascontiguousarray(tables.borders, dtype=np.float32),
            np.ascontiguousarray(tables.features, dtype=np.int32),
            np.ascontiguousarray(tables.leaves, dtype=np.float64),
        )
        self._levels = native.Levels(*(array.ctypes.data for array in self._kept), trees, depth, self._k)
        self._line = np.zeros(width, dtype=np.float32)
        self._sums = np.zeros((1, self._k))
        self._weights = weights(width)
        one, self._many = library.one_symmetric, library.many_symmetric
        one.restype = self._many.restype = None
        row = (
            ctypes.byref(self._levels),
            ctypes.c_void_p(self._line.ctypes.data),
            ctypes.c_void_p(self._sums.ctypes.data),
        )
        self._one: Callable[[], None] = lambda: one(*row)

    def values(self, x: NDArray[np.float64]) -> Array:
        """Values (n,) or (n, k) of rows (n, width)."""
        n = len(x)
        if n == 1:
            self._fill(x[0])
            sums = self._sums
            sums.fill(0.0)
            self._one()
        else:
            sums = self._sums_of(x)
        values: Array = sums * self._scale + self._bias
        return values if self._k > 1 else values[:, 0]

    def _fill(self, row: Array) -> None:
        if -ORDINARY < row.dot(self._weights) < ORDINARY:
            self._line[:] = row
            return
        with np.errstate(all="ignore"):
            self._line[:] = row
        if len(self._nan_above):
            above = self._line[self._nan_above]
            above[np.isnan(above)] = np.inf
            self._line[self._nan_above] = above

    def _sums_of(self, x: Array) -> Array:
        n = len(x)
        stride = -(-n // native.BLOCK) * native.BLOCK
        table = np.zeros((self._width, stride), dtype=np.float32)
        with np.errstate(all="ignore"):
            table[:, :n] = x.T
        if len(self._nan_above):
            above = table[self._nan_above]
            above[np.isnan(above)] = np.inf
            table[self._nan_above] = above
        sums = np.zeros((n, self._k))
        self._many(
            ctypes.byref(self._levels),
            ctypes.c_void_p(table.ctypes.data),
            ctypes.c_int64(stride),
            ctypes.c_int64(n),
            ctypes.c_void_p(sums.ctypes.data),
        )
        return sums

    def close(self) -> None:
        """Nothing is held besides memory."""


class NumpyTrees:
    """In NumPy's operations."""

    _BLOCK = 256
    """Rows at a time, so that what is between two steps stays in the cache."""

    def __init__(self, tables: Tables) -> None:
        features = np.ascontiguousarray(tables.features, dtype=np.intp)
        borders = np.ascontiguousarray(tables.borders, dtype=np.float32)
        trees, self._depth = features.shape
        self._leaves: Array = tables.leaves.reshape(trees * (1 << self._depth), -1)
        """(trees · leaves, k)."""
        self._offsets: Array = np.arange(trees, dtype=np.intp) << self._depth
        self._scale, self._bias, self._nan_above = tables.scale, tables.bias, tables.nan_above
        self._level_features = np.ascontiguousarray(features.T)
        self._level_borders = np.ascontiguousarray(borders.T)[:, :, None]
        self._k = self._leaves.shape[1]
        self._flat = np.ascontiguousarray(self._leaves[:, 0]) if self._k == 1 else None
        self._bits = 8 if self._depth <= 8 else 16
        spare = ((0, 0), (0, self._bits - self._depth))
        self._all_features = np.pad(features, spare).ravel()
        self._all_borders = np.pad(before_rounding(borders), spare, constant_values=np.inf).ravel()

    def values(self, x: NDArray[np.float64]) -> Array:
        if len(x) == 1:
            sums = self._one(x[0])
        else:
            with np.errstate(all="ignore"):
                x32 = self._above(x.astype(np.float32))
            parts = [self._block(x32[at : at + self._BLOCK]) for at in range(0, len(x32), self._BLOCK)]
            sums = np.concatenate(parts) if parts else np.empty((0, self._k))
        values: Array = sums * self._scale + self._bias
        return values if self._k > 1 or values.ndim == 1 else values[:, 0]

    def _above(self, x: Array) -> Array:
        """The same with infinity for what is missing in the columns where that is above every border."""
        if len(self._nan_above):
            x = x.copy()
            above = x[..., self._nan_above]
            above[np.isnan(above)] = np.inf
            x[..., self._nan_above] = above
        return x

    def _one(self, row: Array) -> Array:
        """The sums (1, k), or (1,) of a single value, in float64 from the start."""
        bits = np.packbits(self._above(row).take(self._all_features) > self._all_borders, bitorder="little")
        leaves = (bits if self._bits == 8 else bits.view("<u2")) + self._offsets
        if self._flat is not None:
            sums: Array = np.add.accumulate(self._flat.take(leaves))[-1:]
        else:
            sums = np.add.accumulate(self._leaves.take(leaves, axis=0))[-1:]
        return sums

    def _block(self, x32: Array) -> Array:
        above = x32.T.take(self._level_features, axis=0) > self._level_borders
        number = above[0].astype(np.uint8 if self._depth <= 8 else np.uint16)
        for level in range(1, self._depth):
            number |= above[level].astype(number.dtype) << number.dtype.type(level)
        leaves = number + self._offsets[:, None]
        if self._flat is not None:
            sums: Array = np.add.reduce(self._flat.take(leaves), axis=0)[:, None]
        else:
            sums = np.add.reduce(self._leaves.take(leaves, axis=0), axis=0)
        return sums

    def close(self) -> None:
        """Nothing is held besides memory."""


def before_rounding(borders: Array) -> Array:
    """float64 borders above which a number is, when it is above the given ones once it is rounded to float32.

    That is half-way to the next float32; a number exactly there is rounded to the one whose last bit is 0.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        after = np.nextafter(borders, np.float32(np.inf))
        half: Array = borders + (after.astype(np.float64) - borders) / 2
        step = borders - np.nextafter(borders, np.float32(-np.inf)).astype(np.float64)
        half = np.where(np.isinf(after), borders + step / 2, half)
    is_odd = (borders.view(np.uint32) & 1).astype(bool)
    half = np.where(is_odd, np.nextafter(half, -np.inf), half)
    return np.where(np.isinf(borders), borders, half)
