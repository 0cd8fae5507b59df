"""Rows of the JSON bodies that are certainly good: a record, a list of records, a matrix of numbers, by itself or in
the one member of an object.

What is not recognised here is not wrong: it goes the exact way of `bodies`, which names what is. As many colons as keys
are expected say that no key is there twice or unknown, as many brackets that nothing is nested.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from lagar.protocols import json_body
from lagar.protocols.base import Limits
from lagar.protocols.columns import Plan
from lagar.registry.signature import Field, Signature
from lagar.types import Rows

Matrix = NDArray[np.float64]
Table = list[list[float]]

SPLIT: Final = "dataframe_split"
_BUFFER_FROM_BYTES: Final = 1536
_BEGINNING_BYTES: Final = 48
_ESCAPED: Final = re.compile(r'["\\\x00-\x1f\ud800-\udfff]')
_COUNTED: Final = re.compile(r"[:\[]")


class _Split(msgspec.Struct):
    columns: list[str]
    data: Table
    index: list[int] | None = None


class _SplitBody(msgspec.Struct):
    dataframe_split: _Split


_bare_rows = msgspec.json.Decoder(Table)
_split_body = msgspec.json.Decoder(_SplitBody)


class PlainRows:
    """Reads such bodies for one signature: rows may stand under `members`, records under `frames` too."""

    __slots__ = ("_limits", "_members", "_names", "_numbers", "_plan", "_record", "_records", "_records_in", "_rows_in",
                 "_split")  # fmt: skip

    def __init__(
        self, signature: Signature, plan: Plan, limits: Limits, members: Iterable[str], frames: Iterable[str] = ()
    ) -> None:
        self._plan = plan
        self._limits = limits
        self._names = list(signature.names)
        self._members = frozenset(members)
        self._numbers = signature.layout == "matrix"
        self._split = self._numbers and signature.fields is not None and not any(map(_COUNTED.search, self._names))
        self._rows_in = _members_of(self._members, Table)
        record = _record_type(signature)
        self._record = None if record is None else msgspec.json.Decoder(record)
        self._records: msgspec.json.Decoder[list[Any]] | None = None
        self._records_in: msgspec.json.Decoder[Any] | None = None
        if record is not None:
            many = list[record]  # type: ignore[valid-type]
            self._records, self._records_in = msgspec.json.Decoder(many), _members_of({*self._members, *frames}, many)

    def bare(self, body: bytes) -> Rows | None:
        """The rows of a body that is a record, or a list of records or of rows."""
        try:
            if body.startswith(b"[{"):
                return None if self._records is None else self._from_records(body, self._records.decode(body), 0)
            if body.startswith(b"["):
                return self._matrix(body, 0, 1, _bare_rows.decode, _rows_of) if self._numbers else None
            if self._record is None or not body.startswith(b"{") or body.count(b":") != len(self._names):
                return None
            return self._plan.from_tuples([msgspec.structs.astuple(self._record.decode(body))])
        except json_body.PARSE_ERRORS:
            return None

    def in_member(self, body: bytes) -> Rows | None:
        """The rows in the one member of an object, as a list of records or of rows."""
        place = body.find(b"[", 0, _BEGINNING_BYTES)
        begins = body[place + 1 : place + 2]
        try:
            if begins == b"[" and self._numbers:
                return self._matrix(body, 1, 1, lambda text: _only(self._rows_in.decode(text)), self._rows_of_member)
            if begins == b"{" and self._records_in is not None:
                return self._from_records(body, _only(self._records_in.decode(body)), 1)
        except json_body.PARSE_ERRORS:
            pass
        return None

    def in_split(self, body: bytes) -> Rows | None:
        """The rows of `{"dataframe_split": {"columns": …, "data": …}}`, where the columns are those of the model."""
        if not self._split or SPLIT.encode() not in body[:_BEGINNING_BYTES]:
            return None
        indexed = b'"index"' in body
        try:
            return self._matrix(body, 3 + indexed, 2 + indexed, self._split_table, self._split_rows)
        except json_body.PARSE_ERRORS:
            return None

    def _matrix(
        self,
        body: bytes,
        keys: int,
        lists: int,
        table_of: Callable[[bytes], Table | None],
        matrix_of: Callable[[Any], Matrix | None],
    ) -> Rows | None:
        """Rows of numbers in a body with so many keys, and so many lists beside the rows themselves.

        A short body is read by `table_of`, of a longer one `matrix_of` takes what simdjson made of it.
        """
        if body.count(b":") != keys:
            return None
        if len(body) >= _BUFFER_FROM_BYTES:
            matrix = json_body.read_numbers(body, matrix_of)
            if matrix is None or body.count(b"[") != len(matrix) + lists:
                return None
        else:
            table = table_of(body)
            if not table or len(set(map(len, table))) != 1 or not table[0]:
                return None
            matrix = np.array(table)
        width = self._plan.width
        if len(matrix) > self._limits.max_rows or (width is not None and matrix.shape[1] != width):
            return None
        return self._plan.from_matrix(matrix)

    def _rows_of_member(self, document: Any) -> Matrix | None:
        (key,) = document.keys()
        return _rows_of(document[key]) if key in self._members else None

    def _split_table(self, body: bytes) -> Table | None:
        split = _split_body.decode(body).dataframe_split
        if split.columns != self._names or (split.index is not None and len(split.index) != len(split.data)):
            return None
        return split.data

    def _split_rows(self, document: Any) -> Matrix | None:
        (key,) = document.keys()
        split = document[key]
        others = set(split.keys()) - {"columns", "data"}
        if key != SPLIT or others - {"index"} or split["columns"].as_list() != self._names:
            return None
        matrix = _rows_of(split["data"])
        return None if matrix is None or (others and len(split["index"]) != len(matrix)) else matrix

    def _from_records(self, body: bytes, records: list[Any] | None, keys: int) -> Rows | None:
        n = len(records or ())
        if not records or n > self._limits.max_rows or body.count(b":") != keys + n * len(self._names):
            return None
        return self._plan.from_tuples([msgspec.structs.astuple(record) for record in records])


def _rows_of(rows: Any) -> Matrix | None:
    """The matrix of a list of rows; the caller counts brackets, since as_buffer flattens."""
    n = len(rows)
    widths = set(map(len, rows))
    flat = np.frombuffer(rows.as_buffer(of_type="d"))
    if n == 0 or len(widths) != 1:
        return None
    width = widths.pop()
    return flat.reshape(n, width) if width > 0 and flat.size == n * width else None


def _members_of(members: Iterable[str], kind: Any) -> msgspec.json.Decoder[Any]:
    """A decoder of an object whose members of these names are of a kind, or absent."""
    fields = [(name, kind | None, None) for name in sorted(members)]
    return msgspec.json.Decoder(msgspec.defstruct("Members", fields))


def _only(held: msgspec.Struct) -> Any:
    """What stands in the one member that is there; colons say that there is one."""
    return next(filter(None, msgspec.structs.astuple(held)), None)


def _record_type(signature: Signature) -> type[msgspec.Struct] | None:
    """A struct of the signature's fields; None when the exact way must look at every record.

    msgspec renames no field to what JSON escapes, and that is how a caller would have to write it.
    """
    if not signature.fields or any(map(_ESCAPED.search, signature.names)):
        return None
    fields = [(f"f{place}", _python_type(field)) for place, field in enumerate(signature.fields)]
    rename = {f"f{place}": field.name for place, field in enumerate(signature.fields)}
    return msgspec.defstruct("Record", fields, rename=rename)


def _python_type(field: Field) -> Any:
    plain: dict[str, Any] = {"float": float, "int": int, "bool": bool, "string": str}
    kind = plain.get(field.type, str | int | float | bool)
    if field.type == "string" and field.categories and field.unknown == "refuse":
        texts = tuple(category for category in field.categories if type(category) is str)
        kind = Literal[texts] if len(texts) == len(field.categories) else str | int | float | bool
    return kind | None if field.nullable is True else kind
