"""Arrays of forms: their data file, one after the other in NumPy's own format, never a pickle; and rows looked at."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np

from lagar.types import Array

ARRAYS: Final = "arrays.npy"


def save(path: Path, arrays: Iterable[Array]) -> None:
    """Write the arrays to a file."""
    with path.open("wb") as file:
        for array in arrays:
            np.save(file, array, allow_pickle=False)


def read(path: Path, count: int) -> list[Array]:
    """The first `count` arrays of a file, which need not be there for none; raises OSError and ValueError."""
    if not count:
        return []
    with path.open("rb") as file:
        return [np.load(file, allow_pickle=False) for _ in range(count)]


ORDINARY = 1e30


def weights(width: int) -> Array:
    """Numbers whose product with a row (width,) is below `ORDINARY`, but for NaN, infinity and huge numbers.

    No two are alike, so that huge numbers do not cancel each other, and none is so large that a product overflows:
    NumPy warns of that.
    """
    found: Array = np.modf(np.arange(1, width + 1) * 0.6180339887498949)[0]
    return (0.25 + found / 4) / max(width, 1)
