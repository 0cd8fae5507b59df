"""The data file of a form: arrays one after the other in NumPy's own format, never a pickle."""

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
