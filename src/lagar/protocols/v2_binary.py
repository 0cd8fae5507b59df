"""The quick way from tensors behind their JSON to rows: it only ever says "certainly good", as `v2_quick` does.

A client writes the same JSON before its tensors again and again. What it says is kept by its bytes, so that mostly
nothing is parsed; where all tensors are one matrix of numbers, or one column per field, they are read as one array.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from lagar.errors import InvalidInput
from lagar.protocols import blobs, json_body
from lagar.protocols.base import Limits
from lagar.protocols.columns import Plan
from lagar.protocols.tensors import DATATYPES, Tensor, TensorPlan
from lagar.protocols.v2_layouts import anonymous
from lagar.protocols.v2_request import MAX_ID, Asked
from lagar.registry.signature import Signature
from lagar.types import Rows

_MAX_HEADS: Final = 64
_MAX_HEAD_BYTES: Final = 8 * 1024
Wanted = tuple[tuple[str, ...], tuple[Asked, ...] | None]
"""The outputs to ask the model for, and how to write them where that is not as plain JSON."""


class _Size(msgspec.Struct, forbid_unknown_fields=True):
    binary_data_size: int


class _Blob(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    shape: list[int]
    datatype: str
    parameters: _Size


class _Binary(msgspec.Struct, forbid_unknown_fields=True):
    binary_data: bool


class _Output(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    parameters: _Binary | None = None


class _BinaryOutput(msgspec.Struct, forbid_unknown_fields=True):
    binary_data_output: bool


class _Request(msgspec.Struct, forbid_unknown_fields=True):
    inputs: list[_Blob]
    id: str | None = None
    outputs: list[_Output] | None = None
    parameters: _BinaryOutput | None = None


_decoder = msgspec.json.Decoder(_Request)


class _Table(msgspec.Struct, frozen=True):
    """All tensors of a request as one array."""

    dtype: np.dtype[Any]
    rows: int
    width: int
    by_column: bool = False
    order: list[int] | None = None
    """By column: the place of each field behind the JSON, where that is not the order of the fields."""


class Head(msgspec.Struct, frozen=True):
    """What the JSON before the tensors says."""

    id: str | None
    wanted: Wanted
    inputs: list[_Blob]
    size: int
    """Bytes behind the JSON."""
    table: _Table | None


class BinaryQuick:
    """The quick way into one model that has no preprocess."""

    __slots__ = ("_heads", "_known", "_limits", "_names", "_plan", "_tensors", "_wanted")

    def __init__(
        self,
        signature: Signature,
        plan: Plan,
        tensors: TensorPlan,
        limits: Limits,
        wanted: Callable[[tuple[Asked, ...], bool], Wanted],
    ) -> None:
        """`wanted` says of the outputs that were asked for, and whether others stand behind the JSON, what to do."""
        self._plan = plan
        self._tensors = tensors
        self._limits = limits
        self._wanted = wanted
        self._names = signature.names
        self._known = frozenset(output.name for output in signature.outputs)
        self._heads: dict[bytes, Head] = {}

    def read(self, text: bytes, blob: memoryview) -> tuple[Rows, str | None, Wanted] | None:
        """The rows of a request whose inputs all stand behind its JSON, its id, and what it wants."""
        text, given_id = anonymous(text)
        head = self._heads.get(text)
        if head is None:
            head = self._read_head(text)
            if head is None:
                return None
        if head.size != len(blob):
            return None
        rows = None if head.table is None else self._from_table(head.table, blob)
        if rows is None:
            tensors = _tensors(head.inputs, blob)
            if tensors is None:
                return None
            _, rows, _ = self._tensors.decode(tensors)
        return None if rows is None else (rows, head.id if given_id is None else given_id, head.wanted)

    def _from_table(self, table: _Table, blob: memoryview) -> Rows | None:
        """The rows in memory of their own: what stands behind a JSON is rarely aligned."""
        if not table.by_column:
            return self._plan.from_matrix(np.ndarray((table.rows, table.width), table.dtype, blob).astype(np.float64))
        matrix = np.ndarray((table.width, table.rows), table.dtype, blob)
        matrix = matrix if table.order is None else matrix[table.order]
        return self._plan.from_matrix(matrix.T.astype(np.float64, order="C"))

    def _read_head(self, text: bytes) -> Head | None:
        """What the JSON says, kept if it is no other for the next request."""
        try:
            request = _decoder.decode(text)
        except json_body.PARSE_ERRORS:
            return None
        binary = request.parameters is not None and request.parameters.binary_data_output
        keys = 1 + 5 * len(request.inputs) + (request.id is not None) + 2 * (request.parameters is not None)
        asked: dict[str, Asked] = {}
        if request.outputs is not None:
            keys += 1
            for output in request.outputs:
                own = output.parameters
                keys += 1 if own is None else 3
                asked.setdefault(output.name, Asked(output.name, binary if own is None else own.binary_data))
        if text.count(b":") != keys or not self._known.issuperset(asked) or len(request.id or "") > MAX_ID:
            return None
        inputs = request.inputs
        if not all(map(self._is_good, inputs)):
            return None
        size = sum(tensor.parameters.binary_data_size for tensor in inputs)
        wanted = self._wanted(tuple(asked.values()), binary)
        head = Head(request.id, wanted, inputs, size, self._table(inputs))
        if not request.id and len(text) <= _MAX_HEAD_BYTES:
            if len(self._heads) >= _MAX_HEADS:
                self._heads.clear()
            self._heads[text] = head
        return head

    def _is_good(self, tensor: _Blob) -> bool:
        shape = tensor.shape
        good = shape and min(shape) >= 0 and shape[0] <= self._limits.max_rows
        return bool(good and tensor.parameters.binary_data_size >= 0 and tensor.datatype in DATATYPES)

    def _table(self, inputs: Sequence[_Blob]) -> _Table | None:
        """How all tensors are read as one array; None where they are not that, or are to be looked at one by one."""
        if self._plan.layout != "matrix" or len({tensor.datatype for tensor in inputs}) != 1:
            return None
        dtype = blobs.NUMBERS.get(inputs[0].datatype)
        n = inputs[0].shape[0]
        if dtype is None or n == 0:
            return None
        if len(inputs) == 1:
            width = self._tensors.table_width(inputs[0].name, inputs[0].shape)
            fits = width is not None and inputs[0].parameters.binary_data_size == n * width * dtype.itemsize
            return _Table(dtype, n, width) if fits and width is not None else None
        places = {tensor.name: place for place, tensor in enumerate(inputs)}
        column = n * dtype.itemsize
        if any(tensor.shape not in ([n], [n, 1]) or tensor.parameters.binary_data_size != column for tensor in inputs):
            return None
        if len(places) != len(inputs) or set(places) != set(self._names):
            return None
        order = [places[name] for name in self._names]
        return _Table(dtype, n, len(inputs), True, None if order == sorted(order) else order)


def _tensors(inputs: Sequence[_Blob], blob: memoryview) -> list[Tensor] | None:
    tensors: list[Tensor] = []
    place = 0
    for tensor in inputs:
        size = tensor.parameters.binary_data_size
        try:
            values = blobs.read(tensor.name, tensor.datatype, tensor.shape, blob[place : place + size])
        except InvalidInput:
            return None  # said again, in its order among the other mistakes
        tensors.append(Tensor(tensor.name, tensor.datatype, tensor.shape, values))
        place += size
    return tensors
