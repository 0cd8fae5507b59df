"""What every protocol shares: the decoded request, the adapter's shape, status codes and media types.

An adapter is made once per deployment, when the deployment is loaded, and compiles what it can: the record decoder of
the signature, the constant parts of the answer. It knows no model and no socket: bytes in, `InferRequest` out; outputs
in, bytes out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import msgspec

from lagar.errors import InvalidInput, LagarError, MethodNotAllowed, RequestError
from lagar.registry.signature import Signature
from lagar.types import Handlers, Outputs, Record, Rows

JSON: Final = "application/json"
OCTETS: Final = "application/octet-stream"
"""Of V2 bodies with tensors behind their JSON."""


class _NotShaped:
    __slots__ = ()

    def __repr__(self) -> str:
        return "NOT_SHAPED"


NOT_SHAPED: Final = _NotShaped()
"""Stands for "no postprocess ran": None is an answer that a postprocess may give."""


class DeploymentView(Protocol):
    """What an adapter reads of the engine's deployment."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def signature(self) -> Signature: ...
    @property
    def handlers(self) -> Handlers | None: ...
    @property
    def native_outputs(self) -> tuple[str, ...]: ...


class Limits(msgspec.Struct, frozen=True):
    """Bounds on one decoded request, from the server's settings."""

    max_rows: int = 100_000
    max_decoded_bytes: int = 256 * 1024 * 1024
    """Of Arrow and Parquet bodies once decompressed."""


class InferRequest(msgspec.Struct, eq=False):
    """A decoded request that knows no wire format.

    With a preprocess, `rows` is None and the engine, in the model's thread, calls
    `request.rows_of(handlers.preprocess(request.records))`. `records` are the caller's own, as sent; they are there
    when the deployment has a preprocess, or a postprocess that this request wants.
    """

    n: int
    """Rows."""
    outputs: tuple[str, ...]
    """Output names to ask the model for."""
    request_id: str
    rows: Rows | None = None
    records: list[Record] | None = None
    rows_of: Callable[[list[Record]], Rows] | None = None
    """Turns preprocessed records into rows; raises InvalidInput."""
    ids: list[str] | None = None
    """One per row, as the caller gave them; None: REQUEST_ID:ROW."""
    timeout_s: float | None = None
    """What the caller asked for; the server's own deadline still bounds it."""
    postprocess: bool = False
    """The engine runs handlers.postprocess(outputs, records) and hands the result to `encode` as `shaped`."""
    extra: Any = None
    """The adapter's own, for encode."""
    single: bool = False
    """The body was one record by itself: a postprocess may answer it with one value instead of a list."""


class Envelope(msgspec.Struct, frozen=True):
    """What stands around a body: the headers that an adapter reads, as text."""

    content_type: str | None = None
    accept: str | None = None
    timeout: str | None = None
    """Seconds."""
    header_length: str | None = None
    """Inference-Header-Content-Length: how many bytes of the body are V2's JSON, before the tensors."""
    headers: Sequence[tuple[bytes, bytes]] = ()
    """All of them, names in lower case; on the fast lane for models that take whole requests only."""


PLAIN: Final = Envelope()
"""JSON, without a word about the answer."""

Encoded = tuple[bytes, str, bytes]
"""The body of an answer, its content type, and further header lines as they go out, each with its line end."""


class Adapter(Protocol):
    """One wire format in front of one deployment."""

    def decode(self, body: bytes, request_id: str, envelope: Envelope) -> InferRequest:
        """The request in `body`; raises RequestError."""
        ...

    def encode(self, request: InferRequest, outputs: Outputs, shaped: Any = NOT_SHAPED) -> Encoded:
        """The answer for the outputs of exactly this request's rows."""
        ...

    def error(self, error: BaseException, request_id: str) -> ErrorAnswer:
        """The answer for an error of decode, of the engine or of encode."""
        ...


class ErrorAnswer(msgspec.Struct, frozen=True):
    """Status, extra headers and body of an answer that is an error."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    """Retry-After, Allow, WWW-Authenticate; content type and length are the server's."""
    content_type: str = JSON


STATUS: Final[dict[str, int]] = {
    "bad_request": 400,
    "invalid_input": 400,
    "invalid_json": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "not_acceptable": 406,
    "request_timeout": 408,
    "payload_too_large": 413,
    "unsupported_media_type": 415,
    "overloaded": 429,
    "headers_too_large": 431,
    "model_failed": 500,
    "internal": 500,
    "not_ready": 503,
    "deadline_exceeded": 504,
}
"""Error code → HTTP status, for every protocol over HTTP."""

