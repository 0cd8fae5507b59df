"""Example files (CSV, Parquet, JSON, NDJSON) as columns, and examples made from a signature when there is none."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from lagar.errors import LoadFailed
from lagar.registry.signature import Field, Scalar
from lagar.types import Rows

_DELIMITERS = ",;\t|"
_MISSING = frozenset({"", "NA", "N/A", "NaN", "nan", "NULL", "null", "None", "?"})


class Table(msgspec.Struct):
    """An example file: columns of Python values, None for missing; `named` is False when it had only rows."""

    names: list[str]
    columns: list[list[Scalar]]
    named: bool = True

    @property
    def n(self) -> int:
        return len(self.columns[0]) if self.columns else 0

    def column(self, name: str) -> list[Scalar]:
        return self.columns[self.names.index(name)]

    def records(self) -> list[dict[str, Scalar]]:
        return [dict(zip(self.names, row, strict=True)) for row in zip(*self.columns, strict=True)]


def read(path: Path) -> Table:
    """The example file as a table; LoadFailed when its content is not what its suffix says."""
    suffix = path.suffix.lower()
    try:
        if suffix in {".parquet", ".pq"}:
            table = _parquet(path)
        elif suffix in {".csv", ".tsv", ".txt"}:
            table = _csv(path)
        elif suffix in {".json", ".ndjson", ".jsonl"}:
            table = _json(path)
        else:
            raise LoadFailed(f"example {path}: expected .csv, .parquet, .json or .ndjson, got {path.suffix!r}")
    except OSError as error:
        raise LoadFailed(f"example {path} cannot be read: {error}") from None
    if not table.n:
        raise LoadFailed(f"example {path} has no rows")
    return table


def from_records(records: Sequence[dict[str, Any]]) -> Table:
    """Records → a table with every key that occurs, in the order of first sight."""
    names = list(dict.fromkeys(key for record in records for key in record))
    return Table(names, [[record.get(name) for record in records] for name in names])


def _csv(path: Path) -> Table:
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    header = text.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=header.count) if any(mark in header for mark in _DELIMITERS) else ","
    lines = [row for row in csv.reader(io.StringIO(text), delimiter=delimiter) if any(cell.strip() for cell in row)]
    if len(lines) < 2:
        raise LoadFailed(f"example {path}: expected a header and at least one row, got {len(lines)} line(s)")
    names, rows = [name.strip() for name in lines[0]], lines[1:]
    for number, row in enumerate(rows):
        if len(row) != len(names):
            raise LoadFailed(f"example {path}: row {number} has {len(row)} cells and the header {len(names)}")
    comma = delimiter == ";"
    return Table(names, [_typed([row[index].strip() for row in rows], comma) for index in range(len(names))])


def _typed(cells: list[str], decimal_comma: bool) -> list[Scalar]:
    """A CSV column: whole numbers, else numbers, else true/false, else text; a few marks are missing values."""
    present = [cell for cell in cells if cell not in _MISSING]
    for convert in (_whole, float, _comma_number if decimal_comma else float, _boolean):
        try:
            values = {cell: convert(cell) for cell in set(present)}
        except ValueError:
            continue
        return [values.get(cell) for cell in cells]
    # Among words, only an empty cell is missing: "None" or "NA" may be a category.
    return [cell or None for cell in cells]


def _whole(cell: str) -> int:
    if cell.lstrip("+-").startswith("0") and len(cell.lstrip("+-")) > 1:
        raise ValueError(cell)  # 007 is a code, and float() reads 0.5
    return int(cell)


def _comma_number(cell: str) -> float:
    return float(cell.replace(".", "").replace(",", ".")) if "," in cell else float(cell)


def _boolean(cell: str) -> bool:
    if cell.lower() not in {"true", "false"}:
        raise ValueError(cell)
    return cell.lower() == "true"


def _parquet(path: Path) -> Table:
    import pyarrow.parquet as parquet

    try:
        table = parquet.read_table(path)
    except (ValueError, OSError) as error:
        raise LoadFailed(f"example {path} is not Parquet: {error}") from None
    names = [name for name in table.column_names if not name.startswith("__index_level_")]
    return Table(names, [table.column(name).to_pylist() for name in names])


def _json(path: Path) -> Table:
    try:
        text = path.read_text(encoding="utf-8-sig")
        try:
            content = json.loads(text)
        except ValueError:
            content = [json.loads(line) for line in text.splitlines() if line.strip()]
    except ValueError as error:
        raise LoadFailed(f"example {path} is not JSON: {error}") from None
    table = _from_json(content)
    if table is None:
        raise LoadFailed(f'example {path}: expected a record, a list of records or {{"columns": […], "data": [[…]]}}')
    return table


def _from_json(content: Any) -> Table | None:
    if isinstance(content, dict):
        for key in ("input_data", "dataframe_split"):
            if isinstance(content.get(key), dict):
                return _from_json(content[key])
        if isinstance(content.get("columns"), list) and isinstance(content.get("data"), list):
            return _rows([str(name) for name in content["columns"]], content["data"])
        for key in ("batches", "instances", "inputs", "data", "dataframe_records"):
            if isinstance(content.get(key), list) and content[key]:
                return _from_json(content[key])
        return from_records([content]) if content and not _nested(content) else None
    if isinstance(content, list) and content:
        if all(isinstance(row, dict) for row in content):
            return from_records(content)
        if all(isinstance(row, list) for row in content):
            return _rows(None, content)
        if all(not isinstance(row, (list, dict)) for row in content):
            return Table(["x0"], [list(content)], named=False)
    return None


def _nested(record: dict[str, Any]) -> bool:
    return any(isinstance(value, dict) for value in record.values())


def _rows(names: list[str] | None, rows: list[list[Any]]) -> Table | None:
    width = len(names) if names is not None else len(rows[0])
    if any(not isinstance(row, list) or len(row) != width for row in rows):
        return None
    columns = [[row[index] for row in rows] for index in range(width)]
    return Table(names or [f"x{index}" for index in range(width)], columns, named=names is not None)


def made(fields: Sequence[Field]) -> dict[str, Scalar]:
    """One record made from what the fields say: their typical value, first category, middle of the range, or 0."""
    return {field.name: _value(field) for field in fields}


def _value(field: Field) -> Scalar:
    if field.example is not None and accepts(field, field.example):
        return field.example
    if field.has_default and field.default is not None:
        return field.default
    if field.categories:
        return field.categories[0]
    if field.type == "string":
        return "text"
    if field.type == "bool":
        return False
    low, high = field.minimum, field.maximum
    if low is not None and high is not None and math.isfinite(low) and math.isfinite(high):
        value = (low + high) / 2
    elif low is not None and math.isfinite(low):
        value = max(low, 0.0)
    elif high is not None and math.isfinite(high):
        value = min(high, 0.0)
    else:
        value = 0.0
    return round(value) if field.type == "int" else value


def accepts(field: Field, value: Scalar) -> bool:
    """Whether a value keeps the field's rules; the same rules that protocols enforce, without their messages."""
    if value is None:
        return field.nullable is True
    if field.categories is not None and field.unknown == "refuse" and value not in field.categories:
        return False
    if field.type in {"float", "int"} and field.categories is None:
        if isinstance(value, (bool, str)):
            return False
        if field.type == "int" and not float(value).is_integer():
            return False
        low = -math.inf if field.minimum is None else field.minimum
        high = math.inf if field.maximum is None else field.maximum
        return low <= value <= high
    if field.type == "string":
        return isinstance(value, str)
    return True


def typical(value: float) -> float:
    """A number to show: four significant digits."""
    return float(f"{float(value):.4g}") if math.isfinite(value) else 0.0


def rows_of(fields: Sequence[Field], matrix: bool, records: Sequence[dict[str, Any]]) -> Rows:
    """Example records → Rows, without the checks that a caller's data gets."""
    n = len(records)
    if matrix:
        data = [[_number(record.get(field.name)) for field in fields] for record in records]
        return Rows(n, matrix=np.array(data, dtype=np.float64).reshape(n, len(fields)))
    columns: dict[str, Any] = {}
    for field in fields:
        values = [record.get(field.name) for record in records]
        columns[field.name] = _column(field, values)
    return Rows(n, columns=columns)


def _column(field: Field, values: list[Any]) -> Any:
    if field.type == "float" or (field.type == "int" and None in values):
        return np.array([_number(value) for value in values], dtype=np.float64)
    if field.type == "int":
        return np.array(values, dtype=np.int64)
    if field.type == "bool" and None not in values:
        return np.array(values, dtype=np.bool_)
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
