"""Where a column program takes its numbers from: the caller's columns or matrix, looked up, joined, put through steps.

A source is data, as steps are. Opened, it gives a fresh float64 matrix (n, width) for many rows and a list of floats
for one: below some dozens of columns a list is quicker than any array. Tables map a value to a number by Python's own
equality, as scikit-learn's encoders do for objects; numbers compare alike there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np

from lagar.runtimes.column_steps import AnyStep, Arrays, Ref, chained, chained_row
from lagar.types import Array, Rows

NOTHING = -1
"""A code: the value has no column of its own."""
REFUSED = -2
"""A code: the original refuses the value."""
NARROW = 64
"""Up to so many columns one row goes as a list."""


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One field's values as codes."""

    field: int
    keys: list[str | bool | int | float]
    codes: list[int]
    missing: int
    """The code of null and NaN."""
    unknown: int
    refuses_infinity: bool = False


class Codes(dict[Any, Any]):
    """Value → what stands for its code, for all values: those that are no key are missing, unknown or refused."""

    def __init__(self, table: Table, stands_for: Callable[[int], Any] = int) -> None:
        super().__init__(
            (key, stands_for(code)) for key, code in zip(table.keys, table.codes, strict=True) if code != REFUSED
        )
        self._refused = [key for key, code in zip(table.keys, table.codes, strict=True) if code == REFUSED]
        self._missing = None if table.missing == REFUSED else stands_for(table.missing)
        self._unknown = None if table.unknown == REFUSED else stands_for(table.unknown)
        self._refuses_infinity = table.refuses_infinity

    def __missing__(self, value: Any) -> Any:
        if value is None or value != value:
            found = self._missing
        elif self._refuses_infinity and value in (float("inf"), float("-inf")):
            raise ValueError("Input contains infinity or a value too large for dtype('float64').")
        else:
            found = None if value in self._refused else self._unknown
        if found is None:
            raise ValueError(f"Found unknown categories [{value!r}] during transform")
        return found


Value = Callable[[Rows], Any]
Column = Callable[[Rows], Array]


class Known(dict[Any, Any]):
    """Value → what stands for it, or the one thing that stands for all others."""

    def __init__(self, known: Mapping[Any, Any], otherwise: Any) -> None:
        super().__init__(known)
        self._otherwise = otherwise

    def __missing__(self, value: Any) -> Any:
        return self._otherwise


def looked_up(table: dict[Any, Any], column: Array, dtype: Any = np.intp) -> Array:
    """What stands for each value of a column."""
    return np.fromiter(map(table.__getitem__, column.tolist()), dtype, len(column))


class Context:
    """What a source needs to open: the arrays of the form, and how rows come."""

    def __init__(self, arrays: Arrays, names: tuple[str, ...] | None) -> None:
        self.arrays = arrays
        self.names = names
        """Field names when rows are columns by name; None for a matrix."""

    def value(self, field: int) -> Callable[[Rows], Any]:
        """The field's value of the only row."""
        if self.names is None:
            return lambda rows: rows.matrix.item(field)  # type: ignore[union-attr]
        name = self.names[field]
        return lambda rows: rows.columns[name].item()  # type: ignore[index]

    def column(self, field: int) -> Callable[[Rows], Array]:
        """The field's values."""
        if self.names is None:
            return lambda rows: rows.matrix[:, field]  # type: ignore[index]
        name = self.names[field]
        return lambda rows: rows.columns[name]  # type: ignore[index]


class Source:
    """An opened source."""

    def __init__(
        self,
        width: int,
        many: Callable[[Rows], Array],
        row: Callable[[Rows], list[float]] | None = None,
        *,
        tables: list[tuple[Value, Column, Table]] | None = None,
        entries: list[tuple[Column, Entry]] | None = None,
    ) -> None:
        self.width = width
        self.many = many
        self.row = row
        self.tables = tables
        """Of a one-hot source: what it is before its columns are written out."""
        self.entries = entries
        """Of a DictVectorizer, likewise."""

    def matrix(self, rows: Rows) -> Array:
        """Any number of rows as (n, width)."""
        if rows.n == 1 and self.row is not None:
            return np.array([self.row(rows)])
        return self.many(rows)

    def floats(self, rows: Rows) -> list[float]:
        """The only row."""
        found: list[float] = self.row(rows) if self.row is not None else self.many(rows)[0].tolist()
        return found


class Whole(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="whole"):
    """The caller's matrix as it comes."""

    def open(self, context: Context) -> Source:
        def many(rows: Rows) -> Array:
            assert rows.matrix is not None
            return rows.matrix

        return Source(0, many)


class Fields(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="fields"):
    """Fields as numbers: null is NaN, true is 1, a text that reads as a number is one."""

    fields: list[int]

    def open(self, context: Context) -> Source:
        fields, width = self.fields, len(self.fields)
        if context.names is None:
            picked = np.array(fields, dtype=np.intp)
            return Source(
                width,
                lambda rows: rows.matrix.take(picked, axis=1),  # type: ignore[union-attr]
                (lambda rows: [rows.matrix.item(field) for field in fields]) if width <= NARROW else None,  # type: ignore[union-attr]
            )
        names = [context.names[field] for field in fields]

        def many(rows: Rows) -> Array:
            assert rows.columns is not None
            out = np.empty((rows.n, width))
            for index, name in enumerate(names):
                out[:, index] = rows.columns[name]
            return out

        def row(rows: Rows) -> list[float]:
            columns = rows.columns
            assert columns is not None
            values = [columns[name].item() for name in names]
            return [value if type(value) is float else number(value) for value in values]

        return Source(width, many, row if width <= NARROW else None)


