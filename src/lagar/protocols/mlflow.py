"""The protocol of `mlflow models serve`: `POST /invocations`, which is also SageMaker's and, by its route, Vertex AI's.

Bodies are JSON with one of `dataframe_split`, `dataframe_records`, `instances` and `inputs`, or CSV, Parquet or Arrow.
Source: mlflow.pyfunc.scoring_server of MLflow 3.17. What it alters without a word (text becomes a number, 2.5 becomes
2) is refused here, and a model's own failure is a 500, not a 400: docs/mlflow.md.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from lagar.errors import InvalidInput
from lagar.protocols import json_body
from lagar.protocols.base import (
    JSON,
    NOT_SHAPED,
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
from lagar.protocols.bodies import ARROW, CSV, PARQUET, Batch, check_json
from lagar.protocols.plain_rows import SPLIT
from lagar.protocols.predictions import Predictions
from lagar.types import Outputs

RECORDS: Final = "dataframe_records"
INSTANCES, INPUTS = "instances", "inputs"
FORMATS: Final = (SPLIT, RECORDS, INSTANCES, INPUTS)
_TAKEN: Final = f"{JSON}, {CSV}, {PARQUET} or {ARROW}"
_SPLIT_KEYS: Final = frozenset({"columns", "data", "index"})

ERROR_CODES: Final[dict[int, str]] = {
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "RESOURCE_DOES_NOT_EXIST",
    429: "REQUEST_LIMIT_EXCEEDED",
    500: "INTERNAL_ERROR",
    503: "TEMPORARILY_UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""HTTP status → MLflow's name for it; BAD_REQUEST for every other, but a value that breaks the signature."""


class MlflowAdapter:
    """`/invocations` in front of one deployment."""

    __slots__ = ("_names", "_predictions")

    def __init__(self, deployment: DeploymentView, limits: Limits | None = None) -> None:
        self._names = list(deployment.signature.names)
        self._predictions = Predictions(deployment, limits or Limits(), (INSTANCES, INPUTS), (RECORDS,))

    def decode(self, body: bytes, request_id: str, envelope: Envelope) -> InferRequest:
        """The request in a body of any of the accepted types; raises RequestError."""
        timeout_s = None if envelope.timeout is None else timeout_of(envelope.timeout)
        given = envelope.content_type
        batch, params = None, None
        if given is not None and given != JSON:
            media = parse_media_type(given)
            batch = self._predictions.reader.read_table(body, media)
            if batch is None:
                check_json(body, media, given, _TAKEN)
        if batch is None:
            request = self._predictions.certainly_good(body, request_id, timeout_s)
            if request is not None:
                return request
            batch, params = self._read_json(body)
        return self._predictions.request(batch, params, request_id, timeout_s)

    def _read_json(self, body: bytes) -> tuple[Batch, Any]:
        """The rows and the params of a JSON body. Members of other names are passed over, as MLflow does."""
        value = json_body.parse_with_nan(body)
        wanted = f"an object with exactly one of {', '.join(FORMATS)}"
        if type(value) is not dict:
            raise InvalidInput(f"the body must be {wanted}, got {shown(value)}")
        found = [key for key in FORMATS if key in value]
        if len(found) != 1:
            got = ", ".join(found) or ", ".join(map(str, list(value)[:10])) or "none"
            raise InvalidInput(f"the body must be {wanted}, got {got}")
        key = found[0]
        params = value.get("params")
        if value.get("parameters") is not None:  # Vertex AI's word
            if params is not None:
                raise InvalidInput("the body has both 'params' and 'parameters': send them once", field="params")
            params = value["parameters"]
        return self._batch(key, value[key]), params

    def _batch(self, key: str, rows: Any) -> Batch:
        reader = self._predictions.reader
        if key == RECORDS:
            if type(rows) is not list or not all(type(row) is dict for row in rows):
                raise InvalidInput(f"'{key}' must be a list of objects, got {shown(rows)}", field=key)
            return reader.from_list(rows)
        if key != SPLIT:
            return self._predictions.rows_under(key, rows)
        if type(rows) is not dict or "data" not in rows or set(rows) - _SPLIT_KEYS:
            raise InvalidInput(
                f"'{key}' must be an object with 'data', and 'columns' and 'index' where there are any, got"
                f" {shown(list(rows) if type(rows) is dict else rows)}",
                field=key,
            )
        names = rows.get("columns")
        if type(names) is list and names and all(type(name) is int for name in names):
            # A frame without names of its own: pandas counts its columns.
            rows = {**rows, "columns": [str(name) for name in names]}
        data, index = rows["data"], rows.get("index")
        in_order = names == self._names and type(data) is list and set(map(type, data)) == {list}
        if in_order and (index is None or (type(index) is list and len(index) == len(data))):
            return reader.from_list(data)  # no need to turn the table
        return reader.from_split(rows, "data")

    def encode(self, request: InferRequest, outputs: Outputs, shaped: Any = NOT_SHAPED) -> Encoded:
        """`{"predictions": …}` in JSON, whatever the request was."""
        return self._predictions.encode(request, outputs)

    def error(self, error: BaseException, request_id: str) -> ErrorAnswer:
        return error_answer(error, request_id)


def error_answer(error: BaseException, request_id: str) -> ErrorAnswer:
    """`{"error_code": …, "message": …}` with the status of the error."""
    status = status_of(error)
    message = message_of(error)
    if status == 500:
        message = f"{message} (request {request_id})"
    code = "INVALID_PARAMETER_VALUE" if isinstance(error, InvalidInput) else ERROR_CODES.get(status, "BAD_REQUEST")
    return ErrorAnswer(status, orjson.dumps({"error_code": code, "message": message}), error_headers(error))
