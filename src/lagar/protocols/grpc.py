"""The Open Inference Protocol V2 over gRPC: ModelInfer, and which status each error has.

A message becomes what a V2 JSON body becomes, and goes on from there: the same rows, the same words for what is wrong.
Only the plain case, one tensor of numbers for a model over a matrix, has a shorter way; like that of JSON it only ever
says "certainly good".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from lagar.errors import InvalidInput, RequestError
from lagar.protocols import blobs, contents, tensors, v2
from lagar.protocols.base import (
    NOT_SHAPED,
    PLAIN,
    DeploymentView,
    Encoded,
    Envelope,
    ErrorAnswer,
    InferRequest,
    Limits,
)
from lagar.protocols.columns import EXACT, SHORT, Plan
from lagar.protocols.protobuf import (
    FIXED32,
    FIXED64,
    LENGTH,
    MAX_FIELDS,
    VARINT,
    dimensions,
    fields,
    malformed,
    of_double,
    of_length,
    of_number,
    packed_varints,
    signed,
    text_at,
    varints,
    walk,
)
from lagar.protocols.tensors import DATATYPES, INTEGER_RANGES
from lagar.protocols.v2_request import MAX_ID
from lagar.types import Array, Outputs

INFER: Final = "/inference.GRPCInferenceService/ModelInfer"

STATUS: Final[dict[str, int]] = {
    "bad_request": 3,
    "invalid_input": 3,
    "invalid_json": 3,
    "unauthorized": 16,
    "forbidden": 7,
    "not_found": 5,
    "method_not_allowed": 12,
    "not_acceptable": 3,
    "request_timeout": 4,
    "payload_too_large": 8,
    "unsupported_media_type": 12,
    "overloaded": 8,
    "headers_too_large": 8,
    "model_failed": 13,
    "internal": 13,
    "not_ready": 14,
    "deadline_exceeded": 4,
}
"""Error code → gRPC status: 3 INVALID_ARGUMENT, 4 DEADLINE_EXCEEDED, 5 NOT_FOUND, 7 PERMISSION_DENIED,
8 RESOURCE_EXHAUSTED, 12 UNIMPLEMENTED, 13 INTERNAL, 14 UNAVAILABLE, 16 UNAUTHENTICATED."""


def status_of(error: BaseException) -> int:
    """The gRPC status of an error; INTERNAL for everything that is not meant for a caller."""
    return STATUS[error.code] if isinstance(error, RequestError) else STATUS["internal"]


# What stands in a ModelInferRequest: field numbers as tags.

_MODEL, _VERSION, _ID, _PARAMETERS, _INPUTS, _OUTPUTS, _RAW = (number << 3 | LENGTH for number in range(1, 8))
_NAME, _DATATYPE, _SHAPE, _TENSOR_PARAMETERS, _CONTENTS = (number << 3 | LENGTH for number in range(1, 6))
_SHAPE_ONE: Final = 3 << 3 | VARINT
_OUTPUT_PARAMETERS: Final = 2 << 3 | LENGTH

_LISTS: Final = (
    "", "bool_contents", "int_contents", "int64_contents", "uint_contents", "uint64_contents", "fp32_contents",
    "fp64_contents", "bytes_contents",
)  # fmt: skip
_LIST_OF: Final = {
    "BOOL": 1, "INT8": 2, "INT16": 2, "INT32": 2, "INT64": 3, "UINT8": 4, "UINT16": 4, "UINT32": 4, "UINT64": 5,
    "FP32": 6, "FP64": 7, "BYTES": 8,
}  # fmt: skip
"""Datatype → the field of InferTensorContents that holds its values; FP16 and BF16 have none."""
_TEXT: Final = 8 << 3 | LENGTH
_FLOATS: Final[dict[int, tuple[int, np.dtype[Any]]]] = {6: (FIXED32, np.dtype("<f4")), 7: (FIXED64, np.dtype("<f8"))}
_OF_BODIES: Final = frozenset({"binary_data_size", "binary_data", "binary_data_output"})
"""Parameters that say where tensors stand in a body over HTTP; KServe's client sends them here too, to no effect."""

