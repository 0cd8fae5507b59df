"""Class labels as a form keeps them in its document, with the type that the original answers in."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from lagar.runtimes.base import plain
from lagar.types import Array


class Labels(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Classes in the order of the probabilities, as `plain` gives them."""

    values: list[str | bool | int | float]
    dtype: str
    """NumPy's name: "<i8", "|b1", "<f8", "<U5", "|O" for texts in an object array."""

    @classmethod
    def of(cls, classes: Any) -> Labels | None:
        """None where the type of an answer would depend on which classes are in it, or a class is no scalar."""
        array = plain(np.asarray(classes))
        values = array.tolist()
        if array.ndim != 1 or array.dtype.kind not in "biufUO":
            return None
        if array.dtype.kind == "O" and not all(type(value) is str for value in values):
            return None
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            return None
        return cls(values, array.dtype.str)

    def array(self) -> Array:
        """The classes, to take answers from."""
        return np.array(self.values, dtype=np.dtype(self.dtype))
