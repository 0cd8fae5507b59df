"""What travels between the protocols, the engine and the runtimes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Outputs = dict[str, Array]
"""Output name → array whose first axis is the rows, in the order of the input."""
Record = dict[str, Any]


class Rows:
    """Validated input rows: a float64 matrix of shape (n, width), or columns by name.

    `matrix` is C-ordered and in the order of the signature's fields; `columns` holds one array of length n per
    field: float64 or int64 for numbers (NaN for null), bool, or object arrays of str (None for null).
    Exactly one of the two is set, as the signature's `layout` says.
    """

    __slots__ = ("columns", "matrix", "n")

    def __init__(
        self, n: int, matrix: NDArray[np.float64] | None = None, columns: dict[str, Array] | None = None
    ) -> None:
        self.n = n
        self.matrix = matrix
        self.columns = columns

    def slice(self, start: int, stop: int) -> Rows:
        """Rows start..stop without a copy."""
        if self.matrix is not None:
            return Rows(stop - start, matrix=self.matrix[start:stop])
        assert self.columns is not None
        return Rows(stop - start, columns={name: column[start:stop] for name, column in self.columns.items()})

    def take(self, index: Any) -> Rows:
        """A copy of these rows, in this order; one may come several times."""
        if self.matrix is not None:
            return Rows(len(index), matrix=np.ascontiguousarray(self.matrix[index]))
        assert self.columns is not None
        return Rows(len(index), columns={name: column[index] for name, column in self.columns.items()})

    @staticmethod
    def join(parts: Sequence[Rows]) -> Rows:
        """One Rows of all parts, in order; the parts come from one signature."""
        if len(parts) == 1:
            return parts[0]
        n = sum(part.n for part in parts)
        if parts[0].matrix is not None:
            return Rows(n, matrix=np.concatenate([part.matrix for part in parts if part.matrix is not None]))
        first = parts[0].columns
        assert first is not None
        return Rows(
            n,
            columns={
                name: np.concatenate([part.columns[name] for part in parts if part.columns is not None])
                for name in first
            },
        )


class Predictor(Protocol):
    """A loaded model: what a runtime returns and the engine calls."""

    def predict(self, rows: Rows, outputs: tuple[str, ...]) -> Outputs:
        """The named outputs for rows; each array has rows.n as its first axis."""
        ...

    def close(self) -> None: ...


class Handlers(Protocol):
    """The user's optional hooks around a model, from `handlers.py`."""

    has_preprocess: bool
    has_postprocess: bool

    def preprocess(self, records: list[Record]) -> list[Record]: ...

    def postprocess(self, outputs: Mapping[str, Any], records: list[Record], single: bool = False) -> Any:
        """The native answer; `single` when the caller sent one record by itself, not a list or a batch of one."""
        ...