_REMEMBERED = 1024
_REMEMBERED_BYTES = 128
_PLAIN_INPUT: Final = {"name", "datatype", "shape"}
Known = dict[bytes, tuple[str, str, tuple[int, ...]]]
"""Names, datatypes and shapes of inputs by the bytes that describe them."""


def address(data: bytes) -> tuple[str, str]:
    """Name and version that a ModelInferRequest asks for, "" where there is none; raises InvalidInput."""
    name = version = ""
    for tag, at, stop in fields(data):
        if tag == _MODEL:
            name = text_at(data, at, stop)
        elif tag == _VERSION:
            version = text_at(data, at, stop)
    if not name:
        raise InvalidInput("'model_name' is missing: the name of the model", field="model_name")
    return name, version


def read(data: bytes, known: Known | None = None, *, plain: bool = False) -> dict[str, Any]:
    """A ModelInferRequest in the members of a V2 JSON body; the data of numbers are arrays; raises InvalidInput.

    `raw` says whether it had raw contents; `known` remembers descriptions from one message to the next; with `plain`
    the elements of BYTES are bytes, text or not.
    """
    asked: dict[str, Any] = {}
    inputs: list[dict[str, Any]] = []
    outputs: list[dict[str, Any]] = []
    parameters: dict[str, Any] = {}
    raw: list[memoryview] = []
    view = memoryview(data)
    for tag, at, stop in fields(data):
        if tag == _INPUTS:
            inputs.append(_read_input(data, at, stop) if known is None else _input(data, at, stop, known))
        elif tag == _RAW:
            raw.append(view[at:stop])
        elif tag == _OUTPUTS:
            outputs.append(_output(data, at, stop))
        elif tag == _PARAMETERS:
            _take_parameter(parameters, data, at, stop)
        elif tag == _ID:
            asked["id"] = text_at(data, at, stop)
    if not asked.get("id"):
        asked.pop("id", None)
    if parameters:
        asked["parameters"] = parameters
    if outputs:
        asked["outputs"] = outputs
    _fill(inputs, raw, data, plain=plain)
    asked["inputs"] = inputs
    asked["raw"] = bool(raw)
    return asked


def _input(data: bytes, at: int, stop: int, known: Known) -> dict[str, Any]:
    """One input; without contents of its own, who asks again and again describes it with the same bytes."""
    described = data[at:stop] if stop - at <= _REMEMBERED_BYTES else b""
    found = known.get(described)
    if found is not None:
        name, datatype, shape = found
        return {"name": name, "datatype": datatype, "shape": [*shape]}
    tensor = _read_input(data, at, stop)
    if described and tensor.keys() == _PLAIN_INPUT:
        if len(known) >= _REMEMBERED:
            known.clear()
        known[described] = tensor["name"], tensor["datatype"], tuple(tensor["shape"])
    return tensor


def _read_input(data: bytes, at: int, stop: int) -> dict[str, Any]:
    """One input without its data; `contents` is where they stand."""
    tensor: dict[str, Any] = {"name": "", "datatype": "", "shape": []}
    for tag, start, end in fields(data, at, stop):
        if tag == _NAME:
            tensor["name"] = text_at(data, start, end)
        elif tag == _DATATYPE:
            tensor["datatype"] = text_at(data, start, end)
        elif tag == _SHAPE:
            sizes = data[start:end]
            if max(sizes, default=0) < 128:
                tensor["shape"] += sizes
            else:
                tensor["shape"] += packed_varints(data, start, end).astype(np.int64).tolist()
        elif tag == _SHAPE_ONE:
            tensor["shape"].append(signed(start))
        elif tag == _TENSOR_PARAMETERS:
            _take_parameter(tensor.setdefault("parameters", {}), data, start, end)
        elif tag == _CONTENTS:
            tensor["contents"] = start, end
    return tensor


