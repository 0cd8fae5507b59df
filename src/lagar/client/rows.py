"""Rows as people hold them (pandas, numpy, records, columns) as a body of the native protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from lagar.errors import InvalidInput

_OPTIONS: Final = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


def write_body(data: Any, ids: Sequence[str | int] | None = None) -> bytes:
    """The JSON body for data: a DataFrame, an array, one record, columns by name, a list of records or rows.

    A dict whose values are all lists or arrays is columns by name, any other dict one record. Missing values (NaN,
    NA, NaT, None) are null. `ids` are one per row. Raises InvalidInput for what cannot be written.
    """
    value = _value(data)
    if ids is not None:
        value = _with_ids(value, [str(row_id) for row_id in ids])
    try:
        return orjson.dumps(value, _plain, _OPTIONS)
    except (orjson.JSONEncodeError, RecursionError) as error:
        raise InvalidInput(f"the rows cannot be written as JSON: {error}") from None


def _value(data: Any) -> Any:
    if hasattr(data, "columns") and hasattr(data, "iloc"):
        return _from_frame(data)
    if hasattr(data, "to_dict") and hasattr(data, "iloc"):  # a Series: one row of a frame
        return {str(name): value for name, value in data.to_dict().items()}
    if hasattr(data, "__array__") and hasattr(data, "ndim"):
        return data.tolist()
    if isinstance(data, Mapping):
        if data and all(_is_column(column) for column in data.values()):
            return {"inputs": {str(name): _column(column) for name, column in data.items()}}
        return data
    if isinstance(data, (list, tuple)):
        return [_value(row) if hasattr(row, "iloc") else row for row in data]
    raise InvalidInput(
        f"the rows must be a DataFrame, an array, a dict or a list, got {type(data).__name__}; for example "
        '[{"age": 40, "plan": "gold"}]'
    )


def _column(values: Any) -> Any:
    return _cells(values) if hasattr(values, "iloc") else _value(values)


def _is_column(value: Any) -> bool:
    return isinstance(value, (list, tuple)) or getattr(value, "ndim", 0) == 1


def _from_frame(frame: Any) -> dict[str, Any]:
    names = [str(name) for name in frame.columns]
    columns = [_cells(frame.iloc[:, place]) for place in range(len(names))]
    return {"columns": names, "data": list(zip(*columns, strict=True))}


def _cells(column: Any) -> list[Any]:
    """A column's values as Python has them; all kinds of missing ones are None."""
    missing = column.isna()
    if missing.any():
        column = column.astype(object).where(~missing, None)
    return list(column.tolist())


def _with_ids(value: Any, ids: list[str]) -> dict[str, Any]:
    if isinstance(value, dict) and value.keys() == {"columns", "data"}:
        rows = value["data"]
        body = {**value, "index": ids}
    elif isinstance(value, dict) and value.keys() == {"inputs"} and isinstance(value["inputs"], dict):
        rows = next(iter(value["inputs"].values()))
        body = {**value, "ids": ids}
    else:
        rows = [value] if isinstance(value, Mapping) else value
        body = {"instances": rows, "ids": ids}
    if len(rows) != len(ids):
        raise InvalidInput(f"ids must be one per row: there are {len(rows)} rows and {len(ids)} ids")
    return body


def _plain(value: Any) -> Any:
    """What JSON has no word for: missing values, timestamps, decimals."""
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if hasattr(value, "__float__"):
        return float(value)
    raise TypeError(f"{type(value).__name__} is neither a number, a text, a truth value nor a time")
