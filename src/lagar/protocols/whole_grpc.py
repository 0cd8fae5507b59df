"""ModelInfer for models that take whole requests: the message's members are what the model gets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from lagar.protocols import blobs, grpc, whole
from lagar.protocols.base import NOT_SHAPED, PLAIN, DeploymentView, Encoded, Envelope, ErrorAnswer, InferRequest, Limits
from lagar.protocols.protobuf import dimensions, of_double, of_length, of_number
from lagar.protocols.v2 import error_answer
from lagar.runtimes.mlserver import ANSWER, answer_of
from lagar.types import Outputs

_PARAMETERS: Final = 4
_OUTPUTS, _RAW = 5, 6


class WholeGrpcAdapter:
    """ModelInfer in front of one deployment whose model takes whole requests."""

    __slots__ = ("_head", "_model")

    def __init__(self, deployment: DeploymentView, limits: Limits | None = None) -> None:
        del limits  # of rows: a whole request has none
        self._model = deployment.name
        self._head = of_length(1, deployment.name.encode()) + of_length(2, deployment.version.encode())

    def decode(self, body: bytes, request_id: str, envelope: Envelope = PLAIN) -> InferRequest:
        """The request in a ModelInferRequest; raises RequestError."""
        asked = grpc.read(body, plain=True)
        for tensor in asked["inputs"]:
            if isinstance(tensor["data"], np.ndarray):
                tensor["data"] = tensor["data"].tolist()
        request = whole.request_of(asked, request_id)
        request.extra = asked["raw"]
        return request

    def encode(self, request: InferRequest, outputs: Outputs, shaped: Any = NOT_SHAPED) -> Encoded:
        """The model's answer as a ModelInferResponse, raw when the request was; raises RequestError as REST's does."""
        answer = answer_of(outputs[ANSWER][0], self._model)
        parts = [self._head, of_length(3, (answer["id"] or request.request_id).encode())]
        parts += _parameters(_PARAMETERS, answer["parameters"])
        blobs_written: list[bytes] = []
        for output in answer["outputs"]:
            datatype, values = output["datatype"], whole.flat(output)
            contents = b""
            if request.extra:
                blobs_written.append(blobs.write(datatype, values))
            elif datatype == "BYTES":
                contents = of_length(5, b"".join([of_length(8, _bytes(value)) for value in values]))
            else:
                datatype, contents = grpc.typed(datatype, values)
            described = of_length(1, output["name"].encode()) + of_length(2, datatype.encode())
            described += of_length(3, dimensions(output["shape"])) + b"".join(_parameters(4, output["parameters"]))
            parts.append(of_length(_OUTPUTS, described + contents))
        parts += [of_length(_RAW, blob) for blob in blobs_written]
        return b"".join(parts), "application/grpc", b""

    def error(self, error: BaseException, request_id: str) -> ErrorAnswer:
        return error_answer(error, request_id)


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else b"" if value is None else str(value).encode()


def _parameters(number: int, given: Mapping[str, Any]) -> list[bytes]:
    """Entries of a map of InferParameters; what has no place in one is left out."""
    entries = []
    for name, value in given.items():
        if isinstance(value, bool):
            written = of_number(1, int(value))
        elif isinstance(value, int):
            written = of_number(2, value % (1 << 64))
        elif isinstance(value, str):
            written = of_length(3, value.encode())
        elif isinstance(value, float):
            written = of_double(4, value)
        else:
            continue
        entries.append(of_length(number, of_length(1, name.encode()) + of_length(2, written)))
    return entries