def _output(data: bytes, at: int, stop: int) -> dict[str, Any]:
    output: dict[str, Any] = {"name": ""}
    for tag, start, end in fields(data, at, stop):
        if tag == _NAME:
            output["name"] = text_at(data, start, end)
        elif tag == _OUTPUT_PARAMETERS:
            _take_parameter(output.setdefault("parameters", {}), data, start, end)
    return output


def _take_parameter(parameters: dict[str, Any], data: bytes, at: int, stop: int) -> None:
    """One entry of a map from names to InferParameter."""
    key, value = "", None
    for tag, start, end in fields(data, at, stop):
        if tag == 1 << 3 | LENGTH:
            key = text_at(data, start, end)
        elif tag == 2 << 3 | LENGTH:
            value = _choice(data, start, end)
    if value is not None and key not in _OF_BODIES:
        parameters[key] = value


def _choice(data: bytes, at: int, stop: int) -> Any:
    value: Any = None
    for tag, start, end in fields(data, at, stop):
        if tag == 1 << 3 | VARINT:
            value = start != 0
        elif tag == 2 << 3 | VARINT:
            value = signed(start)
        elif tag == 3 << 3 | LENGTH:
            value = text_at(data, start, end)
        elif tag == 4 << 3 | FIXED64:
            value = float(np.frombuffer(data, "<f8", 1, start)[0])
        elif tag == 5 << 3 | VARINT:
            value = start
    return value


def _fill(inputs: list[dict[str, Any]], raw: list[memoryview], data: bytes, *, plain: bool) -> None:
    """Give every input its data, from the raw contents if there are any, else from its own."""
    if raw and len(raw) != len(inputs):
        raise InvalidInput(
            f"raw_input_contents has {len(raw)} entries for {len(inputs)} inputs: one for each, or none",
            field="raw_input_contents",
        )
    for position, tensor in enumerate(inputs):
        name, datatype, shape = tensor["name"], tensor["datatype"], tensor["shape"]
        own = tensor.pop("contents", None)
        if datatype not in DATATYPES or min(shape, default=0) < 0:
            tensor["data"] = []  # refused in the words of V2
            continue
        if raw:
            if own is not None and own[0] < own[1]:
                raise InvalidInput(
                    f"input '{name}' has contents beside raw_input_contents: send the values in one of them", field=name
                )
            blob = raw[position]
            texts = datatype == "BYTES"  # whose number is looked at where a JSON list is
            tensor["data"] = (
                blobs.texts(name, blob, None, plain=plain) if texts else blobs.read(name, datatype, shape, blob)
            )
        elif plain and datatype == "BYTES":
            tensor["data"] = _elements(data, *(own or (0, 0)))
        else:
            tensor["data"] = _contents(name, datatype, shape, data, *(own or (0, 0)))


def _elements(data: bytes, at: int, stop: int) -> list[bytes]:
    """The bytes_contents of an InferTensorContents as they are; raises InvalidInput."""
    return [data[start:end] for tag, start, end in walk(data, at, stop) if tag == _TEXT]


def _contents(name: str, datatype: str, shape: list[int], data: bytes, at: int, stop: int) -> Array | list[str]:
    """The values of an InferTensorContents; raises InvalidInput."""
    number = _LIST_OF.get(datatype)
    if number is None:
        raise InvalidInput(
            f"input '{name}' has datatype {datatype}, which only raw_input_contents can hold", field=name
        )
    chunks: list[tuple[int, int, int]] = []
    texts: list[str] = []
    for tag, start, end in walk(data, at, stop):
        if number == 8 and tag == _TEXT:
            texts.append(_text(name, shape, data[start:end], len(texts)))
        elif tag >> 3 == number:
            if number == 8:
                raise malformed("a list of texts has another wire type")
            chunks.append((tag & 7, start, end))
            if len(chunks) > MAX_FIELDS:
                raise InvalidInput(f"input '{name}' has its numbers one by one: send them packed, or raw", field=name)
        elif tag >> 3 < len(_LISTS):
            raise InvalidInput(
                f"input '{name}' has datatype {datatype}, whose values belong into {_LISTS[number]}, got"
                f" {_LISTS[tag >> 3]}",
                field=name,
            )
    if number == 8:
        values: Array | list[str] = texts
    elif number in _FLOATS:
        values = _floats(data, chunks, *_FLOATS[number])
    else:
        values = _whole(name, datatype, shape, data, chunks)
    return values


