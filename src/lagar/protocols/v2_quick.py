"""The quick ways from a V2 body in JSON to rows: they only ever say "certainly good", every other body is read exactly.

One numeric matrix: typed decoders for small bodies, simdjson's number buffer for large ones. One input per field: the
same decoder for all of them, and for bodies that differ from an earlier one in nothing but their numbers, these alone.
A key that is there twice is found by counting colons, which strings can only add to.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from lagar.protocols import json_body
from lagar.protocols.base import Limits
from lagar.protocols.columns import EXACT, SHORT, Plan
from lagar.protocols.tensors import (
    DATATYPES,
    FLOAT_LIMITS,
    INTEGER_RANGES,
    is_surely_good,
)
from lagar.protocols.v2_layouts import MIN_BODY_BYTES, Layouts
from lagar.protocols.v2_request import MAX_ID
from lagar.registry.signature import Signature
from lagar.types import Rows

_BUFFER_FROM_BYTES: Final = 1536
"""From here on simdjson's number buffer beats a list of Python floats."""
_FLOAT_BYTES: Final = 8
_LOOK_BYTES: Final = 420
"""Two inputs that begin within so much are short: then the typed decoder beats looking each one up in the buffer."""


class _Flat(msgspec.Struct, gc=False):
    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class _Nested(msgspec.Struct, gc=False):
    name: str
    shape: list[int]
    datatype: str
    data: list[list[float]]


class _Mixed(msgspec.Struct, gc=False):
    name: str
    shape: list[int]
    datatype: str
    data: list[Any]


class _FlatRequest(msgspec.Struct, gc=False):
    inputs: list[_Flat]
    id: str | None = None


class _NestedRequest(msgspec.Struct, gc=False):
    inputs: list[_Nested]
    id: str | None = None


class _MixedRequest(msgspec.Struct, gc=False):
    inputs: list[_Mixed]
    id: str | None = None


_flat = msgspec.json.Decoder(_FlatRequest)
_nested = msgspec.json.Decoder(_NestedRequest)
_mixed = msgspec.json.Decoder(_MixedRequest)


class _Numbers(msgspec.Struct, gc=False):
    """What simdjson has found, its keys and brackets to be counted in the text."""

    datatypes: str | list[str]
    values: NDArray[np.float64]
    """By row and field; with several datatypes by field and row."""
    id: str | None
    keys: int
    brackets: int
    order: list[int] | None = None
    """By field and row: the place of each field in the body, where that is not the order of the fields."""


Found = tuple[Rows, str | None]
"""The rows, and the id that the caller gave."""


