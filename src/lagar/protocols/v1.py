"""KServe's V1, which is TensorFlow Serving's row format: `POST /v1/models/NAME:predict`.

`{"instances": [row, …]}` or `{"inputs": …}` → `{"predictions": [answer, …]}`. A row is a list of values, an object, or
a bare value; KServe's own way to write a frame, an object of lists or a list of objects as one instance, gives as many
rows as it has. Source: kserve.protocol.rest.v1_endpoints, kserve.utils.get_predict_input.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from lagar.protocols.bodies import check_json
from lagar.protocols.predictions import Predictions
from lagar.types import Outputs

FORMATS: Final = ("instances", "inputs")
PREDICT: Final = ":predict"
"""What follows a model's name, or its version's, in a prediction path."""


class V1Adapter:
    """V1 in front of one deployment."""

    __slots__ = ("_predictions",)

    def __init__(self, deployment: DeploymentView, limits: Limits | None = None) -> None:
        self._predictions = Predictions(deployment, limits or Limits(), FORMATS)

    def decode(self, body: bytes, request_id: str, envelope: Envelope) -> InferRequest:
        """The request in a V1 body; raises RequestError."""
        timeout_s = None if envelope.timeout is None else timeout_of(envelope.timeout)
        given = envelope.content_type
        if given is not None and given != JSON:
            check_json(body, parse_media_type(given), given, JSON)
        request = self._predictions.certainly_good(body, request_id, timeout_s)
        if request is not None:
            return request
        value = json_body.parse(body)
        if type(value) is not dict:
            raise InvalidInput(f"the body must be an object with 'instances' or 'inputs', got {shown(value)}")
        found = [key for key in FORMATS if key in value]
        if len(found) != 1:
            got = "both" if found else ", ".join(map(str, list(value)[:10])) or "neither"
            raise InvalidInput(f"the body must have either 'instances' or 'inputs', got {got}", field="instances")
        key = found[0]
        rows = value[key]
        if type(rows) is list:
            rows = _flat(key, rows)
        elif type(rows) is not dict or key == "instances":
            raise InvalidInput(f"'{key}' must be a list of rows, got {shown(rows)}", field=key)
        batch = self._predictions.rows_under(key, rows)
        return self._predictions.request(batch, value.get("parameters"), request_id, timeout_s)

    def encode(self, request: InferRequest, outputs: Outputs, shaped: Any = NOT_SHAPED) -> Encoded:
        """`{"predictions": […]}`."""
        return self._predictions.encode(request, outputs)

    def error(self, error: BaseException, request_id: str) -> ErrorAnswer:
        return error_answer(error, request_id)


def _flat(key: str, instances: list[Any]) -> list[Any]:
    """One item per row, where an instance may be a frame of several: `{"a": [1, 2]}` or `[{"a": 1}, {"a": 2}]`."""
    if not any(_is_frame(instance) for instance in instances[:1]):
        return instances
    rows: list[Any] = []
    for place, instance in enumerate(instances):
        if not _is_frame(instance):
            raise InvalidInput(
                f"{key}[{place}] must be a frame as {key}[0] is, got {shown(instance)}", field=key, row=len(rows)
            )
        rows.extend(instance if type(instance) is list else _records(key, place, instance))
    return rows


def _is_frame(instance: Any) -> bool:
    if type(instance) is dict:
        return bool(instance) and all(type(value) is list for value in instance.values())
    return type(instance) is list and bool(instance) and all(type(item) is dict for item in instance)


def _records(key: str, place: int, frame: dict[str, list[Any]]) -> list[dict[str, Any]]:
    if len(set(map(len, frame.values()))) != 1:
        raise InvalidInput(f"the lists of {key}[{place}] must be of one length, one value per row", field=key)
    return [dict(zip(frame, values, strict=True)) for values in zip(*frame.values(), strict=True)]


def error_answer(error: BaseException, request_id: str) -> ErrorAnswer:
    """`{"error": "message"}` with the status of the error."""
    status = status_of(error)
    message = message_of(error)
    if status == 500:
        message = f"{message} (request {request_id})"
    return ErrorAnswer(status, orjson.dumps({"error": message}), error_headers(error))


def models_list(names: Sequence[str]) -> bytes:
    """What GET /v1/models says."""
    return orjson.dumps({"models": list(names)})


def model_ready(name: str) -> bytes:
    """What GET /v1/models/NAME says of a model that answers."""
    return orjson.dumps({"name": name, "ready": True})
