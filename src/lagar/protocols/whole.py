"""V2 over REST for models that take whole requests: what the caller sends is what the model gets.

The request's tensors are only looked at where the protocol itself says how they must be; whether shape and data fit the
model is for its own codecs to say. What stands behind the JSON is read as for any other model.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import orjson

from lagar.errors import InvalidInput
from lagar.protocols import blobs, json_body
from lagar.protocols.base import (
    JSON,
    NOT_SHAPED,
    OCTETS,
    PLAIN,
    DeploymentView,
    Encoded,
    Envelope,
    ErrorAnswer,
    InferRequest,
    Limits,
    parse_media_type,
    shown,
    timeout_of,
)
from lagar.protocols.tensors import DATATYPES
from lagar.protocols.v2 import check_json_type, error_answer, event_lines
from lagar.protocols.v2_request import split, timeout_parameter
from lagar.runtimes.mlserver import ANSWER, answer_of, rows_of
from lagar.types import Outputs

log = logging.getLogger("lagar.protocols")

_MAX_ID: Final = 256
_SIZE: Final = "binary_data_size"
_CREDENTIALS: Final = frozenset({b"authorization", b"x-api-key", b"cookie", b"proxy-authorization"})
_OWN: Final = frozenset(
    {"connection", "content-encoding", "content-length", "content-type", "date", "inference-header-content-length",
     "keep-alive", "trailer", "transfer-encoding", "upgrade", "x-request-id"}
)  # fmt: skip
_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+: [\t -~\xa1-\xff]*")


class WholeAdapter:
    """V2 REST in front of one deployment whose model takes whole requests."""

    __slots__ = ("_head", "_model")

    def __init__(self, deployment: DeploymentView, limits: Limits | None = None) -> None:
        del limits  # of rows: a whole request has none
        self._model = deployment.name
        self._head = {"model_name": deployment.name, "model_version": deployment.version}

    def decode(self, body: bytes, request_id: str, envelope: Envelope = PLAIN) -> InferRequest:
        """The request in a V2 body; raises RequestError."""
        timeout_s = None if envelope.timeout is None else timeout_of(envelope.timeout)
        blob = memoryview(b"")
        content_type = envelope.content_type
        if envelope.header_length is not None:
            if content_type is not None and parse_media_type(content_type).essence != OCTETS:
                check_json_type(content_type)
            body, blob = split(body, envelope.header_length)
            if not body:
                raise InvalidInput(
                    f"model '{self._model}' takes whole requests: a raw tensor says neither name nor shape"
                )
        elif content_type is not None and content_type != JSON:
            check_json_type(content_type)
        asked = json_body.parse(body)
        if type(asked) is not dict:
            raise InvalidInput(f"the body must be an object with 'inputs', got {shown(asked)}")
        _fill(asked.get("inputs"), blob)
        return request_of(asked, request_id, timeout_s, _told(envelope.headers))

    def encode(self, request: InferRequest, outputs: Outputs, shaped: Any = NOT_SHAPED) -> Encoded:
        """The model's answer as it is; raises RequestError where it has refused the request."""
        answer = answer_of(outputs[ANSWER][0], self._model)
        request_id = answer["id"] or request.request_id
        behind: list[bytes] = []
        written = [_written(output, request.extra, behind) for output in answer["outputs"]]
        body = self._head | {"id": request_id, "parameters": answer["parameters"], "outputs": written}
        text = orjson.dumps(body, default=_text, option=orjson.OPT_NON_STR_KEYS)
        lines = event_lines(request_id) + _lines(answer["headers"])
        if not behind:
            return text, JSON, lines
        return b"".join((text, *behind)), OCTETS, lines + b"inference-header-content-length: %d\r\n" % len(text)

    def error(self, error: BaseException, request_id: str) -> ErrorAnswer:
        return error_answer(error, request_id)


def request_of(
    asked: dict[str, Any], request_id: str, timeout_s: float | None = None, headers: Mapping[str, str] | None = None
) -> InferRequest:
    """The engine's request for a V2 request as plain values, whatever it was written in; raises InvalidInput."""
    given_id = asked.get("id")
    if given_id is not None and (type(given_id) is not str or len(given_id) > _MAX_ID):
        raise InvalidInput(f"'id' must be a string of at most {_MAX_ID} characters, got {shown(given_id)}", field="id")
    parameters = _object(asked.get("parameters"), "the request")
    own_s = timeout_parameter(parameters.get("timeout"))
    timeout_s = timeout_s if own_s is None else own_s
    if type(asked.get("inputs")) is not list:
        raise InvalidInput(
            f"'inputs' must be a list of input tensors, got {shown(asked.get('inputs'))}", field="inputs"
        )
    for position, tensor in enumerate(asked["inputs"]):
        _check_input(tensor, position)
    outputs = asked.get("outputs") or []
    if type(outputs) is not list or not all(type(o) is dict and type(o.get("name")) is str for o in outputs):
        raise InvalidInput(f"'outputs' must be a list of objects with a 'name', got {shown(outputs)}", field="outputs")
    request_id = request_id if given_id is None else given_id
    whole = {
        "id": request_id,
        "parameters": parameters | {"headers": headers} if headers else parameters or None,
        "inputs": asked["inputs"],
        "outputs": outputs or None,
    }
    chosen = {
        output["name"]: _object(output.get("parameters"), output["name"]).get("binary_data") for output in outputs
    }
    wanted = Binary(bool(parameters.get("binary_data_output")), chosen)
    return InferRequest(1, (ANSWER,), request_id, rows_of(whole), timeout_s=timeout_s, extra=wanted)