class Quick:
    """The quick ways into one model that has no preprocess."""

    __slots__ = ("_layouts", "_limits", "_matrix", "_names", "_places", "_plan", "_width")

    def __init__(self, signature: Signature, plan: Plan, limits: Limits) -> None:
        self._plan = plan
        self._limits = limits
        self._width = signature.width
        self._names = signature.names
        self._places = {name: place for place, name in enumerate(self._names)}
        self._matrix = signature.layout == "matrix"
        self._layouts = Layouts()

    def read(self, body: bytes) -> Found | None:
        """The rows of a JSON body."""
        try:
            if not self._matrix:
                return self._mixed_columns(body)
            if len(body) >= MIN_BODY_BYTES and (known := self._layouts.read(body)) is not None:
                layout, values, given_id = known
                return self._placed(values, layout.datatypes, given_id)
            if len(body) < _BUFFER_FROM_BYTES:
                return self._small(body)
            if body.count(b'"datatype"', 0, _LOOK_BYTES) > 1:
                request = _flat.decode(body)
                return self._columns(request.inputs, request.id, body)
            return self._large(body)
        except json_body.PARSE_ERRORS:
            return None

    # One matrix.

    def _small(self, body: bytes) -> Found | None:
        tensors: Sequence[_Flat | _Nested]
        if b"[[" in body:
            nested = _nested.decode(body)
            tensors, given_id = nested.inputs, nested.id
        else:
            flat = _flat.decode(body)
            tensors, given_id = flat.inputs, flat.id
        if len(tensors) > 1:
            return None if b"[[" in body else self._columns(flat.inputs, given_id, body)
        if not tensors or body.count(b":") != (5 if given_id is None else 6):
            return None
        tensor = tensors[0]
        shape = tensor.shape
        if len(shape) != 2:
            return None
        n, width = shape
        data: Any = tensor.data
        exact = False
        if isinstance(tensor, _Nested):
            if len(data) != n or n == 0 or set(map(len, data)) != {width}:
                return None
            matrix = np.array(data)
        else:
            if len(data) != n * width or n <= 0:
                return None
            matrix = np.array(data).reshape(n, width)
            exact = len(data) <= SHORT and sum(map(abs, data)) < EXACT
        return self._found(matrix, tensor.datatype, given_id, exact=exact)

    def _large(self, body: bytes) -> Found | None:
        found = json_body.read_numbers(body, self._read_document)
        if found is None or body.count(b":") != found.keys or body.count(b"[") != found.brackets:
            return None
        if isinstance(found.datatypes, str):
            return self._found(found.values, found.datatypes, found.id)
        rows = self._placed(found.values, found.datatypes, found.id)
        if rows is not None:
            self._layouts.learn(body, found.id, found.datatypes, found.values.shape[1], found.order)
        return rows

    def _read_document(self, document: Any) -> _Numbers | None:
        return _read_tensor(document) if len(document["inputs"]) == 1 else self._read_columns(document)

    def _found(
        self, matrix: NDArray[np.float64], datatype: str, given_id: str | None, *, exact: bool = False
    ) -> Found | None:
        n, width = matrix.shape
        if n > self._limits.max_rows or width == 0 or (self._width is not None and width != self._width):
            return None
        if not _holds(datatype, matrix) or (given_id is not None and len(given_id) > MAX_ID):
            return None
        rows = self._plan.from_matrix(matrix, exact=exact)
        return None if rows is None else (rows, given_id)

    # One input per field.

    def _columns(self, tensors: Sequence[_Flat], given_id: str | None, body: bytes) -> Found | None:
        width = len(tensors)
        if width != self._width or body.count(b":") != 4 * width + (1 if given_id is None else 2):
            return None
        # One pass for all inputs: 39 of them must not cost much more than one.
        names, shapes, datatypes, data = zip(*map(msgspec.structs.astuple, tensors), strict=True)
        order = None
        if names != self._names:
            placed = {name: place for place, name in enumerate(names)}
            if placed.keys() != self._places.keys():
                return None
            order = [placed[name] for name in self._names]
            datatypes = tuple(datatypes[place] for place in order)
            data = tuple(data[place] for place in order)
        n = len(data[0])
        if n == 0 or set(map(len, data)) != {n} or shapes.count([n]) + shapes.count([n, 1]) != width:
            return None
        flat = list(chain.from_iterable(data))
        exact = len(flat) <= SHORT and sum(map(abs, flat)) < EXACT
        rows = self._placed(np.array(flat).reshape(width, n), datatypes, given_id, exact=exact)
        if rows is not None:
            self._layouts.learn(body, given_id, datatypes, n, order)
        return rows

    def _read_columns(self, document: Any) -> _Numbers | None:
        """The numbers of one input per field; the brackets show that no data was nested."""
        keys = len(document)
        given_id = document["id"] if keys == 2 else None
        inputs = document["inputs"]
        width = len(inputs)
        if keys > 2 or width != self._width or not (given_id is None or isinstance(given_id, str)):
            return None
        data = [memoryview(b"")] * width
        datatypes = [""] * width
        order = [0] * width
        n = 0
        for position, tensor in enumerate(inputs):
            place = self._places[tensor["name"]]
            buffer = memoryview(tensor["data"].as_buffer(of_type="d"))
            shape, datatype = tensor["shape"].as_list(), tensor["datatype"]
            n = n or buffer.nbytes // _FLOAT_BYTES
            if not n or buffer.nbytes != n * _FLOAT_BYTES or len(tensor) != 4 or shape not in ([n], [n, 1]):
                return None
            if datatypes[place] or not isinstance(datatype, str) or any(type(size) is not int for size in shape):
                return None
            data[place], datatypes[place], order[place] = buffer, datatype, position
        matrix = np.frombuffer(bytearray().join(data)).reshape(width, n)
        sorted_so = order if order != list(range(width)) else None
        return _Numbers(datatypes, matrix, given_id, keys + 4 * width, 2 * width + 1, sorted_so)

    def _placed(
        self, matrix: NDArray[np.float64], datatypes: str | Sequence[str], given_id: str | None, *, exact: bool = False
    ) -> Found | None:
        """Rows of values by field and row; one datatype is that of all fields."""
        if matrix.shape[1] > self._limits.max_rows or (given_id is not None and len(given_id) > MAX_ID):
            return None
        kinds = {datatypes} if isinstance(datatypes, str) else set(datatypes)
        if len(kinds) == 1:
            if not _holds(kinds.pop(), matrix):
                return None
        elif not all(map(_holds, datatypes, matrix)):
            return None
        rows = self._plan.from_matrix(np.ascontiguousarray(matrix.T), exact=exact)
        return None if rows is None else (rows, given_id)

    def _mixed_columns(self, body: bytes) -> Found | None:
        request = _mixed.decode(body)
        tensors, given_id = request.inputs, request.id
        width = len(tensors)
        if not width or width != self._width or body.count(b":") != 4 * width + (1 if given_id is None else 2):
            return None
        n = len(tensors[0].data)
        shapes = ([n], [n, 1])
        if n == 0 or n > self._limits.max_rows or (given_id is not None and len(given_id) > MAX_ID):
            return None
        columns: dict[str, list[Any]] = {}
        for tensor in tensors:
            data = tensor.data
            if len(data) != n or tensor.shape not in shapes or tensor.datatype not in DATATYPES:
                return None
            if not is_surely_good(tensor.datatype, data):
                return None
            columns[self._names[0] if width == 1 else tensor.name] = data
        if columns.keys() != self._places.keys():
            return None
        return self._plan.from_columns(columns, n), given_id


