"""A V2 request read exactly: every part is looked at, and what is wrong is named.

The tensors of a request stand in its JSON, behind it (the binary extension), or some here and some there; a body
without any JSON is one raw tensor. Each length is checked before anything is read by it.
Source: Triton, docs/protocol/extension_binary_data.md; mlserver/codecs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np

from lagar.errors import InvalidInput, PayloadTooLarge
from lagar.protocols import blobs, contents, json_body
from lagar.protocols.base import Limits, shown
from lagar.protocols.contents import ContentTypes
from lagar.protocols.tensors import DATATYPES, Form, Tensor, check_values
from lagar.registry.signature import Field, Signature
from lagar.types import Array

MAX_ID: Final = 256
_SIZE: Final = "binary_data_size"
_HERE_NOT: Final = {
    "shared_memory_region": "shared memory is not read here: send the data in the body",
    "classification": "class lists are not made here: ask for the output 'predict_proba'",
}
"""Parameters that change what is asked, and that are refused by name; others that nobody knows have no effect."""


class Asked(msgspec.Struct, frozen=True):
    """A requested output."""

    name: str
    binary: bool = False
    """Behind the JSON of the answer."""
    content_type: str = ""


class Given(msgspec.Struct):
    """A request as it stands, before the model's rules."""

    tensors: list[Tensor]
    outputs: tuple[Asked, ...]
    """() for those that the model answers when nobody asks."""
    id: str | None = None
    form: Form = "any"
    timeout_s: float | None = None
    binary_outputs: bool = False
    """Outputs that do not say otherwise stand behind the JSON."""


