"""Between the wire and the engine: one endpoint per version and protocol, for the fast lane and the ASGI lane alike.

Both lanes open calls, encode answers and refuse with the same three methods, so they cannot come to differ.
"""

from __future__ import annotations

import time
from typing import Any, cast

import msgspec

from lagar.engine.batcher import Call, Sink
from lagar.engine.deployment import Deployment
from lagar.errors import RequestError
from lagar.protocols.base import NOT_SHAPED, Adapter, Encoded, Envelope, ErrorAnswer, InferRequest
from lagar.server.auth import Gate
from lagar.server.heads import Head
from lagar.types import Outputs, Rows

Headers = list[tuple[bytes, bytes]]

OFF_LOOP_ROWS = 8192
"""Answers of more rows are encoded in a thread: a hundred thousand take 50 ms."""

_REASONS = {
    "invalid_input": "invalid", "invalid_json": "invalid", "payload_too_large": "too_large",
    "unauthorized": "unauthorized", "forbidden": "forbidden", "unsupported_media_type": "media_type",
    "not_acceptable": "media_type",
}  # fmt: skip


class Endpoint:
    """Predictions of one version in one protocol."""

    def __init__(
        self, deployment: Deployment, adapter: Adapter, protocol: str, *, gate: Gate, request_timeout_s: float
    ) -> None:
        self.deployment = deployment
        self.protocol = protocol
        self._adapter = adapter
        self._gate = gate
        self._timeout_s = request_timeout_s
        self._wants_headers = deployment.signature.whole

    def open(self, body: bytes | memoryview, head: Head, request_id: str, sink: Sink, received: float) -> Call:
        """The call of a hot request; raises RequestError.

        A view of the body is only for adapters that read tensors behind the JSON, and their header is there.
        """
        self._gate.check_prediction(head.authorization)
        envelope = head.envelope
        if self._wants_headers:
            envelope = msgspec.structs.replace(envelope, headers=head.headers)
        return self.call(self._adapter.decode(cast(bytes, body), request_id, envelope), sink, received)

    @property
    def retired(self) -> bool:
        """True once the version gets no new request."""
        return self.deployment.retired

    def admits(self, head: Head) -> bool:
        """Whether a hot request's key is good, before its body is there."""
        try:
            self._gate.check_prediction(head.authorization)
        except RequestError:
            return False
        return True

    def decode(self, body: bytes, request_id: str, envelope: Envelope) -> InferRequest:
        """The decoded request of the ASGI lane; raises RequestError."""
        return self._adapter.decode(body, request_id, envelope)

    def call(self, request: InferRequest, sink: Sink, received: float) -> Call:
        """The engine's call of a decoded request."""
        self.deployment.reading_ns.add(int((time.perf_counter() - received) * 1e9))
        timeout_s = self._timeout_s
        if request.timeout_s is not None and request.timeout_s < timeout_s:
            timeout_s = request.timeout_s
        call = Call(
            self.deployment,
            request.outputs,
            request.n,
            sink,
            rows=request.rows,
            request=request,
            received=received,
            deadline=received + timeout_s,
        )
        if self.deployment.handlers is not None:
            self._add_hooks(call, request)
        return call

    def _add_hooks(self, call: Call, request: InferRequest) -> None:
        handlers = self.deployment.handlers
        assert handlers is not None
        records = request.records or []
        if request.rows is None and request.rows_of is not None:
            rows_of = request.rows_of

            def prepare() -> Rows:
                return rows_of(handlers.preprocess(records))

            call.prepare = prepare
        if request.postprocess:

            def shape(outputs: Outputs) -> Any:
                lists = {name: array.tolist() for name, array in outputs.items()}
                return handlers.postprocess(lists, records, request.single)

            call.shape = shape

    def encode(self, call: Call) -> Encoded:
        """The answer of a call that succeeded."""
        assert call.result is not None
        return self._adapter.encode(call.request, call.result, NOT_SHAPED if call.shape is None else call.shaped)

    def refuse(self, error: BaseException, request_id: str) -> tuple[int, Headers, bytes]:
        """Status, headers and body of an error; content-length and date are the server's."""
        return written(self._adapter.error(error, request_id), request_id)

    def count(self, error: BaseException | None, status: int) -> None:
        """Count one answer of this endpoint."""
        deployment = self.deployment
        deployment.count_answer(self.protocol, status)
        if isinstance(error, RequestError) and (reason := _REASONS.get(error.code)) is not None:
            deployment.count_rejection(reason)


def header_pairs(lines: bytes) -> Headers:
    """The header lines of an adapter as ASGI has them."""
    pairs = [line.partition(b": ") for line in lines.split(b"\r\n")[:-1]]
    return [(name, value) for name, _, value in pairs]


def written(answer: ErrorAnswer, request_id: str) -> tuple[int, Headers, bytes]:
    """An error as the server writes it."""
    headers = [
        (b"content-type", answer.content_type.encode("ascii")),
        (b"x-request-id", request_id.encode("ascii")),
        *((name.encode("ascii"), value.encode("latin-1")) for name, value in answer.headers),
    ]
    return answer.status, headers, answer.body
