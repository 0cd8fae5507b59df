"""The native protocol: records, rows and tables in; predictions with class names out.

As in V2, a quick way takes the bodies that are certainly good (a record, a list of records, a matrix of numbers) and
everything else goes the exact way.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec
import numpy as np
import orjson
from numpy.typing import NDArray

from lagar.errors import InvalidInput, NotAcceptable
from lagar.protocols import json_body, tables
from lagar.protocols.base import (
    JSON,
    NOT_SHAPED,
    PLAIN,
    DeploymentView,
    Encoded,
    Envelope,
    ErrorAnswer,
    InferRequest,
    Limits,
    code_of,
    error_headers,
    message_of,
    negotiate,
    shown,
    status_of,
    timeout_of,
)
from lagar.protocols.bodies import ARROW, CSV, ENVELOPES, ID, ID_ONLY, Batch, BodyReader
from lagar.protocols.columns import Plan
from lagar.protocols.json_answer import dumped, output_json
from lagar.registry.signature import Field, Signature, answer_names
from lagar.types import Array, Outputs, Record, Rows

ANSWERS: Final = (JSON, CSV, ARROW)
_BUFFER_FROM_BYTES: Final = 1536
_ID_PLACE: Final = b"\x00"
_TEMPLATE_ROWS: Final = 1024
_ESCAPED: Final = re.compile(r'["\\\x00-\x1f\ud800-\udfff]')


class _RowsBody(msgspec.Struct):
    batches: list[list[float]] | None = None
    instances: list[list[float]] | None = None
    inputs: list[list[float]] | None = None
    data: list[list[float]] | None = None


_rows_body = msgspec.json.Decoder(_RowsBody)
_bare_rows = msgspec.json.Decoder(list[list[float]])


class NativeAdapter:
    """The native protocol in front of one deployment."""

    __slots__ = (
        "_bodies",
        "_classes",
        "_end",
        "_head",
        "_id_templates",
        "_keys",
        "_limits",
        "_names",
        "_outputs",
        "_plan",
        "_postprocess",
        "_preprocess",
        "_quick",
        "_quick_rows",
        "_record",
        "_records",
        "_signature",
    )

    def __init__(self, deployment: DeploymentView, limits: Limits | None = None) -> None:
        signature = deployment.signature
        handlers = deployment.handlers
        self._limits = limits or Limits()
        self._signature = signature
        self._plan = Plan(signature, deployment.name)
        self._names = signature.names
        self._outputs = deployment.native_outputs
        self._preprocess = handlers is not None and handlers.has_preprocess
        self._postprocess = handlers is not None and handlers.has_postprocess
        self._bodies = BodyReader(
            signature, self._plan, self._limits, all_columns=self._preprocess or self._postprocess
        )
        self._quick = not self._preprocess and not self._postprocess
        self._quick_rows = (
            self._quick and signature.layout == "matrix" and not set(ENVELOPES).intersection(signature.names)
        )
        record = _record_type(signature) if self._quick else None
        self._record = None if record is None else msgspec.json.Decoder(record)
        self._records: msgspec.json.Decoder[list[Any]] | None = (
            None if record is None else msgspec.json.Decoder(list[record])  # type: ignore[valid-type]
        )
        head = {"model": deployment.name, "version": deployment.version}
        self._head = orjson.dumps(head)[:-1] + b',"id":'
        shown = answer_names(self._outputs)
        self._keys = {name: orjson.dumps(key) for name, key in shown.items()}
        self._classes = b"" if signature.classes is None else b',"classes":' + orjson.dumps(list(signature.classes))
        several = {
            shown[output.name]: list(output.classes)
            for output in signature.outputs
            if output.classes is not None and output.name in self._outputs
        }
        self._end = b',"classes":%b}' % orjson.dumps(several) if several else b"}"
        self._id_templates: dict[int, bytes] = {1: b'"\x00:0"]'}

    # Decoding.

    def decode(self, body: bytes, request_id: str, envelope: Envelope = PLAIN) -> InferRequest:
        """The request in a native body of any of the accepted types; raises RequestError."""
        content_type: str | None = None
        answer: str = JSON
        timeout_s: float | None = None
        if envelope is not PLAIN:
            if envelope.header_length is not None:
                raise InvalidInput("Inference-Header-Content-Length is of V2: send binary tensors to its infer path")
            content_type = envelope.content_type
            answer = JSON if envelope.accept is None else self._answer_type(envelope.accept)
            timeout_s = None if envelope.timeout is None else timeout_of(envelope.timeout)
        if content_type is None or content_type == JSON:
            if self._quick:
                rows = self._decode_quickly(body)
                if rows is not None:
                    return InferRequest(rows.n, self._outputs, request_id, rows, timeout_s=timeout_s, extra=answer)
            batch = self._bodies.read_json(body)
        else:
            batch = self._bodies.read(body, content_type)
        return self._request(batch, request_id, answer, timeout_s)

    def _answer_type(self, accept: str) -> str:
        offers = (JSON,) if self._postprocess else ANSWERS
        answer = negotiate(accept, offers)
        if answer is None:
            raise NotAcceptable(f"Accept {shown(accept)} takes none of what this model answers: {', '.join(offers)}")
        return answer

    def _decode_quickly(self, body: bytes) -> Rows | None:
        """Rows of a body that is certainly good. As many colons as fields: no key is there twice or unknown."""
        try:
            if body.startswith(b"{") and b"[" not in body:
                if self._record is None or body.count(b":") != len(self._names):
                    return None
                return self._plan.from_tuples([msgspec.structs.astuple(self._record.decode(body))])
            if self._quick_rows and not body.startswith(b"[{"):
                return self._decode_rows(body)
            if self._records is None or not body.startswith(b"[{"):
                return None
            records = self._records.decode(body)
            n = len(records)
            if n == 0 or n > self._limits.max_rows or body.count(b":") != n * len(self._names):
                return None
            return self._plan.from_tuples([msgspec.structs.astuple(record) for record in records])
        except json_body.PARSE_ERRORS:
            return None

    def _decode_rows(self, body: bytes) -> Rows | None:
        """A bare list of rows of numbers, or one in an envelope without other members."""
        bare = body.startswith(b"[")
        if body.count(b":") != (0 if bare else 1):
            return None
        width = self._plan.width
        if len(body) >= _BUFFER_FROM_BYTES:
            matrix = json_body.read_numbers(body, _read_rows)
            if matrix is None or body.count(b"[") != len(matrix) + 1:
                return None
        else:
            if bare:
                table: list[list[float]] | None = _bare_rows.decode(body)
            else:
                held = _rows_body.decode(body)
                table = held.batches or held.instances or held.inputs or held.data
            if not table or len(set(map(len, table))) != 1 or not table[0]:
                return None
            matrix = np.array(table)
        if len(matrix) > self._limits.max_rows or (width is not None and matrix.shape[1] != width):
            return None
        return self._plan.from_matrix(matrix)

    def _request(self, batch: Batch, request_id: str, answer: str, timeout_s: float | None) -> InferRequest:
        if batch.timeout is not None:
            timeout_s = timeout_of(batch.timeout)
        records = self._bodies.records_of(batch) if self._preprocess or self._postprocess else None
        return InferRequest(
            batch.n,
            self._outputs,
            request_id,
            None if self._preprocess else self._rows(batch),
            records,
            self._rows_of if self._preprocess else None,
            batch.ids,
            timeout_s,
            self._postprocess,
            answer,
            batch.single,
        )

    def _rows_of(self, records: list[Record]) -> Rows:
        return self._plan.from_records(records, ID_ONLY)

    def _rows(self, batch: Batch) -> Rows:
        if batch.records is not None:
            return self._plan.from_records(batch.records, ID_ONLY)
        if batch.table is not None:
            return self._plan.from_rows(batch.table)
        assert batch.columns is not None
        return self._plan.from_columns(batch.columns, batch.n)

    # Encoding.

    def encode(self, request: InferRequest, outputs: Outputs, shaped: Any = NOT_SHAPED) -> Encoded:
        """The answer as JSON, CSV or Arrow; raises ModelFailed when a value has no place in it.

        NaN and infinite numbers are null in JSON, which has no word for them.
        """
        if shaped is not NOT_SHAPED:
            return dumped(shaped, "postprocess"), JSON, b""
        answer = request.extra
        if answer == CSV:
            return tables.write_csv(self._table(request, outputs)), CSV, b""
        if answer == ARROW:
            return tables.write_arrow(self._table(request, outputs)), ARROW, b""
        quoted_id = orjson.dumps(request.request_id)
        parts = [self._head, quoted_id, b',"ids":[', self._ids(request, quoted_id)]
        for name in request.outputs:
            parts += (b",", self._keys[name], b":", output_json(outputs[name], name))
            if name == "predict_proba":
                parts.append(self._classes)
        parts.append(self._end)
        return b"".join(parts), JSON, b""

    def _ids(self, request: InferRequest, quoted_id: bytes) -> bytes:
        """The ids and their closing bracket."""
        if request.ids is not None:
            return orjson.dumps(request.ids)[1:]
        n = request.n
        template = self._id_templates.get(n)
        if template is None:
            template = b",".join([b'"\x00:%d"' % row for row in range(n)]) + b"]"
            if n <= _TEMPLATE_ROWS and len(self._id_templates) < 256:
                self._id_templates[n] = template
        return template.replace(_ID_PLACE, quoted_id[1:-1])

    def _table(self, request: InferRequest, outputs: Outputs) -> dict[str, Any]:
        """One column per id, prediction, class probability and further output."""
        ids = request.ids or [f"{request.request_id}:{row}" for row in range(request.n)]
        columns: dict[str, Any] = {ID: ids}
        for name in request.outputs:
            array = outputs[name]
            title = {"predict": "prediction", "predict_proba": "probability"}.get(name, name)
            if array.ndim == 1:
                columns[_free(title, columns)] = _cells(array, name)
                continue
            flat = array.reshape(len(array), -1)
            labels: Sequence[Any] = range(flat.shape[1])
            output = self._signature.output(name)
            classes = self._signature.classes if name == "predict_proba" or output is None else output.classes
            if classes is not None and len(classes) == flat.shape[1]:
                labels = classes
            for place, label in enumerate(labels):
                columns[_free(f"{title}_{label}", columns)] = _cells(flat[:, place], name)
        return columns

    def error(self, error: BaseException, request_id: str) -> ErrorAnswer:
        return error_answer(error, request_id)


def _read_rows(document: Any) -> NDArray[np.float64] | None:
    """The matrix of [[…], …] or {"batches": [[…], …]}; the caller counts brackets, since as_buffer flattens."""
    if hasattr(document, "keys"):
        (key,) = document.keys()
        if key not in ENVELOPES:
            return None
        document = document[key]
    n = len(document)
    widths = set(map(len, document))
    flat = np.frombuffer(document.as_buffer(of_type="d"))
    if n == 0 or len(widths) != 1:
        return None
    width = widths.pop()
    return flat.reshape(n, width) if width > 0 and flat.size == n * width else None


def _record_type(signature: Signature) -> type[msgspec.Struct] | None:
    """A struct of the signature's fields; None when the exact way must look at every record.

    msgspec renames no field to what JSON escapes, and that is how a caller would have to write it.
    """
    if not signature.fields or any(map(_ESCAPED.search, signature.names)):
        return None
    fields = [(f"f{place}", _python_type(field)) for place, field in enumerate(signature.fields)]
    rename = {f"f{place}": field.name for place, field in enumerate(signature.fields)}
    return msgspec.defstruct("Record", fields, rename=rename)


def _python_type(field: Field) -> Any:
    plain: dict[str, Any] = {"float": float, "int": int, "bool": bool, "string": str}
    kind = plain.get(field.type, str | int | float | bool)
    if field.type == "string" and field.categories and field.unknown == "refuse":
        texts = tuple(category for category in field.categories if type(category) is str)
        kind = Literal[texts] if len(texts) == len(field.categories) else str | int | float | bool
    return kind | None if field.nullable is True else kind


def _free(title: str, columns: Mapping[str, Any]) -> str:
    """A title that no column has yet."""
    while title in columns:
        title = f"output_{title}"
    return title


def _cells(array: Array, name: str) -> Any:
    """A column of a table; values that are neither numbers nor text become their JSON."""
    if array.dtype != object:
        return array.tolist() if array.dtype.kind in "US" else array
    values = array.tolist()
    if len({type(value) for value in values if value is not None}) > 1 or any(
        isinstance(value, (list, dict, tuple)) for value in values
    ):
        return [value if isinstance(value, str) else dumped(value, f"output '{name}'").decode() for value in values]
    return values


def error_answer(error: BaseException, request_id: str) -> ErrorAnswer:
    """The one shape of all native errors: {"error": {"code", "message", "field", "row", "request_id"}}."""
    body = {
        "error": {
            "code": code_of(error),
            "message": message_of(error),
            "field": getattr(error, "field", None),
            "row": getattr(error, "row", None),
            "request_id": request_id,
        }
    }
    return ErrorAnswer(status_of(error), dumped(body, "error"), error_headers(error))
