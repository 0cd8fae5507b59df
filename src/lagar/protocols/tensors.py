"""V2 tensors → rows, and outputs → tensors: the steps that do not care how the tensors are written down.

JSON, binary bodies and gRPC end in `Tensor` objects whose data is a flat list of Python values or a numpy array;
`TensorPlan` turns them into rows or records of one signature.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, Literal

import numpy as np
import orjson

from lagar.errors import InvalidInput, PayloadTooLarge
from lagar.protocols.base import Limits, shown
from lagar.protocols.columns import Column, Plan
from lagar.types import Array, Record, Rows

INTEGER_RANGES: Final[dict[str, tuple[int, int]]] = {
    **{f"INT{bits}": (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": (0, (1 << bits) - 1) for bits in (8, 16, 32, 64)},
}
FLOAT_LIMITS: Final[dict[str, float]] = {
    "FP16": 65504.0,
    "BF16": 3.3895313892515355e38,
    "FP32": 3.4028234663852886e38,
    "FP64": math.inf,
}
DATATYPES: Final = frozenset({"BOOL", "BYTES", *INTEGER_RANGES, *FLOAT_LIMITS})
Form = Literal["any", "matrix", "columns"]
"""How inputs are read together: "any": as their number, shapes and names suggest."""


class Tensor:
    """One named input; `data` is flat and in row-major order."""

    __slots__ = ("data", "datatype", "name", "shape")

    def __init__(self, name: str, datatype: str, shape: list[int], data: list[Any] | Array) -> None:
        self.name = name
        self.datatype = datatype
        self.shape = shape
        self.data = data


def check_values(tensor: Tensor) -> None:
    """Refuse values that are none of the tensor's datatype; null passes, the field's own rule decides on it.

    FP16, BF16 and FP32 numbers are kept as the text gives them and are not rounded: the same rows are the same rows
    in every protocol. Only a number that the datatype cannot hold at all is refused.
    """
    datatype = tensor.datatype
    values: Sequence[Any] = tensor.data  # type: ignore[assignment]
    if is_surely_good(datatype, values):
        return
    if datatype == "BYTES":
        _refuse_unless(tensor, values, lambda value: isinstance(value, str), "strings")
    elif datatype == "BOOL":
        _refuse_unless(tensor, values, lambda value: isinstance(value, bool), "true and false")
    elif datatype in INTEGER_RANGES:
        low, high = INTEGER_RANGES[datatype]

        def whole(value: Any) -> bool:
            if isinstance(value, float):
                return value.is_integer() and low <= value <= high
            return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high

        _refuse_unless(tensor, values, whole, f"whole numbers from {low} to {high}")
    else:
        limit = FLOAT_LIMITS[datatype]

        def number(value: Any) -> bool:
            return isinstance(value, (int, float)) and not isinstance(value, bool) and -limit <= value <= limit

        wanted = "numbers" if limit == math.inf else f"numbers up to {limit:g}"
        _refuse_unless(tensor, values, number, wanted)


def is_surely_good(datatype: str, values: Sequence[Any]) -> bool:
    types = set(map(type, values))
    if not values or datatype == "BYTES":
        return types <= {str}
    if datatype == "BOOL":
        return types == {bool}
    if datatype in INTEGER_RANGES:
        low, high = INTEGER_RANGES[datatype]
        return types == {int} and low <= min(values) and max(values) <= high
    limit = FLOAT_LIMITS[datatype]
    return types <= {float, int} and (limit == math.inf or (-limit <= min(values) and max(values) <= limit))


def _refuse_unless(tensor: Tensor, values: Sequence[Any], good: Any, wanted: str) -> None:
    for position, value in enumerate(values):
        if value is not None and not good(value):
            row = position // max(1, math.prod(tensor.shape[1:]))
            raise InvalidInput(
                f"input '{tensor.name}' has datatype {tensor.datatype}, which holds {wanted}, got {shown(value)}"
                f" in row {row}",
                field=tensor.name,
                row=row,
            )


class TensorPlan:
    """How the tensors of a request become the rows of one signature."""

    __slots__ = ("_flags_count", "_limits", "_plan", "_single", "_wants_records")

    def __init__(self, plan: Plan, limits: Limits, *, wants_records: bool) -> None:
        self._plan = plan
        self._limits = limits
        self._wants_records = wants_records
        self._single = plan.names[0] if plan.width == 1 else None
        """The only field of the model: its input may have any name."""
        self._flags_count = plan.numbers.issuperset(plan.names)
        """A matrix of BOOL is one of numbers: no field is a flag."""

    def decode(self, tensors: Sequence[Tensor], form: Form = "any") -> tuple[int, Rows | None, list[Record] | None]:
        """(rows in the request, rows, None), or (…, None, records) for a model with a preprocess."""
        n = self._count(tensors)
        first = tensors[0]
        if len(tensors) == 1 and form != "columns" and (form == "matrix" or not self._is_column(first)):
            return self._from_table(first, n)
        columns = self._columns(tensors, n)
        if self._wants_records:
            names = list(columns)
            lists = [_listed(column) for column in columns.values()]
            return n, None, [dict(zip(names, values, strict=True)) for values in zip(*lists, strict=True)]
        if any(isinstance(column, np.ndarray) for column in columns.values()):
            rows = self._plan.from_arrays(columns, n)
            if rows is not None:
                return n, rows, None
        return n, self._plan.from_columns({name: _listed(column) for name, column in columns.items()}, n), None

    def _from_table(self, tensor: Tensor, n: int) -> tuple[int, Rows | None, list[Record] | None]:
        width = self._width_of(tensor)
        data = _counted(tensor.data) if tensor.datatype == "BOOL" and self._flags_count else tensor.data
        if isinstance(data, np.ndarray) and data.dtype != np.bool_ and not self._wants_records:
            rows = self._plan.from_matrix(np.ascontiguousarray(data.reshape(n, width), np.float64))
            if rows is not None:
                return n, rows, None
        values: Any = _listed(data)
        table = [values[start : start + width] for start in range(0, n * width, width)]
        return (n, None, self._named(table)) if self._wants_records else (n, self._plan.from_rows(table), None)

    def _count(self, tensors: Sequence[Tensor]) -> int:
        if not tensors:
            raise InvalidInput("'inputs' is empty: at least one input tensor is needed", field="inputs")
        for tensor in tensors:
            if not tensor.shape or tensor.shape[0] == 0:
                raise InvalidInput(
                    f"input '{tensor.name}' has shape {tensor.shape}: there are no rows in it", field=tensor.name
                )
        n = tensors[0].shape[0]
        for tensor in tensors:
            if tensor.shape[0] != n:
                raise InvalidInput(
                    f"input '{tensor.name}' has {tensor.shape[0]} rows where input '{tensors[0].name}' has {n}",
                    field=tensor.name,
                )
        if n > self._limits.max_rows:
            raise PayloadTooLarge(f"the request has {n} rows, at most {self._limits.max_rows} are taken at once")
        return n

    def table_width(self, name: str, shape: list[int]) -> int | None:
        """The values per row of a lone tensor that is a whole matrix of this signature; None for any other."""
        tensor = Tensor(name, "", shape, [])
        if self._is_column(tensor):
            return None
        try:
            return self._width_of(tensor)
        except InvalidInput:
            return None

    def _is_column(self, tensor: Tensor) -> bool:
        """Whether a lone tensor is one column by name, not a whole matrix."""
        if len(tensor.shape) > 1 and tensor.shape[1:] != [1]:
            return False
        if self._single is not None:
            return True
        return self._plan.width is not None and (len(tensor.shape) == 1 or tensor.name in self._plan.names)

    def _width_of(self, tensor: Tensor) -> int:
        """The values per row of a matrix; raises InvalidInput."""
        plan = self._plan
        if len(tensor.shape) > 2:
            raise InvalidInput(
                f"input '{tensor.name}' has shape {tensor.shape}: [rows, values] was expected", field=tensor.name
            )
        width = tensor.shape[1] if len(tensor.shape) == 2 else 1
        if width == 0 or (plan.width is not None and width != plan.width):
            wanted = "at least one value" if plan.width is None else f"[n,{plan.width}]: {plan.described_names()}"
            raise InvalidInput(
                f"input '{tensor.name}' has shape {tensor.shape}, this model takes {wanted}", field=tensor.name
            )
        return width

    def _named(self, table: list[list[Any]]) -> list[Record]:
        names = self._plan.names or tuple(f"x{index}" for index in range(len(table[0])))
        return [dict(zip(names, values, strict=True)) for values in table]

    def _columns(self, tensors: Sequence[Tensor], n: int) -> dict[str, Column]:
        columns: dict[str, Column] = {}
        for tensor in tensors:
            if math.prod(tensor.shape[1:]) != 1:
                raise InvalidInput(
                    f"input '{tensor.name}' has shape {tensor.shape}: one of several inputs is a column,"
                    f" [{n}] or [{n},1]",
                    field=tensor.name,
                )
            name = self._single if self._single is not None and len(tensors) == 1 else tensor.name
            if name in columns:
                raise InvalidInput(f"input '{tensor.name}' is there twice", field=tensor.name)
            counts = tensor.datatype == "BOOL" and name in self._plan.numbers
            columns[name] = _counted(tensor.data) if counts else tensor.data
        return columns


def _counted(flags: list[Any] | Array) -> list[Any] | Array:
    """True and false of a BOOL tensor as the 1 and 0 that a model of numbers was fitted on; null stays null."""
    if isinstance(flags, np.ndarray):
        return flags.astype(np.int64)
    return [None if flag is None else int(flag) for flag in flags]


def _listed(column: Column) -> Sequence[Any]:
    """The values as Python has them; those of a float16 or float32 are the very numbers that it holds."""
    return column.tolist() if isinstance(column, np.ndarray) else column


_WIRE: Final[dict[np.dtype[Any], str]] = {
    np.dtype(kind): name
    for kind, name in (
        ("bool", "BOOL"),
        *((f"int{bits}", f"INT{bits}") for bits in (8, 16, 32, 64)),
        *((f"uint{bits}", f"UINT{bits}") for bits in (8, 16, 32, 64)),
        ("float16", "FP16"),
        ("float32", "FP32"),
        ("float64", "FP64"),
    )
}


def typed(array: Array) -> tuple[str, Array | list[Any]]:
    """The datatype and the flat values of one output: an array, or a list where the model answers with objects.

    Values that are neither text nor numbers become their JSON, inside BYTES; a missing one stays None.
    """
    datatype = _WIRE.get(array.dtype)
    if datatype is not None:
        if array.ndim != 1 or not array.flags.c_contiguous:
            array = np.ascontiguousarray(array).reshape(-1)
        return datatype, array
    values = array.reshape(-1).tolist()
    types = set(map(type, values))
    if types == {bool}:
        return "BOOL", values
    if types == {int} and all(-(1 << 63) <= value < 1 << 63 for value in values):
        return "INT64", values
    if types and types <= {float, int}:
        return "FP64", [float(value) for value in values]
    if types != {str}:
        values = [None if value is None else value if type(value) is str else _text(value) for value in values]
    return "BYTES", values


def _text(value: Any) -> str:
    """A value that is no string, inside a BYTES tensor: its JSON."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return orjson.dumps(value, default=str, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS).decode()
