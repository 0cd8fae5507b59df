"""The Open Inference Protocol V2 over REST: inference.

Two ways lead from a body to rows. The quick one (`v2_quick`, `v2_binary`) takes bodies that are certainly good; every
other body goes the exact way (`v2_request`), which names what is wrong. Tests hold the two together.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import quote

import numpy as np
import orjson

from lagar.errors import NotFound, UnsupportedMediaType
from lagar.protocols import blobs, contents
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
    error_headers,
    message_of,
    parse_media_type,
    shown,
    status_of,
    timeout_of,
)
from lagar.protocols.columns import Plan
from lagar.protocols.contents import ContentTypes
from lagar.protocols.tensors import TensorPlan, typed
from lagar.protocols.v2_binary import BinaryQuick
from lagar.protocols.v2_quick import Quick
from lagar.protocols.v2_request import Asked, Given, Reader, split
from lagar.registry.signature import Output
from lagar.types import Array, Outputs

_MAX_FORMS: Final = 64
_KIND: Final = contents.KEY.encode()
_NUMPY: Final = orjson.OPT_SERIALIZE_NUMPY
_EVENT: Final = (
    b"ce-specversion: 0.3\r\nce-source: io.seldon.serving.deployment.lagar\r\n"
    b"ce-type: io.seldon.serving.inference.response\r\nce-id: %b\r\n"
)
"""The headers of a CloudEvent, as MLServer writes them with the server's name; consumers of its answers read them."""
_PLAIN_ID: Final = re.compile(r"[!#$&-~]+")
_SAFE_IN_ID: Final = "!#$&'()*+,/:;<=>?@[\\]^`{|}~"


