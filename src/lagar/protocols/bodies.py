"""The shapes of native bodies, up to the rules for values: which rows they hold, under which names, with which ids.

A record with exactly the signature's fields is a record, whatever its fields are called; only then are the members of
an envelope looked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from lagar.errors import InvalidInput, PayloadTooLarge, UnsupportedMediaType
from lagar.protocols import json_body, tables
from lagar.protocols.base import JSON, Limits, MediaType, parse_media_type, shown
from lagar.protocols.columns import Plan
from lagar.protocols.contents import DATETIME
from lagar.registry.signature import Field, Signature
from lagar.types import Record

CSV: Final = "text/csv"
ARROW: Final = "application/vnd.apache.arrow.stream"
PARQUET: Final = "application/vnd.apache.parquet"

_FORM: Final = "application/x-www-form-urlencoded"
_NDJSON: Final = frozenset(
    {
        "application/x-ndjson",
        "application/ndjson",
        "application/jsonl",
        "application/x-jsonlines",
        "application/jsonlines",
    }
)
_PARQUET_TYPES: Final = frozenset({PARQUET, "application/x-parquet", "application/parquet"})
_ARROW_TYPES: Final = frozenset({ARROW, "application/x-apache-arrow-stream"})
ENVELOPES: Final = ("batches", "instances", "inputs", "data")
ID: Final = "id"
ID_ONLY: Final = frozenset({ID})
_MAX_ID: Final = 256


class Batch:
    """What a body holds, before the rules for values: records, rows in field order, or columns by name."""

    __slots__ = ("columns", "ids", "n", "records", "single", "table", "timeout")

    def __init__(
        self,
        n: int,
        *,
        records: list[Any] | None = None,
        table: list[Any] | None = None,
        columns: dict[str, Sequence[Any]] | None = None,
    ) -> None:
        self.n = n
        self.records = records
        self.table = table
        self.columns = columns
        self.ids: list[str] | None = None
        self.timeout: Any = None
        self.single = False
        """One record by itself."""


class BodyReader:
    """Native bodies for one signature."""

    __slots__ = ("_all_columns", "_limits", "_moments", "_names", "_plan", "_signature", "_takes_ids")

    def __init__(
        self, signature: Signature, plan: Plan, limits: Limits, *, all_columns: bool, takes_ids: bool = True
    ) -> None:
        """`takes_ids`: a caller's ids are told from his fields, by the names that the native protocol gives them."""
        self._signature = signature
        self._names = signature.names
        self._moments = frozenset(f.name for f in signature.fields or () if f.content_type == DATETIME)
        self._plan = plan
        self._limits = limits
        self._takes_ids = takes_ids
        self._all_columns = all_columns
        """True when the user's own functions may want columns that are no fields."""

    def read(self, body: bytes, content_type: str) -> Batch:
        media = parse_media_type(content_type)
        batch = self.read_table(body, media)
        if batch is not None:
            return batch
        taken = f"{JSON}, application/x-ndjson, {CSV}, {ARROW} or {PARQUET}"
        if media.essence in _NDJSON:
            check_charset(media)
            return self.from_list(json_body.parse_lines(body))
        check_json(body, media, content_type, taken)
        return self.read_json(body)

    def read_table(self, body: bytes, media: MediaType) -> Batch | None:
        """The batch of a CSV, Parquet or Arrow body; None for any other type."""
        essence = media.essence
        if essence == CSV or essence == "application/csv":
            return self._from_cells(tables.read_csv(body, media.charset, self._limits))
        if essence in _PARQUET_TYPES:
            return self._from_table(tables.read_parquet(body, self._limits, self._wanted(), self._moments))
        if essence in _ARROW_TYPES:
            return self._from_table(tables.read_arrow(body, self._limits, self._wanted(), self._moments))
        return None

    def read_json(self, body: bytes) -> Batch:
        value = json_body.parse(body)
        if type(value) is list:
            return self.from_list(value)
        if type(value) is not dict:
            raise InvalidInput(f"the body must be a record, a list, or rows in an envelope, got {shown(value)}")
        if len(value) != len(self._names) or set(value) != set(self._names):
            batch = self._from_envelope(value)
            if batch is not None:
                return batch
        batch = self.from_list([value])
        batch.single = True
        return batch

    def _from_envelope(self, value: dict[str, Any]) -> Batch | None:
        """The batch of {"batches": …} and its like; None when the object is a record."""
        names = self._names
        if "input_data" in value and "input_data" not in names and isinstance(value["input_data"], (dict, list)):
            inner: Any = value["input_data"]
            batch = self.from_split(inner, "data") if type(inner) is dict else self.from_list(inner)
        else:
            found = [key for key in ENVELOPES if key in value and key not in names and type(value[key]) in (list, dict)]
            if not found:
                return None
            if len(found) > 1:
                raise InvalidInput(f"the body has both '{found[0]}' and '{found[1]}': send the rows once")
            inner = value[found[0]]
            if type(value.get("columns")) is list and type(inner) is list:
                batch = self.from_split(value, found[0])
            elif type(inner) is dict:
                batch = self.from_lists(found[0], inner)
            else:
                batch = self.from_list(inner)
        if "ids" in value and "ids" not in names:
            batch.ids = self._checked_ids(value["ids"], batch.n, "ids")
        parameters = value.get("parameters")
        if "timeout" in value and "timeout" not in names:
            batch.timeout = value["timeout"]
        elif type(parameters) is dict:
            batch.timeout = parameters.get("timeout")
        return batch

    def _count(self, n: int) -> None:
        if n == 0:
            raise InvalidInput("there are no rows in the body")
        if n > self._limits.max_rows:
            raise PayloadTooLarge(f"the request has {n} rows, at most {self._limits.max_rows} are taken at once")

    def from_list(self, items: list[Any]) -> Batch:
        """Records, rows, or bare values for a model with a single input."""
        n = len(items)
        self._count(n)
        first = type(items[0])
        if first is dict:
            batch = Batch(n, records=items)
            if self._takes_ids and ID not in self._names and any(type(item) is dict and ID in item for item in items):
                given = [item.get(ID) if type(item) is dict else None for item in items]
                batch.ids = self._checked_ids(given, n, ID)
            return batch
        if first is not list:
            if len(self._names) != 1:
                raise InvalidInput(
                    f"row 0 must be a list or an object, got {shown(items[0])}: a single row is [[…]]", row=0
                )
            for row, item in enumerate(items):
                if type(item) is list or type(item) is dict:
                    raise InvalidInput(f"row {row} must be a bare value as row 0 is, got {shown(item)}", row=row)
            return Batch(n, table=[[item] for item in items])
        return Batch(n, table=items)

    def from_split(self, value: dict[str, Any], key: str) -> Batch:
        """{"columns": names, "data": rows, "index": ids}."""
        names, data = value.get("columns"), value.get(key)
        if type(data) is not list:
            raise InvalidInput(f"'{key}' must be a list of rows, got {shown(data)}", field=key)
        if names is None:
            batch = self.from_list(data)
        else:
            if type(names) is not list or not all(type(name) is str for name in names):
                raise InvalidInput(f"'columns' must be a list of names, got {shown(names)}", field="columns")
            if len(set(names)) != len(names):
                raise InvalidInput(f"'columns' names a column twice: {shown(names)}", field="columns")
            self._count(len(data))
            for row, values in enumerate(data):
                if type(values) is not list or len(values) != len(names):
                    got = f"{len(values)} values" if type(values) is list else shown(values)
                    raise InvalidInput(f"row {row} has {got}, 'columns' has {len(names)} names", row=row)
            columns = {name: [values[place] for values in data] for place, name in enumerate(names)}
            batch = self._from_table(columns, len(data))
        index = value.get("index")
        if index is not None and self._takes_ids:
            batch.ids = self._checked_ids(index, batch.n, "index")
        elif index is not None and (type(index) is not list or len(index) != batch.n):
            raise InvalidInput(f"'index' must be a list with {batch.n} entries, one per row", field="index")
        return batch

    def from_lists(self, key: str, columns: dict[str, Any]) -> Batch:
        """{"inputs": {"alcohol": [13.2, …], …}}: one list per field."""
        if not columns:
            raise InvalidInput(f"'{key}' is empty", field=key)
        n = -1
        for name, values in columns.items():
            if type(values) is not list:
                raise InvalidInput(f"'{key}' must hold one list of values per field, got {shown(values)}", field=name)
            if n not in (-1, len(values)):
                raise InvalidInput(f"input '{name}' has {len(values)} values where the first has {n}", field=name)
            n = len(values)
        return self._from_table(columns, n)

    def _wanted(self) -> frozenset[str] | None:
        """The columns of a table that are worth reading."""
        if self._all_columns or not self._signature.named:
            return None
        return frozenset((*self._names, ID))

    def _from_cells(self, columns: tables.Columns) -> Batch:
        fields = {field.name: field for field in self._signature.fields or ()}
        typed: dict[str, list[Any]] = {}
        for name, cells in columns.items():
            field = fields.get(name)
            if name == ID and field is None:
                typed[name] = cells
                continue
            kind = "unknown" if field is None else _cell_kind(field)
            typed[name] = tables.cells_as(kind, cells, nullable=field is not None and field.nullable is True)
        return self._from_table(typed)

    def _from_table(self, columns: Mapping[str, Sequence[Any]], n: int | None = None) -> Batch:
        """Columns by name, an id column taken out. A model without names of its own takes them by position."""
        held = dict(columns)
        given = held.pop(ID) if self._takes_ids and ID in held and ID not in self._names else None
        if not held:
            raise InvalidInput("there are no columns in the body")
        if n is None:
            n = max(map(len, held.values()))
        self._count(n)
        if not self._signature.named and not self._all_columns and not set(held).intersection(self._names):
            batch = Batch(n, table=[list(values) for values in zip(*held.values(), strict=True)])
        else:
            batch = Batch(n, columns=held)
        if given is not None:
            batch.ids = self._checked_ids(list(given), n, ID)
        return batch

    def _checked_ids(self, ids: Any, n: int, where: str) -> list[str]:
        if type(ids) is not list:
            raise InvalidInput(f"'{where}' must be a list with one id per row, got {shown(ids)}", field=where)
        if len(ids) != n:
            raise InvalidInput(f"'{where}' has {len(ids)} ids for {n} rows", field=where)
        texts = []
        for row, value in enumerate(ids):
            if isinstance(value, float) and value.is_integer():
                value = int(value)
            if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
                raise InvalidInput(
                    f"the id of row {row} must be a text or a whole number, got {shown(value)}", field=where, row=row
                )
            text = shown(value) if isinstance(value, int) else value
            if len(text) > _MAX_ID:
                raise InvalidInput(
                    f"the id of row {row} has {len(text)} characters, at most {_MAX_ID} are taken", field=where, row=row
                )
            texts.append(text)
        return texts

    def records_of(self, batch: Batch) -> list[Record]:
        """The caller's rows by name, for the user's own functions."""
        if batch.records is not None:
            for row, record in enumerate(batch.records):
                if type(record) is not dict:
                    raise InvalidInput(f"row {row} must be an object of named values, got {shown(record)}", row=row)
            return batch.records
        if batch.columns is not None:
            names = list(batch.columns)
            return [dict(zip(names, values, strict=True)) for values in zip(*batch.columns.values(), strict=True)]
        assert batch.table is not None
        if self._plan.width is None:
            return [{f"x{place}": value for place, value in enumerate(values)} for values in batch.table]
        self._plan.check_rectangle(batch.table)
        return [dict(zip(self._names, values, strict=True)) for values in batch.table]


