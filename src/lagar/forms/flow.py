"""What flows through a column program while it is built: columns of the caller, and matrices made of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any, Literal

import msgspec
import numpy as np

from lagar.forms.candidates import NotApplicable
from lagar.registry.signature import Signature
from lagar.runtimes.column_sources import NOTHING, AnySource, Fields, Hot, Join, Stepped, Whole
from lagar.runtimes.column_steps import AnyStep, Impute, Ref, Refuse, Select
from lagar.types import Array

WIDEST = 4096
"""Columns of a sparse matrix that may be written out: 32 MB for 1,000 rows."""


NEVER = object()
"""A marker that no value is: SimpleImputer(missing_values=None), since null has become NaN before it."""


class Sheet:
    """What a whole program shares: its arrays, numbered, and the signature of the model."""

    def __init__(self, signature: Signature, *, objects: bool = False) -> None:
        self.signature = signature
        self.objects = objects
        """Whether the original gets one array of objects: columns without names."""
        self.arrays: list[Array] = []

    def add(self, array: Any) -> Ref:
        """The number of a copy; raises NotApplicable for what is no array of numbers.

        The layout in memory stays: products over the one and the other are not the same bits.
        """
        copy = np.array(array, order="K")
        if copy.dtype.kind not in "biuf":
            raise NotApplicable(f"the model holds an array of {copy.dtype} where numbers were expected")
        self.arrays.append(copy)
        return len(self.arrays) - 1


class Replaced(msgspec.Struct, frozen=True):
    """One imputer over one column."""

    marker: Any
    """What counts as missing; None: null and NaN."""
    fill: Any
    refuses: Literal["none", "infinity", "all"]
    """Of what is not finite, what it refuses before it replaces."""


class Column(msgspec.Struct, frozen=True):
    """A field of the caller, perhaps behind imputers."""

    field: int | None
    """None: a column of the training data that nobody has to send."""
    is_number: bool
    replaced: tuple[Replaced, ...] = ()


class Matrix(msgspec.Struct, frozen=True):
    """Columns that a source makes."""

    source: AnySource
    width: int


class Flow:
    """Pieces side by side, in the order of the columns."""

    def __init__(self, pieces: Sequence[Column | Matrix], sheet: Sheet, *, sparse: bool = False) -> None:
        self.pieces = list(pieces)
        self.sheet = sheet
        self.sparse = sparse
        """Whether scikit-learn has a sparse matrix here."""

    @property
    def width(self) -> int:
        return sum(1 if isinstance(piece, Column) else piece.width for piece in self.pieces)

    def joined(self, parts: Sequence[Flow], *, sparse: bool) -> Flow:
        """Flows side by side."""
        return Flow([piece for part in parts for piece in part.pieces], self.sheet, sparse=sparse)

    def columns(self, wanted_by: str) -> list[Column]:
        """The caller's columns; NotApplicable where they are numbers by now."""
        found = [piece for piece in self.pieces if isinstance(piece, Column)]
        if len(found) < len(self.pieces):
            raise NotApplicable(f"{wanted_by} works on columns that another step made")
        return found

    def take(self, wanted: Sequence[int]) -> Flow:
        """Some columns, in the order given."""
        owners: list[tuple[int, int]] = []
        for number, piece in enumerate(self.pieces):
            owners += [(number, inner) for inner in range(1 if isinstance(piece, Column) else piece.width)]
        pieces: list[Column | Matrix] = []
        for number, group in groupby((owners[column] for column in wanted), key=lambda owner: owner[0]):
            inner = [position for _, position in group]
            piece = self.pieces[number]
            if isinstance(piece, Column):
                pieces += [piece] * len(inner)
            else:
                pieces.append(piece if inner == list(range(piece.width)) else self._picked(piece, inner))
        return Flow(pieces, self.sheet, sparse=self.sparse)

    def _picked(self, piece: Matrix, inner: list[int]) -> Matrix:
        if isinstance(piece.source, Hot) and len(set(inner)) == len(inner):
            places = {column: place for place, column in enumerate(inner)}
            tables = [
                msgspec.structs.replace(
                    table,
                    codes=[_moved(code, places) for code in table.codes],
                    missing=_moved(table.missing, places),
                    unknown=_moved(table.unknown, places),
                )
                for table in piece.source.tables
            ]
            return Matrix(Hot(tables, len(inner)), len(inner))
        steps: list[AnyStep] = [Select(self.sheet.add(np.array(inner, dtype=np.intp)))]
        return Matrix(Stepped(piece.source, steps, len(inner)), len(inner))

    def stepped(self, steps: list[AnyStep], width: int, *, sparse: bool = False) -> Flow:
        """All columns as one matrix behind steps."""
        return Flow([Matrix(self._behind(self.source(), steps, width), width)], self.sheet, sparse=sparse)

    @staticmethod
    def _behind(source: AnySource, steps: list[AnyStep], width: int) -> AnySource:
        if not steps:
            return source
        if isinstance(source, Stepped):
            return Stepped(source.source, [*source.steps, *steps], width)
        return Stepped(source, steps, width)

    def source(self) -> AnySource:
        """All columns as numbers; NotApplicable where scikit-learn's sparse matrix would become a huge one."""
        if self.sparse and self.width > WIDEST:
            raise NotApplicable(f"its sparse matrix of {self.width:,} columns would have to be written out")
        parts = self.sources()
        return parts[0] if len(parts) == 1 else Join(parts)

    def sources(self) -> list[AnySource]:
        """All columns as numbers, those of different origin apart."""
        whole = [Column(index, True) for index in range(len(self.sheet.signature.names))]
        if self.sheet.signature.layout == "matrix" and self.pieces == whole:
            return [Whole()]
        parts: list[AnySource] = []
        for is_column, group in groupby(self.pieces, key=lambda piece: isinstance(piece, Column)):
            if is_column:
                parts += self._numbers([piece for piece in group if isinstance(piece, Column)])
            else:
                parts += [piece.source for piece in group if isinstance(piece, Matrix)]
        return parts

    def _numbers(self, columns: list[Column]) -> list[AnySource]:
        parts: list[AnySource] = []
        for _, group in groupby(columns, key=lambda c: [(repr(r.marker), r.refuses) for r in c.replaced]):
            alike = list(group)
            fields = [column.field for column in alike if column.field is not None]
            if len(fields) < len(alike):
                raise NotApplicable("a column of the training data is used that is no field of the model")
            steps: list[AnyStep] = []
            for index, first in enumerate(alike[0].replaced):
                if first.refuses != "none":
                    steps.append(Refuse(nan=first.refuses == "all"))
                fills = self.sheet.add(numbers([column.replaced[index].fill for column in alike]))
                steps.append(Impute(fills, marker=None if first.marker is None else as_number(first.marker)))
            parts.append(self._behind(Fields(fields), steps, len(fields)))
        return parts


def _moved(code: int, places: dict[int, int]) -> int:
    return code if code < 0 else places.get(code, NOTHING)


def as_number(value: Any) -> float:
    """A value as a float64; NotApplicable for a text."""
    if not isinstance(value, (int, float, np.number)):
        raise NotApplicable(f"{value!r} stands where the program needs a number")
    return float(value)


def numbers(values: Sequence[Any]) -> Array:
    """Values as float64; NotApplicable for a text."""
    return np.array([as_number(value) for value in values], dtype=np.float64)