class V2Adapter:
    """V2 REST in front of one deployment."""

    __slots__ = (
        "_binary", "_contents", "_default", "_forms", "_head", "_quick", "_reader", "_single", "_tensors", "_to_rows",
    )  # fmt: skip

    def __init__(self, deployment: DeploymentView, limits: Limits | None = None) -> None:
        signature = deployment.signature
        handlers = deployment.handlers
        bounds = limits or Limits()
        plan = Plan(signature, deployment.name)
        wants_records = handlers is not None and handlers.has_preprocess
        self._to_rows = plan.from_records
        self._tensors = TensorPlan(plan, bounds, wants_records=wants_records)
        self._contents = ContentTypes(signature)
        self._reader = Reader(deployment.name, signature, self._contents, bounds)
        quick = not wants_records and self._contents.plain
        self._quick = Quick(signature, plan, bounds) if quick else None
        self._binary = BinaryQuick(signature, plan, self._tensors, bounds, self._wanted) if quick else None
        self._default = tuple(output.name for output in signature.outputs)[:1]
        self._single = singles(signature.outputs)
        head = {"model_name": deployment.name, "model_version": deployment.version}
        self._head = orjson.dumps(head)[:-1] + b',"id":'
        self._forms: dict[tuple[str, np.dtype[Any], tuple[int, ...]], _Form] = {}

    def decode(self, body: bytes, request_id: str, envelope: Envelope = PLAIN) -> InferRequest:
        """The request in a V2 body; raises RequestError."""
        timeout_s = None
        if envelope is not PLAIN:
            timeout_s = None if envelope.timeout is None else timeout_of(envelope.timeout)
            if envelope.header_length is not None:
                return self._decode_binary(body, envelope, request_id, timeout_s)
            if envelope.content_type is not None and envelope.content_type != JSON:
                check_json_type(envelope.content_type)
        if self._quick is not None:
            found = self._quick.read(body)
            if found is not None:
                rows, given_id = found
                request_id = request_id if given_id is None else given_id
                return InferRequest(rows.n, self._default, request_id, rows, timeout_s=timeout_s)
        return self._request(self._reader.read(body), request_id, timeout_s)

    def _decode_binary(self, body: bytes, envelope: Envelope, request_id: str, timeout_s: float | None) -> InferRequest:
        """A request with tensors behind its JSON; without any JSON, one raw tensor."""
        if envelope.content_type is not None and parse_media_type(envelope.content_type).essence != OCTETS:
            check_json_type(envelope.content_type)
        text, blob = split(body, envelope.header_length or "")
        if not text:
            return self._request(self._reader.read_raw(blob), request_id, timeout_s)
        found = None if self._binary is None else self._binary.read(text, blob)
        if found is None:
            return self._request(self._reader.read(text, blob), request_id, timeout_s)
        rows, given_id, (names, extra) = found
        request_id = request_id if given_id is None else given_id
        return InferRequest(rows.n, names, request_id, rows, timeout_s=timeout_s, extra=extra)

    def _request(self, given: Given, request_id: str, timeout_s: float | None) -> InferRequest:
        n, rows, records = self._tensors.decode(given.tensors, given.form)
        names, extra = self._wanted(given.outputs, given.binary_outputs)
        return InferRequest(
            n,
            names,
            request_id if given.id is None else given.id,
            rows,
            records,
            rows_of=self._to_rows if records is not None else None,
            timeout_s=timeout_s if given.timeout_s is None else given.timeout_s,
            extra=extra,
        )

    def decode_members(self, value: Any, request_id: str, timeout_s: float | None = None) -> InferRequest:
        """The request in the members of a V2 body, where another protocol has put it together; raises RequestError."""
        return self._request(self._reader.read_members(value), request_id, timeout_s)

    def _wanted(self, asked: tuple[Asked, ...], binary: bool) -> tuple[tuple[str, ...], tuple[Asked, ...] | None]:
        """The names to ask the model for, and how to write them where that is not as plain JSON.

        Without any asked for, the model's first output is answered.
        """
        if not asked:
            if not binary and self._contents.plain:
                return self._default, None
            asked = tuple(Asked(name, binary, self._contents.of_output(name, {})) for name in self._default)
        special = any(output.binary or output.content_type for output in asked)
        return tuple(output.name for output in asked), asked if special else None

    def encode(self, request: InferRequest, outputs: Outputs, shaped: Any = NOT_SHAPED) -> Encoded:
        """The V2 answer; in JSON, NaN and infinite numbers are null, as it has no word for them."""
        request_id = request.request_id
        lines = event_lines(request_id)
        parts = [self._head, orjson.dumps(request_id), b',"parameters":{},"outputs":[']
        if request.extra is not None:
            return self._encode_as_asked(request.extra, request.n, outputs, parts, lines)
        count, opened = b"%d" % request.n, b'{"name":'
        for name in request.outputs:
            form, values = self._form(name, outputs[name])
            parts += (opened, form.name, count, form.kind, b',"data":', orjson.dumps(values, None, _NUMPY), b"}")
            opened = b',{"name":'
        parts.append(b"]}")
        return b"".join(parts), JSON, lines

    def _encode_as_asked(
        self, asked: Sequence[Asked], n: int, outputs: Outputs, parts: list[bytes], lines: bytes
    ) -> Encoded:
        """Outputs with a content type, or behind the JSON."""
        behind: list[bytes] = []
        count, opened = b"%d" % n, b'{"name":'
        for output in asked:
            form, values = self._form(output.name, outputs[output.name])
            parts += (opened, form.name, count, form.kind)
            opened = b',{"name":'
            if output.content_type and form.datatype == "BYTES":
                values = contents.encode(values, output.content_type)
            kind = b'"%b":%b' % (_KIND, orjson.dumps(output.content_type)) if output.content_type else b""
            if output.binary:
                behind.append(blobs.write(form.datatype, values))
                size = b'"binary_data_size":%d' % len(behind[-1])
                parts += (b',"parameters":{', kind, b"," if kind else b"", size, b"}}")
            elif kind:
                parts += (b',"parameters":{', kind, b'},"data":', orjson.dumps(values, None, _NUMPY), b"}")
            else:
                parts += (b',"data":', orjson.dumps(values, None, _NUMPY), b"}")
        parts.append(b"]}")
        text = b"".join(parts)
        if not behind:
            return text, JSON, lines
        return b"".join((text, *behind)), OCTETS, lines + b"inference-header-content-length: %d\r\n" % len(text)

    def _form(self, name: str, array: Array) -> tuple[_Form, Array | list[Any]]:
        """How an output is written, and its flat values."""
        dims = array.shape[1:]
        key = (name, array.dtype, dims)
        form = self._forms.get(key)
        if form is not None:
            return form, array if not dims and array.flags.c_contiguous else np.ascontiguousarray(array).reshape(-1)
        datatype, values = typed(array)
        datatype = self._single.get(name, datatype) if datatype == "FP64" else datatype
        form = _Form(name, dims, datatype)
        if isinstance(values, np.ndarray) and len(self._forms) < _MAX_FORMS:
            self._forms[key] = form
        return form, values

    def error(self, error: BaseException, request_id: str) -> ErrorAnswer:
        return error_answer(error, request_id)


def singles(outputs: Sequence[Output]) -> dict[str, str]:
    """The outputs whose float64 values FP32 holds exactly: as numbers they are the same, as bytes half as long."""
    return {output.name: "FP32" for output in outputs if output.datatype == "FP32"}


def event_lines(request_id: str) -> bytes:
    """The header lines of an answer that belong to its id."""
    plain = _PLAIN_ID.fullmatch(request_id) is not None
    return _EVENT % (request_id if plain else quote(request_id, safe=_SAFE_IN_ID)).encode("ascii")


class _Form:
    """How an output is written: all but its number of rows and its values."""

    __slots__ = ("datatype", "kind", "name")

    def __init__(self, name: str, dims: tuple[int, ...], datatype: str) -> None:
        self.datatype = datatype
        self.name = b'%b,"shape":[' % orjson.dumps(name)
        """Up to the number of rows."""
        self.kind = b',%b],"datatype":"%b"' % (b",".join([b"%d" % size for size in dims or (1,)]), datatype.encode())


def check_json_type(content_type: str) -> None:
    """Refuse what is not JSON; a missing type and curl's form type with a JSON body pass."""
    media = parse_media_type(content_type)
    json_like = media.essence == JSON or (media.essence.startswith("application/") and media.essence.endswith("+json"))
    if not json_like and media.essence != "application/x-www-form-urlencoded":
        hint = "; tensors behind the JSON need Inference-Header-Content-Length" if media.essence == OCTETS else ""
        raise UnsupportedMediaType(f"Content-Type {shown(content_type)} is not understood here: send {JSON}{hint}")
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