def _text(name: str, shape: list[int], value: bytes, position: int) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        row = position // max(1, math.prod(shape[1:]))
        raise InvalidInput(
            f"input '{name}' must be UTF-8 text, its byte {error.start} in row {row} is none", field=name, row=row
        ) from None


def _floats(data: bytes, chunks: list[tuple[int, int, int]], one: int, dtype: np.dtype[Any]) -> Array:
    for kind, start, end in chunks:
        if kind not in (LENGTH, one) or (end - start) % dtype.itemsize:
            raise malformed("a list of floats has another wire type, or ends within one")
    if len(chunks) == 1:
        _, start, end = chunks[0]
        return np.frombuffer(data, dtype, (end - start) // dtype.itemsize, start)
    return np.frombuffer(b"".join([data[start:end] for _, start, end in chunks]), dtype)


def _whole(name: str, datatype: str, shape: list[int], data: bytes, chunks: list[tuple[int, int, int]]) -> Array:
    """Whole numbers, or true and false, that stand as varints."""
    parts = []
    for kind, start, end in chunks:
        if kind == VARINT:
            parts.append(np.array([start], np.uint64))
        elif kind == LENGTH:
            parts.append(packed_varints(data, start, end))
        else:
            raise malformed("a list of whole numbers has another wire type")
    values: Array = parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, np.uint64), *parts])
    if datatype == "BOOL":
        return np.not_equal(values, 0)
    if not datatype.startswith("U"):
        values = values.view(np.int64)
    low, high = INTEGER_RANGES[datatype]
    if values.size and not (low <= int(values.min()) and int(values.max()) <= high):
        row = int(np.argmax((values < low) | (values > high)))
        got = int(values[row])
        row //= max(1, math.prod(shape[1:]))
        raise InvalidInput(
            f"input '{name}' has datatype {datatype}, which holds whole numbers from {low} to {high}, got {got}"
            f" in row {row}",
            field=name,
            row=row,
        )
    return values