def check_json(body: bytes, media: MediaType, content_type: str, taken: str) -> None:
    """Refuse a body that is announced as anything but JSON; curl's form type with JSON in it passes.

    `taken` are the types to send instead. Raises UnsupportedMediaType.
    """
    essence = media.essence
    json_like = essence == JSON or (essence.startswith("application/") and essence.endswith("+json"))
    if not json_like and essence != _FORM:
        raise UnsupportedMediaType(f"Content-Type {shown(content_type)} is not understood: send {taken}")
    check_charset(media)
    if essence == _FORM and not body.lstrip().startswith((b"{", b"[")):
        raise UnsupportedMediaType(
            f"Content-Type {_FORM} with a body that is not JSON: send JSON, with -H 'Content-Type: {JSON}'"
        )


def check_charset(media: MediaType) -> None:
    """Refuse JSON in another encoding than UTF-8."""
    if media.charset not in (None, "utf-8", "utf8", "us-ascii", "ascii"):
        raise UnsupportedMediaType(f"charset {shown(media.charset)} is not understood: JSON is UTF-8")


def _cell_kind(field: Field) -> str:
    """How a CSV cell of this field is read: by the type of its categories, where it has some."""
    if field.categories:
        kinds = {type(category) for category in field.categories if category is not None}
        if kinds == {str}:
            return "string"
        if kinds == {bool}:
            return "bool"
        return "float" if kinds <= {int, float} else "unknown"
    return field.type
