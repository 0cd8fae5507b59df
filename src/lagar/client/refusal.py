"""The errors of a server, as the classes that they have inside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from lagar import errors
from lagar.errors import LagarError, MethodNotAllowed, RequestError, SetupError
from lagar.registry.answers import Told


class _Body(msgspec.Struct):
    error: Told


_body = msgspec.json.Decoder(_Body)
_BY_STATUS: Final = {
    401: errors.Unauthorized, 403: errors.Forbidden, 404: errors.NotFound, 413: errors.PayloadTooLarge,
    429: errors.Overloaded, 502: errors.NotReady, 503: errors.NotReady, 504: errors.DeadlineExceeded,
}  # fmt: skip
"""What an answer means that is not one of Lagar's: a proxy's before it."""


def _tree(kind: type[LagarError]) -> Iterator[type[LagarError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _tree(below)


def refusal(status: int, headers: Mapping[str, str], body: bytes) -> LagarError:
    """The error of an answer that is not a success: of the class with its code, else by its status."""
    try:
        told = _body.decode(body).error
    except msgspec.MsgspecError:
        text = " ".join(body[:200].decode("utf-8", "replace").split())
        told = Told(message=f"the server answered {status}{f': {text}' if text else ''}")
    return from_facts(told, status, headers)


def from_facts(told: Told, status: int, headers: Mapping[str, str]) -> LagarError:
    """The error that the members of a native error body describe."""
    kind = next((kind for kind in _tree(LagarError) if told.code and kind.code == told.code), None)
    if kind is None:
        kind = _BY_STATUS.get(status, RequestError if status < 500 else LagarError)
    error: LagarError
    if issubclass(kind, MethodNotAllowed):
        error = kind(told.message, allow=headers.get("allow", ""))
    elif issubclass(kind, RequestError):
        retry = retry_after(headers)
        error = kind(told.message, field=told.field, row=told.row, retry_after_s=retry)
    elif issubclass(kind, errors.Refused):
        error = kind(told.step or "", told.message)
    elif issubclass(kind, SetupError):
        error = kind(told.message)
    else:
        error = LagarError(told.message)
    error.request_id = told.request_id or headers.get("x-request-id")
    return error


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds of a Retry-After header; None without one, or with a date."""
    try:
        return max(0.0, float(headers["retry-after"]))
    except (KeyError, ValueError):
        return None
