"""DictVectorizer: its vocabulary as fields, and columns → the matrix that it would make."""

from __future__ import annotations

from typing import Any

import numpy as np

from lagar.errors import LoadFailed
from lagar.registry.signature import Field
from lagar.types import Array, Rows


def fields_of(vectorizer: Any) -> list[Field]:
    """One field per key: `k` a number, `k=v` a text with its values; refused values are what it would drop silently."""
    separator = vectorizer.separator
    numbers: dict[str, None] = {}
    texts: dict[str, list[str]] = {}
    order: dict[str, None] = {}
    for feature in vectorizer.feature_names_:
        if not isinstance(feature, str):
            raise LoadFailed(f"the DictVectorizer has the key {feature!r}; keys must be strings")
        name, found, value = feature.partition(separator)
        order[name if found else feature] = None
        if found:
            texts.setdefault(name, []).append(value)
        else:
            numbers[feature] = None
    fields: list[Field] = []
    for name in order:
        if name in texts and name in numbers:  # sometimes a number, sometimes a text
            fields.append(Field(name, type="unknown", nullable=False))
        elif name in texts:
            fields.append(Field(name, type="string", categories=tuple(texts[name]), nullable=False))
        else:
            fields.append(Field(name, type="float", nullable=False))
    return fields


class RecordsInput:
    """Columns → what DictVectorizer.transform makes of the same records, without a dict per row.

    A text is a 1 in the column of `k=v`, a number stands in the column of `k`; zeros are stored as it stores them, so
    that sums run over the same terms in the order of the fields.
    """

    def __init__(self, vectorizer: Any) -> None:
        self._vocabulary: dict[str, int] = vectorizer.vocabulary_
        self._separator: str = vectorizer.separator
        self._sparse: bool = vectorizer.sparse
        self._dtype = vectorizer.dtype
        self._names: tuple[str, ...] = ()
        self._codes: dict[str, dict[str, int]] = {}

    def bind(self, names: tuple[str, ...]) -> None:
        self._names = names
        self._codes = {}
        for feature, index in self._vocabulary.items():
            name, found, value = feature.partition(self._separator)
            if found:
                self._codes.setdefault(name, {})[value] = index

    def __call__(self, rows: Rows) -> Any:
        import scipy.sparse as sparse

        indices = np.empty((rows.n, len(self._names)), dtype=np.int32)
        values = np.ones((rows.n, len(self._names)), dtype=self._dtype)
        for position, name in enumerate(self._names):
            column = rows.columns[name] if rows.columns is not None else rows.matrix[:, position]  # type: ignore[index]
            self._place(name, column, indices[:, position], values[:, position])
        shape = (rows.n, len(self._vocabulary))
        known = indices >= 0
        if known.all():
            starts = np.arange(0, indices.size + 1, len(self._names), dtype=np.int32)
            matrix = sparse.csr_matrix((values.ravel(), indices.ravel(), starts), shape=shape)
        else:  # an unknown text that a rule lets through has no column
            starts = np.concatenate([[0], np.cumsum(known.sum(axis=1))]).astype(np.int32)
            matrix = sparse.csr_matrix((values[known], indices[known], starts), shape=shape)
        return matrix if self._sparse else matrix.toarray()

    def _place(self, name: str, column: Array, indices: Array, values: Array) -> None:
        if column.dtype != object:
            indices[:] = self._vocabulary.get(name, -1)
            values[:] = column
            return
        codes = self._codes.get(name, {})
        for row, value in enumerate(column.tolist()):
            if isinstance(value, str):
                indices[row] = codes.get(value, -1)
            else:
                indices[row] = self._vocabulary.get(name, -1)
                values[row] = value