def number(value: Any) -> float:
    """A value as float64: null is NaN, a text is read."""
    return float("nan") if value is None else float(value)


class Lookup(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="lookup"):
    """Per field a row of numbers for its value: ordinal and target encoders."""

    tables: list[Table]
    """Codes are row numbers of the field's array of values."""
    values: list[Ref]
    """Per field an array (codes, columns)."""

    def open(self, context: Context) -> Source:
        arrays = [context.arrays[ref] for ref in self.values]
        tables = [
            Codes(table, lambda code, array=array: array[code].tolist())  # type: ignore[misc]
            for table, array in zip(self.tables, arrays, strict=True)
        ]
        one = [(context.value(table.field), codes) for table, codes in zip(self.tables, tables, strict=True)]
        all_ = [
            (array, context.column(table.field), Codes(table)) for table, array in zip(self.tables, arrays, strict=True)
        ]

        def many(rows: Rows) -> Array:
            parts = [array.take(looked_up(codes, column(rows)), axis=0) for array, column, codes in all_]
            return np.concatenate(parts, axis=1)

        def row(rows: Rows) -> list[float]:
            out: list[float] = []
            for value, codes in one:
                out += codes[value(rows)]
            return out

        return Source(sum(array.shape[1] for array in arrays), many, row)


class Hot(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="hot"):
    """One column of 0 and 1 per known value of each field."""

    tables: list[Table]
    """Codes are columns of the answer, or NOTHING."""
    width: int

    def open(self, context: Context) -> Source:
        tables = [(table.field, Codes(table)) for table in self.tables]
        one = [(context.value(field), codes) for field, codes in tables]
        all_ = [(context.column(field), codes) for field, codes in tables]
        parts = [(context.value(table.field), context.column(table.field), table) for table in self.tables]
        width = self.width
        zeros = [0.0] * width

        def many(rows: Rows) -> Array:
            out = np.zeros((rows.n, width + 1))  # NOTHING is the last column
            lines = np.arange(rows.n)
            for column, codes in all_:
                out[lines, looked_up(codes, column(rows))] = 1.0
            return out[:, :width]

        def row(rows: Rows) -> list[float]:
            out = zeros.copy()
            for value, codes in one:
                code = codes[value(rows)]
                if code >= 0:
                    out[code] = 1.0
            return out

        return Source(width, many, row if width <= NARROW else None, tables=parts)


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One key of a DictVectorizer."""

    field: int
    number: int
    """The column of a number, or NOTHING."""
    texts: dict[str, int]
    """Text → its column."""

    def coded(self, column: Array) -> tuple[Array, Array]:
        """Columns of the values of an array of objects, and what stands there."""
        values = column.tolist()
        codes = [self.texts.get(value, NOTHING) if type(value) is str else self.number for value in values]
        return np.array(codes), np.array([1.0 if type(value) is str else number(value) for value in values])


class Records(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="records"):
    """A DictVectorizer: a number stands in its key's column, a text is a 1 in its own. No two keys share a column."""

    entries: list[Entry]
    width: int

    def open(self, context: Context) -> Source:
        width = self.width
        parts = [(context.column(entry.field), entry) for entry in self.entries]
        known = [Known(entry.texts, NOTHING) for entry in self.entries]
        zeros = [0.0] * (width + 1)  # NOTHING is the last column

        def many(rows: Rows) -> Array:
            out = np.zeros((rows.n, width + 1))
            lines = np.arange(rows.n)
            for (column, entry), texts in zip(parts, known, strict=True):
                values = column(rows)
                if values.dtype != object:
                    out[:, entry.number] = values
                elif entry.number < 0:  # a number has no column here, and neither has a text that is not known
                    out[lines, looked_up(texts, values)] = 1.0
                else:
                    codes, numbers = entry.coded(values)
                    out[lines, codes] = numbers
            return out[:, :width]

        def row(rows: Rows) -> list[float]:
            out = zeros.copy()
            for column, entry in parts:
                value = column(rows).item()
                if type(value) is str:
                    out[entry.texts.get(value, NOTHING)] = 1.0
                else:
                    out[entry.number] = number(value)
            out.pop()
            return out

        return Source(width, many, row if width <= NARROW else None, entries=parts)


class Join(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="join"):
    """Sources side by side."""

    parts: list[AnySource]

    def open(self, context: Context) -> Source:
        parts = [part.open(context) for part in self.parts]
        width = sum(part.width for part in parts)

        def row(rows: Rows) -> list[float]:
            out: list[float] = []
            for part in parts:
                out += part.floats(rows)
            return out

        return Source(
            width,
            lambda rows: np.concatenate([part.many(rows) for part in parts], axis=1),
            row if width <= NARROW and all(part.row is not None for part in parts) else None,
        )


class Stepped(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="steps"):
    """A source, then steps."""

    source: AnySource
    steps: list[AnyStep]
    width: int

    def open(self, context: Context) -> Source:
        source = self.source.open(context)
        take, chain = source.many, chained(self.steps, context.arrays)
        row, chain_row = source.row, chained_row(self.steps, context.arrays)
        return Source(
            self.width,
            lambda rows: chain(take(rows)),
            None if row is None or chain_row is None else (lambda rows: chain_row(row(rows))),
        )


AnySource = Whole | Fields | Lookup | Hot | Records | Join | Stepped
