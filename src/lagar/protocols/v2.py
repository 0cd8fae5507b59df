"""The Open Inference Protocol V2 over REST: infer, metadata, readiness.

Two ways lead from a body to rows. The quick one takes one numeric tensor of a matrix model: typed decoders for small
bodies, simdjson's number buffer for large ones. It only ever says "certainly good"; every other body goes the exact
way, which names what is wrong. Tests hold the two together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np
import orjson
from numpy.typing import NDArray

from lagar import __version__
from lagar.errors import InvalidInput, NotFound, UnsupportedMediaType
from lagar.protocols import json_body
from lagar.protocols.base import (
    JSON,
    NOT_SHAPED,
    DeploymentView,
    ErrorAnswer,
    InferRequest,
    Limits,
    error_headers,
    message_of,
    parse_media_type,
    shown,
    status_of,
    timeout_of,
)
from lagar.protocols.columns import EXACT, SHORT, Plan
from lagar.protocols.tensors import DATATYPES, FLOAT_LIMITS, INTEGER_RANGES, Tensor, TensorPlan, check_values
from lagar.registry.signature import Field, Output, Signature
from lagar.types import Array, Outputs, Rows

_NUMPY: Final = orjson.OPT_SERIALIZE_NUMPY
_BUFFER_FROM_BYTES: Final = 1536
"""From here on simdjson's number buffer beats a list of Python floats."""
_MAX_ID: Final = 256

LIVE: Final = b'{"live":true}'
READY: Final = b'{"ready":true}'
NOT_READY: Final = b'{"ready":false}'