class Reader:
    """Reads the requests of one model."""

    __slots__ = ("_contents", "_known", "_limits", "_model", "_signature")

    def __init__(self, model: str, signature: Signature, contents: ContentTypes, limits: Limits) -> None:
        self._model = model
        self._signature = signature
        self._contents = contents
        self._limits = limits
        self._known = tuple(output.name for output in signature.outputs)

    def read(self, text: bytes, blob: memoryview | None = None) -> Given:
        """The request in `text`, JSON, and in the blob behind it; raises RequestError."""
        return self.read_members(json_body.parse(text), blob)

    def read_members(self, value: Any, blob: memoryview | None = None) -> Given:
        """The same of a body that is parsed; the data of an input may be an array of its datatype, as gRPC has it."""
        if type(value) is not dict:
            raise InvalidInput(f"the body must be an object with 'inputs', got {shown(value)}")
        parameters = _parameters(value.get("parameters"), "the request")
        binary = _flag(parameters, "binary_data_output", "the request")
        outputs = self._asked(value.get("outputs"), binary)
        if "inputs" not in value:
            raise InvalidInput("'inputs' is missing: a list of input tensors", field="inputs")
        inputs = value["inputs"]
        if type(inputs) is not list:
            raise InvalidInput(f"'inputs' must be a list of input tensors, got {shown(inputs)}", field="inputs")
        form, spread = self._contents.of_request(parameters, len(inputs))
        source = _Blobs(blob)
        tensors = [self._tensor(given, position, source, spread) for position, given in enumerate(inputs)]
        source.close()
        return Given(tensors, outputs, _id(value.get("id")), form, timeout_parameter(parameters.get("timeout")), binary)

    def read_raw(self, body: memoryview) -> Given:
        """A body that is one tensor and nothing else: rows of a model of numbers, or the one text of a model of texts.

        Raises InvalidInput for a model with several inputs that are no numbers: what is what could not be told.
        """
        signature, fields = self._signature, self._signature.fields
        if fields is not None and len(fields) == 1:
            datatype = field_datatype(fields[0])
            if datatype == "BYTES":
                tensor = Tensor("input", datatype, [1], [_utf8(body)])
                contents.decode(tensor, self._contents.of_input(fields[0].name, datatype, {}))
                return Given([tensor], (), binary_outputs=True)
            width = 1
        elif signature.layout == "matrix" and signature.width:
            datatype, width = "FP64", signature.width
        else:
            takes = (
                "an unknown number of inputs" if fields is None else f"{len(fields)} inputs that are not all numbers"
            )
            raise InvalidInput(
                f"a raw body (Inference-Header-Content-Length 0) is one tensor, and {self._model} takes {takes}: "
                "send JSON that names them, with the data behind it"
            )
        size = width * blobs.size_of(datatype)
        rows, rest = divmod(len(body), size)
        if rest or not rows:
            raise InvalidInput(
                f"a raw body for {self._model} is rows of {width} {datatype}, {size} bytes each, and at least one; "
                f"got {len(body)} bytes"
            )
        self._check_rows(rows)
        shape = [rows, width]
        tensor = Tensor("input", datatype, shape, blobs.read("input", datatype, shape, body))
        return Given([tensor], (), form="matrix", binary_outputs=True)

    def _check_rows(self, n: int) -> None:
        if n > self._limits.max_rows:
            raise PayloadTooLarge(f"the request has {n} rows, at most {self._limits.max_rows} are taken at once")

    # Outputs.

    def _asked(self, outputs: Any, binary: bool) -> tuple[Asked, ...]:
        """What stands in `outputs`, each name once and in order."""
        if outputs is None or outputs == []:
            return ()
        if type(outputs) is not list:
            raise InvalidInput(f"'outputs' must be a list of requested outputs, got {shown(outputs)}", field="outputs")
        asked: dict[str, Asked] = {}
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
            owner = f"output '{name}'"
            parameters = _parameters(output.get("parameters"), owner)
            own = parameters.get("binary_data")
            chosen = binary if own is None else _flag(parameters, "binary_data", owner)
            asked.setdefault(name, Asked(name, chosen, self._contents.of_output(name, parameters)))
        return tuple(asked.values())

    # Inputs.

    def _tensor(self, given: Any, position: int, source: _Blobs, spread: str) -> Tensor:
        """One input, its data flat and of its datatype."""
        if type(given) is not dict:
            raise InvalidInput(f"inputs[{position}] must be an object, got {shown(given)}", field="inputs")
        name = given.get("name")
        if type(name) is not str:
            raise InvalidInput(f"inputs[{position}] must have a 'name' that is a string", field="inputs")
        parameters = _parameters(given.get("parameters"), f"input '{name}'")
        for key in ("shape", "datatype") if _SIZE in parameters else ("shape", "datatype", "data"):
            if key not in given:
                raise InvalidInput(f"input '{name}' has no '{key}'", field=name)
        datatype, shape = _datatype(name, given["datatype"]), _shape(name, given["shape"])
        content_type = self._contents.of_input(name, datatype, parameters, spread)
        counted = not contents.is_text(content_type)
        if _SIZE in parameters:
            if "data" in given:
                raise InvalidInput(f"input '{name}' has both 'data' and {_SIZE}: send it one way", field=name)
            if shape:
                self._check_rows(shape[0])
            piece = source.take(name, parameters[_SIZE])
            values = blobs.read(name, datatype, shape, piece) if counted else blobs.texts(name, piece, None)
            tensor = Tensor(name, datatype, shape, values)
        else:
            tensor = Tensor(name, datatype, shape, _data(name, shape, given["data"], counted=counted))
            if type(tensor.data) is list:
                check_values(tensor)
        if not counted:
            if math.prod(shape) != len(tensor.data):
                tensor.shape = [len(tensor.data)]
            contents.decode(tensor, content_type)
        return tensor


class _Blobs:
    """What stands behind the JSON, taken input by input."""

    def __init__(self, blob: memoryview | None) -> None:
        self._blob = blob
        self._taken = 0

    def take(self, name: str, size: Any) -> memoryview:
        """The next so many bytes; raises InvalidInput when they are not there."""
        if self._blob is None:
            raise InvalidInput(
                f"input '{name}' has {_SIZE}, and the header Inference-Header-Content-Length is missing: it says where "
                "the JSON ends",
                field=name,
            )
        if type(size) is not int or size < 0:
            raise InvalidInput(f"{_SIZE} of input '{name}' must be a number of bytes, got {shown(size)}", field=name)
        left = len(self._blob) - self._taken
        if size > left:
            raise InvalidInput(
                f"{_SIZE} of input '{name}' is {size}, and only {left} bytes of the body are left for it", field=name
            )
        start, self._taken = self._taken, self._taken + size
        return self._blob[start : self._taken]

    def close(self) -> None:
        """Raise InvalidInput when bytes are left that no input has taken."""
        if self._blob is not None and self._taken < len(self._blob):
            raise InvalidInput(
                f"{len(self._blob) - self._taken} bytes of the body belong to no input: the {_SIZE} of all inputs add "
                f"up to {self._taken}, {len(self._blob)} bytes stand behind the JSON"
            )