def _told(headers: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    """The headers that the model gets: all but those that say who asks."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in headers if name not in _CREDENTIALS}


def _lines(headers: Mapping[str, Any]) -> bytes:
    """The header lines that the model asks for, but for those that are the server's."""
    lines = []
    for name, value in headers.items():
        line = f"{name}: {value}"
        if name.lower() in _OWN or not _HEADER.fullmatch(line):
            log.warning("the model's header %.80r is not sent: it is the server's own, or no header", line)
        else:
            lines.append(line.encode("latin-1") + b"\r\n")
    return b"".join(lines)


class Binary:
    """Which outputs a caller wants behind the JSON."""

    __slots__ = ("_all", "_chosen")

    def __init__(self, all_of_them: bool, chosen: Mapping[str, Any]) -> None:
        self._all = all_of_them
        self._chosen = chosen

    def wants(self, name: str) -> bool:
        own = self._chosen.get(name)
        return self._all if own is None else own is True


def flat(output: Mapping[str, Any]) -> list[Any]:
    """The values of an output one after the other: of BYTES texts, objects as their JSON; of numbers NaN for null."""
    values = list(_leaves(output["data"]))
    if output["datatype"] != "BYTES":
        return [np.nan if value is None else value for value in values]
    return [value if isinstance(value, (str, bytes)) or value is None else _json(value) for value in values]


def _leaves(values: Any) -> Iterable[Any]:
    for value in values:
        if isinstance(value, list):
            yield from _leaves(value)
        else:
            yield value


def _json(value: Any) -> str:
    return orjson.dumps(value, default=_text, option=orjson.OPT_NON_STR_KEYS).decode()


def _fill(inputs: Any, blob: memoryview) -> None:
    """Give inputs that stand behind the JSON their data; raises InvalidInput."""
    place = 0
    for position, tensor in enumerate(inputs if type(inputs) is list else ()):
        parameters = tensor.get("parameters") if type(tensor) is dict else None
        size = parameters.pop(_SIZE, None) if type(parameters) is dict else None
        if size is None:
            continue
        name = tensor.get("name")
        if type(size) is not int or not 0 <= size <= len(blob) - place or "data" in tensor:
            raise InvalidInput(
                f"input '{name}' has {_SIZE} {shown(size)}, behind the JSON {len(blob) - place} bytes are left for it"
                if "data" not in tensor
                else f"input '{name}' has both data and {_SIZE}: send the values in one of them",
                field=str(name),
            )
        tensor["data"] = []
        _check_input(tensor, position)
        piece, datatype = blob[place : place + size], tensor["datatype"]
        if datatype == "BYTES":  # any bytes: what they are is the model's affair
            tensor["data"] = blobs.texts(str(name), piece, None, plain=True)
        else:
            tensor["data"] = np.asarray(blobs.read(str(name), datatype, tensor["shape"], piece)).tolist()
        place += size
    if place < len(blob):
        raise InvalidInput(f"{len(blob) - place} bytes behind the JSON belong to no input: {_SIZE} says how many do")


def _check_input(tensor: Any, position: int) -> None:
    if type(tensor) is not dict or type(tensor.get("name")) is not str:
        raise InvalidInput(f"inputs[{position}] must be an object with a 'name' that is a string", field="inputs")
    name = tensor["name"]
    for key in ("shape", "datatype", "data"):
        if key not in tensor:
            raise InvalidInput(f"input '{name}' has no '{key}'", field=name)
    if tensor["datatype"] not in DATATYPES:
        raise InvalidInput(
            f"input '{name}' has datatype {shown(tensor['datatype'])}, known are {', '.join(sorted(DATATYPES))}",
            field=name,
        )
    shape = tensor["shape"]
    if type(shape) is not list or not all(type(size) is int and 0 <= size < 1 << 63 for size in shape):
        raise InvalidInput(f"input '{name}' has shape {shown(shape)}: a list of whole numbers was expected", field=name)
    _object(tensor.get("parameters"), f"input '{name}'")


def _object(given: Any, owner: str) -> dict[str, Any]:
    if given is None:
        return {}
    if type(given) is not dict:
        raise InvalidInput(f"'parameters' of {owner} must be an object, got {shown(given)}", field="parameters")
    return given


def _written(output: dict[str, Any], wanted: Binary, behind: list[bytes]) -> dict[str, Any]:
    """An output of the answer, without parameters that it has not; one that is wanted so goes behind the JSON."""
    parameters = output["parameters"]
    written = {name: output[name] for name in ("name", "shape", "datatype")}
    if wanted.wants(output["name"]):
        behind.append(blobs.write(output["datatype"], flat(output)))
        return written | {"parameters": parameters | {_SIZE: len(behind[-1])}}
    if parameters:
        written["parameters"] = parameters
    return written | {"data": output["data"]}


def _text(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    raise TypeError(f"a {type(value).__name__} is no JSON value")