class _Flat(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class _Nested(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: list[list[float]]


class _FlatRequest(msgspec.Struct):
    inputs: list[_Flat]
    id: str | None = None


class _NestedRequest(msgspec.Struct):
    inputs: list[_Nested]
    id: str | None = None


_flat = msgspec.json.Decoder(_FlatRequest)
_nested = msgspec.json.Decoder(_NestedRequest)


class V2Adapter:
    """V2 REST in front of one deployment."""

    __slots__ = (
        "_any_name",
        "_default",
        "_head",
        "_known",
        "_limits",
        "_model",
        "_plan",
        "_quick",
        "_tensors",
        "_width",
    )

    def __init__(self, deployment: DeploymentView, limits: Limits | None = None) -> None:
        signature = deployment.signature
        handlers = deployment.handlers
        self._limits = limits or Limits()
        self._model = deployment.name
        self._plan = Plan(signature, deployment.name)
        wants_records = handlers is not None and handlers.has_preprocess
        self._tensors = TensorPlan(self._plan, self._limits, wants_records=wants_records)
        self._known = tuple(output.name for output in signature.outputs)
        self._default = self._known[:1]
        self._width = signature.width
        self._quick = signature.layout == "matrix" and not wants_records
        head = {"model_name": deployment.name, "model_version": deployment.version}
        self._head = orjson.dumps(head)[:-1] + b',"id":'

    def decode(
        self,
        body: bytes,
        request_id: str,
        *,
        content_type: str | None = None,
        accept: str | None = None,
        timeout: str | None = None,
    ) -> InferRequest:
        """The request in a V2 JSON body; raises RequestError."""
        if content_type is not None and content_type != JSON:
            check_json_type(content_type)
        timeout_s = None if timeout is None else timeout_of(timeout)
        if self._quick:
            request = self._decode_small(body, request_id) if len(body) < _BUFFER_FROM_BYTES else None
            if request is None and len(body) >= _BUFFER_FROM_BYTES:
                request = self._decode_large(body, request_id)
            if request is not None:
                request.timeout_s = timeout_s
                return request
        return self._decode_exactly(body, request_id, timeout_s)

    def _decode_small(self, body: bytes, request_id: str) -> InferRequest | None:
        try:
            tensors: Sequence[_Flat | _Nested]
            if b"[[" in body:
                nested = _nested.decode(body)
                tensors, given_id = nested.inputs, nested.id
            else:
                flat = _flat.decode(body)
                tensors, given_id = flat.inputs, flat.id
        except json_body.PARSE_ERRORS:
            return None
        # As many colons as known keys: no key is there twice, and none that these structs do not know.
        if len(tensors) != 1 or body.count(b":") != (5 if given_id is None else 6):
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
        rows = self._rows(tensor.datatype, n, width, matrix, exact=exact)
        return None if rows is None else self._request(rows, given_id, request_id)

    def _decode_large(self, body: bytes, request_id: str) -> InferRequest | None:
        found = json_body.read_numbers(body, _read_tensor)
        if found is None:
            return None
        datatype, n, width, flat, given_id, keys, brackets = found
        if body.count(b":") != keys or body.count(b"[") != brackets:
            return None
        rows = self._rows(datatype, n, width, flat.reshape(n, width))
        return None if rows is None else self._request(rows, given_id, request_id)

    def _rows(
        self, datatype: str, n: int, width: int, matrix: NDArray[np.float64], *, exact: bool = False
    ) -> Rows | None:
        if n > self._limits.max_rows or width == 0 or (self._width is not None and width != self._width):
            return None
        if datatype in INTEGER_RANGES:
            low, high = INTEGER_RANGES[datatype]
            if matrix.min() < low or matrix.max() > high or not (matrix == np.trunc(matrix)).all():
                return None
        elif datatype == "FP16":
            if matrix.max() > FLOAT_LIMITS["FP16"] or matrix.min() < -FLOAT_LIMITS["FP16"]:
                return None
        elif datatype not in FLOAT_LIMITS:
            return None
        return self._plan.from_matrix(matrix, exact=exact)  # below 2^53, hence within FP32 and BF16

    def _request(self, rows: Rows, given_id: str | None, request_id: str) -> InferRequest | None:
        if given_id is not None:
            if len(given_id) > _MAX_ID:
                return None
            request_id = given_id
        return InferRequest(rows.n, self._default, request_id, rows)

    def _decode_exactly(self, body: bytes, request_id: str, timeout_s: float | None) -> InferRequest:
        value = json_body.parse(body)
        if type(value) is not dict:
            raise InvalidInput(f"the body must be an object with 'inputs', got {shown(value)}")
        given_id = value.get("id")
        if given_id is not None:
            if type(given_id) is not str:
                raise InvalidInput(f"'id' must be a string, got {shown(given_id)}", field="id")
            if len(given_id) > _MAX_ID:
                raise InvalidInput(f"'id' has {len(given_id)} characters, at most {_MAX_ID} are taken", field="id")
        parameters = _parameters(value.get("parameters"), "the request")
        if "timeout" in parameters:
            timeout_s = timeout_of(parameters["timeout"])
        outputs = self._wanted(value.get("outputs"))
        if "inputs" not in value:
            raise InvalidInput("'inputs' is missing: a list of input tensors", field="inputs")
        inputs = value["inputs"]
        if type(inputs) is not list:
            raise InvalidInput(f"'inputs' must be a list of input tensors, got {shown(inputs)}", field="inputs")
        tensors = [_tensor(given, position) for position, given in enumerate(inputs)]
        n, rows, records = self._tensors.decode(tensors)
        return InferRequest(
            n,
            outputs,
            request_id if given_id is None else given_id,
            rows,
            records,
            rows_of=self._plan.from_records if records is not None else None,
            timeout_s=timeout_s,
        )

    def _wanted(self, outputs: Any) -> tuple[str, ...]:
        """The names in `outputs`, each once and in order; the model's first output when none is asked for."""
        if outputs is None or outputs == []:
            return self._default
        if type(outputs) is not list:
            raise InvalidInput(f"'outputs' must be a list of requested outputs, got {shown(outputs)}", field="outputs")
        names: list[str] = []
        for output in outputs:
            name = output.get("name") if type(output) is dict else None
            if type(name) is not str:
                raise InvalidInput(
                    f"a requested output must be an object with a 'name', got {shown(output)}", field="outputs"
                )
            if name not in self._known:
                raise InvalidInput(
                    f"Model {self._model} only supports {_listed(self._known)} as outputs ({name} was received)",
                    field="outputs",
                )
            _parameters(output.get("parameters"), f"output '{name}'")
            if name not in names:
                names.append(name)
        return tuple(names)

    def encode(self, request: InferRequest, outputs: Outputs, shaped: Any = NOT_SHAPED) -> tuple[bytes, str]:
        """The V2 answer; NaN and infinite numbers are null, as JSON has no word for them."""
        parts = [self._head, orjson.dumps(request.request_id), b',"parameters":{},"outputs":[']
        separator = b'{"name":'
        n = request.n
        for name in request.outputs:
            array = outputs[name]
            datatype, data = _datatype_and_data(array)
            dims = b",".join([b"%d" % size for size in array.shape[1:]]) if array.ndim > 1 else b"1"
            parts += (
                separator,
                orjson.dumps(name),
                b',"shape":[%d,%b],"datatype":"' % (n, dims),
                datatype,
                b'","data":',
                data,
                b"}",
            )
            separator = b',{"name":'
        parts.append(b"]}")
        return b"".join(parts), JSON

    def error(self, error: BaseException, request_id: str) -> ErrorAnswer:
        return error_answer(error, request_id)


def _read_tensor(document: Any) -> tuple[str, int, int, NDArray[np.float64], str | None, int, int] | None:
    """(datatype, n, width, flat numbers, id, keys, brackets) of a body with one [n,width] tensor of numbers.

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
    return datatype, n, width, flat, given_id, keys + 4, brackets


def _tensor(given: Any, position: int) -> Tensor:
    """One input of the body, its data flat and of its datatype."""
    if type(given) is not dict:
        raise InvalidInput(f"inputs[{position}] must be an object, got {shown(given)}", field="inputs")
    name = given.get("name")
    if type(name) is not str:
        raise InvalidInput(f"inputs[{position}] must have a 'name' that is a string", field="inputs")
    for key in ("shape", "datatype", "data"):
        if key not in given:
            raise InvalidInput(f"input '{name}' has no '{key}'", field=name)
    datatype = given["datatype"]
    if type(datatype) is not str or datatype not in DATATYPES:
        raise InvalidInput(
            f"input '{name}' has datatype {shown(datatype)}, known are {', '.join(sorted(DATATYPES))}", field=name
        )
    shape = given["shape"]
    if type(shape) is not list or not all(type(size) is int and 0 <= size < 1 << 63 for size in shape):
        raise InvalidInput(f"input '{name}' has shape {shown(shape)}: a list of whole numbers was expected", field=name)
    data = given["data"]
    if type(data) is not list:
        raise InvalidInput(f"input '{name}' must have its data as a list, got {shown(data)}", field=name)
    if _parameters(given.get("parameters"), f"input '{name}'").get("content_type") == "base64":
        raise InvalidInput(  # the model would read the code for the text
            f"input '{name}' has content_type base64, which is not decoded here: send the text itself",
            field=name,
        )
    tensor = Tensor(name, datatype, shape, _flattened(name, shape, data))
    check_values(tensor)
    return tensor


def _flattened(name: str, shape: list[int], data: list[Any]) -> list[Any]:
    """Flat data as it is, nested data if it has exactly the stated shape."""
    size = math.prod(shape)
    if list in set(map(type, data)):
        level: list[Any] = [data]
        for depth, wanted in enumerate(shape):
            below: list[Any] = []
            for position, part in enumerate(level):
                if type(part) is not list or len(part) != wanted:
                    got = f"{len(part)} values" if type(part) is list else shown(part)
                    where = f" in row {position}" if depth == 1 else ""
                    raise InvalidInput(
                        f"input '{name}' has shape {shape}, but its nested data has {got}{where} where {wanted} are"
                        " expected",
                        field=name,
                        row=position if depth == 1 else None,
                    )
                below.extend(part)
            level = below
        data = level
    if len(data) != size or list in set(map(type, data)):
        raise InvalidInput(
            f"input '{name}' has shape {shape}, which is {size} values, but its data has {len(data)}", field=name
        )
    return data


def _parameters(given: Any, owner: str) -> dict[str, Any]:
    if given is None:
        return {}
    if type(given) is not dict:
        raise InvalidInput(f"'parameters' of {owner} must be an object, got {shown(given)}", field="parameters")
    return given


def _listed(names: Sequence[str]) -> str:
    quoted = [f"'{name}'" for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"


_WIRE: Final[dict[np.dtype[Any], bytes]] = {
    np.dtype(kind): name.encode()
    for kind, name in (
        ("bool", "BOOL"),
        *((f"int{bits}", f"INT{bits}") for bits in (8, 16, 32, 64)),
        *((f"uint{bits}", f"UINT{bits}") for bits in (8, 16, 32, 64)),
        ("float16", "FP16"),
        ("float32", "FP32"),
        ("float64", "FP64"),
    )
}


def _datatype_and_data(array: Array) -> tuple[bytes, bytes]:
    """The datatype and the flat JSON data of one output."""
    datatype = _WIRE.get(array.dtype)
    if datatype is not None:
        if array.ndim != 1 or not array.flags.c_contiguous:
            array = np.ascontiguousarray(array).reshape(-1)
        return datatype, orjson.dumps(array, None, _NUMPY)
    values = array.reshape(-1).tolist()
    types = set(map(type, values))
    if types == {bool}:
        return b"BOOL", orjson.dumps(values)
    if types == {int} and all(-(1 << 63) <= value < 1 << 63 for value in values):
        return b"INT64", orjson.dumps(values)
    if types and types <= {float, int}:
        return b"FP64", orjson.dumps([float(value) for value in values])
    if types != {str}:
        values = [None if value is None else value if type(value) is str else _text(value) for value in values]
    return b"BYTES", orjson.dumps(values)


def _text(value: Any) -> str:
    """A value that is no string, inside a BYTES tensor: its JSON."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return orjson.dumps(value, default=str, option=_NUMPY | orjson.OPT_NON_STR_KEYS).decode()


def check_json_type(content_type: str) -> None:
    """Refuse what is not JSON; a missing type and curl's form type with a JSON body pass."""
    media = parse_media_type(content_type)
    json_like = media.essence == JSON or (media.essence.startswith("application/") and media.essence.endswith("+json"))
    if not json_like and media.essence != "application/x-www-form-urlencoded":
        raise UnsupportedMediaType(f"Content-Type {shown(content_type)} is not understood here: send {JSON}")
    if media.charset not in (None, "utf-8", "utf8", "us-ascii", "ascii"):
        raise UnsupportedMediaType(f"charset {shown(media.charset)} is not understood: JSON is UTF-8")


def error_answer(error: BaseException, request_id: str) -> ErrorAnswer:
    """`{"error": "message"}` with the status of the error."""
    message = message_of(error)
    if status_of(error) == 500:
        message = f"{message} (request {request_id})"
    return ErrorAnswer(status_of(error), orjson.dumps({"error": message}), error_headers(error))


def unknown_model(name: str, version: str | None = None) -> NotFound:
    """The 404 of a model or version that is not served, in the words that clients of MLServer know."""
    if version is None:
        return NotFound(f"Model {name} not found")
    return NotFound(f"Model {name} with version {version} not found")


def server_metadata() -> bytes:
    return orjson.dumps({"name": "lagar", "version": __version__, "extensions": []})


def model_ready(name: str, ready: bool = True) -> bytes:
    return orjson.dumps({"name": name, "ready": ready})


def model_metadata(name: str, versions: Sequence[str], platform: str, signature: Signature) -> bytes:
    """Names, datatypes and shapes of inputs and outputs; -1 is the number of rows, or unknown.

    A model that names its fields, or takes other things than numbers, lists them as columns [-1,1]; any other takes a
    single matrix. Both kinds accept both forms where all fields are numbers.
    """
    if signature.fields is None or (signature.layout == "matrix" and not signature.named):
        width = -1 if signature.width is None else signature.width
        inputs = [{"name": "input", "datatype": "FP64", "shape": [-1, width]}]
    else:
        inputs = [{"name": f.name, "datatype": field_datatype(f), "shape": [-1, 1]} for f in signature.fields]
    outputs = [
        {"name": output.name, "datatype": output.datatype, "shape": _output_shape(output)}
        for output in signature.outputs
    ]
    return orjson.dumps(
        {
            "name": name,
            "versions": list(versions),
            "platform": platform,
            "inputs": inputs,
            "outputs": outputs,
            "parameters": {},
        }
    )


def field_datatype(field: Field) -> str:
    """The V2 datatype in which a field is best sent."""
    if field.type == "unknown" and field.categories:
        kinds = {type(category) for category in field.categories if category is not None}
        if kinds <= {int, float}:
            return "INT64" if kinds == {int} else "FP64"
        return "BOOL" if kinds == {bool} else "BYTES"
    return {"float": "FP64", "int": "INT64", "bool": "BOOL", "string": "BYTES"}.get(field.type, "BYTES")


def _output_shape(output: Output) -> list[int]:
    return [-1, *output.shape] if output.shape else [-1, 1]