def _holds(datatype: str, values: NDArray[np.float64]) -> bool:
    """Whether a datatype certainly holds numbers; those of 2^53 and more are looked at elsewhere."""
    if datatype in INTEGER_RANGES:
        low, high = INTEGER_RANGES[datatype]
        return bool(values.min() >= low and values.max() <= high and (values == np.trunc(values)).all())
    if datatype == "FP16":
        return bool(values.max() <= FLOAT_LIMITS["FP16"] and values.min() >= -FLOAT_LIMITS["FP16"])
    return datatype in FLOAT_LIMITS


def _read_tensor(document: Any) -> _Numbers | None:
    """The numbers of a body with one [n,width] tensor.

    as_buffer flattens whatever it is given: the caller compares `brackets` with the body, which leaves no room for
    deeper lists, and the rows are measured here.
    """
    keys = len(document)
    given_id = document["id"] if keys == 2 else None
    inputs = document["inputs"]
    if keys > 2 or len(inputs) != 1 or not (given_id is None or isinstance(given_id, str)):
        return None
    tensor = inputs[0]
    shape = tensor["shape"].as_list()
    datatype, data = tensor["datatype"], tensor["data"]
    if len(tensor) != 4 or len(shape) != 2 or not isinstance(tensor["name"], str) or not isinstance(datatype, str):
        return None
    n, width = shape
    if type(n) is not int or type(width) is not int or n <= 0 or width <= 0:
        return None
    flat = np.frombuffer(data.as_buffer(of_type="d"))
    if flat.size != n * width:
        return None
    brackets = 3
    if not (len(data) == n * width and not hasattr(data[0], "as_list")):
        if len(data) != n or set(map(len, data)) != {width}:
            return None
        brackets += n
    return _Numbers(datatype, flat.reshape(n, width), given_id, keys + 4, brackets)
