"""The native protocol: records, rows and tables in; predictions with class names out.

As in V2, a quick way takes the bodies that are certainly good (a record, a list of records, a matrix of numbers) and
everything else goes the exact way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from lagar.errors import InvalidInput, NotAcceptable
from lagar.protocols import tables
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
from lagar.protocols.plain_rows import PlainRows
from lagar.registry.signature import answer_names
from lagar.types import Array, Outputs, Record, Rows

ANSWERS: Final = (JSON, CSV, ARROW)
_ID_PLACE: Final = b"\x00"
_TEMPLATE_ROWS: Final = 1024


class NativeAdapter:
    """The native protocol in front of one deployment."""

    __slots__ = (
        "_bodies",
        "_classes",
        "_end",
        "_enveloped",
        "_head",
        "_id_templates",
        "_keys",
        "_limits",
        "_names",
        "_outputs",
        "_plain",
        "_plan",
        "_postprocess",
        "_preprocess",
        "_quick",
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
        self._enveloped = not set(ENVELOPES).intersection(signature.names)
        self._plain = PlainRows(signature, self._plan, self._limits, ENVELOPES)
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
        """Rows of a body that is certainly good."""
        rows = self._plain.bare(body)
        return self._plain.in_member(body) if rows is None and self._enveloped else rows

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