def split(body: bytes | memoryview, header_length: str) -> tuple[bytes, memoryview]:
    """The JSON and what stands behind it, by the header's text; raises InvalidInput."""
    size = int(header_length) if header_length.isascii() and header_length.isdigit() and len(header_length) < 19 else -1
    if size < 0:
        raise InvalidInput(
            f"Inference-Header-Content-Length must be the number of bytes of the JSON, got {shown(header_length)}"
        )
    if size > len(body):
        raise InvalidInput(
            f"Inference-Header-Content-Length is {size}, and the body has {len(body)} bytes: it is the length of the "
            "JSON alone, within the body"
        )
    view = memoryview(body)
    return bytes(view[:size]), view[size:]


def _id(given: Any) -> str | None:
    if given is None:
        return None
    if type(given) is not str:
        raise InvalidInput(f"'id' must be a string, got {shown(given)}", field="id")
    if len(given) > MAX_ID:
        raise InvalidInput(f"'id' has {len(given)} characters, at most {MAX_ID} are taken", field="id")
    return given


def timeout_parameter(given: Any) -> float | None:
    """Seconds of the parameter `timeout`, which is microseconds as Triton has it, 0 for none; raises InvalidInput."""
    if given is None or (type(given) is int and given == 0):
        return None
    if type(given) is not int or not 0 < given < 1 << 64:
        raise InvalidInput(
            f"the parameter 'timeout' must be a whole number of microseconds (2000000 is 2 s), got {shown(given)}; the "
            "header 'timeout' takes seconds",
            field="timeout",
        )
    return given / 1e6


def _utf8(body: memoryview) -> str:
    try:
        return str(body, "utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"a raw body for a model of text must be UTF-8, its byte {error.start} is none") from None


def _datatype(name: str, datatype: Any) -> str:
    if type(datatype) is not str or datatype not in DATATYPES:
        raise InvalidInput(
            f"input '{name}' has datatype {shown(datatype)}, known are {', '.join(sorted(DATATYPES))}", field=name
        )
    return datatype


def _shape(name: str, shape: Any) -> list[int]:
    if type(shape) is not list or not all(type(size) is int and 0 <= size < 1 << 63 for size in shape):
        raise InvalidInput(f"input '{name}' has shape {shown(shape)}: a list of whole numbers was expected", field=name)
    return shape


def _data(name: str, shape: list[int], data: Any, *, counted: bool) -> list[Any] | Array:
    """The flat data of an input that has it in its members."""
    if isinstance(data, np.ndarray):
        if data.size != math.prod(shape):
            raise InvalidInput(
                f"input '{name}' has shape {shape}, which is {math.prod(shape)} values, but its data has {data.size}",
                field=name,
            )
        return data.reshape(-1)
    if type(data) is not list:
        raise InvalidInput(f"input '{name}' must have its data as a list, got {shown(data)}", field=name)
    return _flattened(name, shape, data, counted=counted)


def _flattened(name: str, shape: list[int], data: list[Any], *, counted: bool = True) -> list[Any]:
    """Flat data as it is, nested data if it has exactly the stated shape; not `counted`: flat data has its own."""
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
    elif not counted:
        return data
    size = math.prod(shape)
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
    for name, why in _HERE_NOT.items():
        if name in given:
            raise InvalidInput(f"{owner} has the parameter '{name}': {why}", field="parameters")
    return given


def _flag(parameters: dict[str, Any], name: str, owner: str) -> bool:
    value = parameters.get(name)
    if value is None:
        return False
    if type(value) is not bool:
        raise InvalidInput(f"the parameter '{name}' of {owner} must be true or false, got {shown(value)}", field=name)
    return value


def _listed(names: Sequence[str]) -> str:
    quoted = [f"'{name}'" for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"


def field_datatype(field: Field) -> str:
    """The V2 datatype in which a field is best sent."""
    if field.type == "unknown" and field.categories:
        kinds = {type(category) for category in field.categories if category is not None}
        if kinds <= {int, float}:
            return "INT64" if kinds == {int} else "FP64"
        return "BOOL" if kinds == {bool} else "BYTES"
    return {"float": "FP64", "int": "INT64", "bool": "BOOL", "string": "BYTES"}.get(field.type, "BYTES")