class GrpcAdapter:
    """ModelInfer in front of one deployment."""

    __slots__ = ("_default", "_head", "_known", "_limits", "_plan", "_quick", "_single", "_v2", "_width")

    def __init__(self, deployment: DeploymentView, limits: Limits | None = None) -> None:
        signature = deployment.signature
        handlers = deployment.handlers
        self._v2 = v2.V2Adapter(deployment, limits)
        self._plan = Plan(signature, deployment.name)
        self._limits = limits or Limits()
        self._width = signature.width
        self._known: Known = {}
        plain = contents.ContentTypes(signature).plain and not (handlers is not None and handlers.has_preprocess)
        self._quick = signature.layout == "matrix" and plain
        self._default = tuple(output.name for output in signature.outputs)[:1]
        self._single = v2.singles(signature.outputs)
        self._head = of_length(1, deployment.name.encode()) + of_length(2, deployment.version.encode())

    def decode(self, body: bytes, request_id: str, envelope: Envelope = PLAIN) -> InferRequest:
        """The request in a ModelInferRequest; raises RequestError."""
        asked = read(body, self._known)
        raw = asked.pop("raw")
        request = self._certainly_good(asked, request_id) if self._quick else None
        if request is None:
            request = self._v2.decode_members(asked, request_id)
        request.extra = (raw, request.extra)
        return request

    def _certainly_good(self, asked: dict[str, Any], request_id: str) -> InferRequest | None:
        """The request if it is one tensor of numbers in the shape of the model and nothing else, else None."""
        inputs = asked["inputs"]
        if len(inputs) != 1 or "outputs" in asked or asked.get("parameters"):
            return None
        tensor = inputs[0]
        shape, data = tensor["shape"], tensor["data"]
        if len(shape) != 2 or tensor.get("parameters") or isinstance(data, list) or data.dtype == np.bool_:
            return None
        n, width = shape
        if not 0 < n <= self._limits.max_rows or width < 1 or (self._width is not None and width != self._width):
            return None
        if data.size != n * width:
            return None
        given_id = asked.get("id", request_id)
        if len(given_id) > MAX_ID:
            return None
        exact = data.size <= SHORT and sum(map(abs, data.tolist())) < EXACT  # NaN is not
        rows = self._plan.from_matrix(data.astype(np.float64).reshape(n, width), exact=exact)
        return None if rows is None else InferRequest(n, self._default, given_id, rows)

    def encode(self, request: InferRequest, outputs: Outputs, shaped: Any = NOT_SHAPED) -> Encoded:
        """The ModelInferResponse; raw when the request was."""
        raw, special = request.extra
        asked = {output.name: output.content_type for output in special or ()}
        parts = [self._head, of_length(3, request.request_id.encode())]
        behind: list[bytes] = []
        for name in request.outputs:
            array = outputs[name]
            tail = array.shape[1:] if array.ndim > 1 else (1,)
            datatype, values = tensors.typed(array)
            datatype = self._single.get(name, datatype) if datatype == "FP64" else datatype
            described = of_length(1, name.encode())
            if content_type := asked.get(name):
                described += of_parameters(4, {contents.KEY: content_type})
                values = contents.encode(values, content_type) if datatype == "BYTES" else values
            if raw:
                behind.append(of_length(6, blobs.write(datatype, values)))
                listed = b""
            else:
                datatype, listed = typed(datatype, values)
            described += of_length(2, datatype.encode()) + of_length(3, dimensions((request.n, *tail)))
            parts.append(of_length(5, described + listed))
        return b"".join((*parts, *behind)), "application/grpc", b""

    def error(self, error: BaseException, request_id: str) -> ErrorAnswer:
        return self._v2.error(error, request_id)


def typed(datatype: str, values: Array | list[Any]) -> tuple[str, bytes]:
    """The datatype and the InferTensorContents field of an output; FP16, which has no list, goes as FP32."""
    if datatype == "FP16":
        datatype = "FP32"
    number = _LIST_OF[datatype]
    if datatype == "BYTES":
        listed = b"".join([of_length(8, b"" if value is None else str(value).encode()) for value in values])
        return datatype, of_length(5, listed)
    array = np.asarray(values)
    if number in _FLOATS:
        packed = array.astype(_FLOATS[number][1]).tobytes()
    else:
        whole = array.tolist()
        small = not whole or (min(whole) >= 0 and max(whole) < 128)
        packed = bytes(whole) if small else varints(whole)  # a byte each
    return datatype, of_length(5, of_length(number, packed))


def of_parameters(number: int, given: Mapping[str, Any]) -> bytes:
    """The map of InferParameters in a field; what has no place in one is left out."""
    entries: list[bytes] = []
    for name, value in given.items():
        if isinstance(value, bool):
            written = of_number(1, int(value))
        elif isinstance(value, int):
            written = of_number(2, value)
        elif isinstance(value, str):
            written = of_length(3, value.encode())
        elif isinstance(value, float):
            written = of_double(4, value)
        else:
            continue
        entries.append(of_length(number, of_length(1, name.encode()) + of_length(2, written)))
    return b"".join(entries)


def parameters(given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Plain values as InferParameter messages; what has no place in one is left out."""
    choices = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
    return {name: {choices[type(value)]: value} for name, value in given.items() if type(value) in choices}