_RETRY_AFTER_S: Final[dict[str, int]] = {"overloaded": 1, "not_ready": 5}
"""When the error itself does not say; a full queue empties faster than a model loads."""

_INTERNAL: Final = "The server failed in a way it did not foresee; its log has the details under this request's id"


def status_of(error: BaseException) -> int:
    """The HTTP status of an error; 500 for everything that is not meant for a caller."""
    return STATUS[error.code] if isinstance(error, RequestError) else 500


def code_of(error: BaseException) -> str:
    return error.code if isinstance(error, RequestError) else LagarError.code


def message_of(error: BaseException) -> str:
    """What a caller may read: the text of an unforeseen exception stays in the log."""
    return error.message if isinstance(error, RequestError) else _INTERNAL


def error_headers(error: BaseException) -> tuple[tuple[str, str], ...]:
    """The headers that belong to an error: Retry-After in whole seconds, Allow, WWW-Authenticate."""
    if not isinstance(error, RequestError):
        return ()
    headers: list[tuple[str, str]] = []
    retry_after = error.retry_after_s if error.retry_after_s is not None else _RETRY_AFTER_S.get(error.code)
    if retry_after is not None:
        headers.append(("retry-after", str(max(1, math.ceil(retry_after)))))
    if isinstance(error, MethodNotAllowed):
        headers.append(("allow", error.allow))
    if error.code == "unauthorized":
        headers.append(("www-authenticate", 'Bearer realm="lagar"'))
    return tuple(headers)


def timeout_of(value: Any) -> float:
    """Seconds from a `timeout` header, query or parameter; raises InvalidInput unless it is a number above 0."""
    seconds: float | None = None
    if isinstance(value, str):
        try:
            seconds = float(value)
        except ValueError:
            seconds = None
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            seconds = float(value)
        except OverflowError:
            seconds = None
    if seconds is None or not 0 < seconds < math.inf:
        raise InvalidInput(f"timeout must be a number of seconds above 0, got {shown(value)}", field="timeout")
    return seconds


def shown(value: Any, limit: int = 60) -> str:
    """A caller's value as it may stand in a message: JSON-like and short."""
    try:
        if isinstance(value, int) and abs(value) >= 1 << 256:  # str() of a huge int is quadratic, and refused
            return "a very large whole number"
        text = msgspec.json.encode(value).decode()
    except Exception:
        text = type(value).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"


class MediaType(msgspec.Struct, frozen=True):
    """A parsed Content-Type: `essence` is type/subtype in lower case."""

    essence: str
    charset: str | None = None


def parse_media_type(text: str) -> MediaType:
    """The media type of a Content-Type header; the essence is "" when there is no type/subtype in it."""
    parts = text.split(";")
    essence = parts[0].strip().lower()
    kind, _, sub = essence.partition("/")
    if not kind or not sub or " " in essence or "/" in sub:
        return MediaType("")
    charset = None
    for part in parts[1:]:
        key, _, value = part.partition("=")
        if key.strip().lower() == "charset":
            charset = value.strip().strip('"').lower()
    return MediaType(essence, charset)


def _accept_ranges(accept: str) -> list[tuple[str, float]]:
    """(media range, q) of an Accept header; a malformed q counts as 1, as most servers read it."""
    ranges: list[tuple[str, float]] = []
    for item in accept.split(","):
        head, *params = item.split(";")
        media = head.strip().lower()
        if not media:
            continue
        quality = 1.0
        for param in params:
            key, _, value = param.partition("=")
            if key.strip().lower() == "q":
                try:
                    quality = min(1.0, max(0.0, float(value.strip())))
                except ValueError:
                    quality = 1.0
        ranges.append((media, quality))
    return ranges


def negotiate(accept: str | None, offers: Sequence[str]) -> str | None:
    """The offer that an Accept header prefers, the earlier one on a tie; None when it takes none of them.

    Source: RFC 9110 §12.5.1; the most specific range that matches an offer decides its quality.
    """
    if accept is None or not accept.strip():
        return offers[0]
    ranges = _accept_ranges(accept)
    best, best_quality = None, 0.0
    for offer in offers:
        kind = offer.partition("/")[0]
        quality, specificity = 0.0, -1
        for media, q in ranges:
            level = 2 if media == offer else 1 if media == f"{kind}/*" else 0 if media == "*/*" else -1
            if level > specificity or (level == specificity and level >= 0 and q > quality):
                quality, specificity = q, level
        if quality > best_quality:
            best, best_quality = offer, quality
    return best
