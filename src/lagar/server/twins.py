"""Methods of gRPC that do what a route over HTTP does: they ask that route, in this process.

So there is one implementation and one check of keys; what is said here is how a message becomes a request, and the
answer a message.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import orjson

from lagar.errors import (
    DeadlineExceeded,
    Forbidden,
    InvalidInput,
    ModelFailed,
    NotFound,
    NotReady,
    Overloaded,
    RequestError,
    Unauthorized,
)
from lagar.protocols import grpc
from lagar.server.asgi import App
from lagar.server.exchange import Message as AsgiMessage
from lagar.server.streams import Stream

_ERRORS: Final[dict[int, type[RequestError]]] = {
    401: Unauthorized, 403: Forbidden, 404: NotFound, 429: Overloaded, 503: NotReady, 504: DeadlineExceeded,
}  # fmt: skip

Asked = dict[str, Any]
"""A decoded message."""


def _nothing(asked: Asked) -> bytes:
    return b""


def _as_it_is(asked: Asked, body: Any) -> dict[str, Any]:
    answer: dict[str, Any] = body
    return answer


@dataclass(frozen=True, slots=True)
class Twin:
    """A route, and the way there and back."""

    method: str
    path: Callable[[Asked], str]
    answer: Callable[[Asked, Any], dict[str, Any]] = _as_it_is
    """(message, the route's JSON) → the answer's fields."""
    body: Callable[[Asked], bytes] = _nothing

    @property
    def route(self) -> tuple[str, str]:
        """What says which key is needed."""
        return self.method, self.path({"name": "any", "model_name": "any"})


def _model(suffix: str) -> Callable[[Asked], str]:
    def path(asked: Asked) -> str:
        name, version = asked.get("name", ""), asked.get("version", "")
        if not name:
            raise InvalidInput("'name' is missing: the name of the model", field="name")
        return f"/v2/models/{name}{f'/versions/{version}' if version else ''}{suffix}"

    return path


def _statistics(asked: Asked) -> str:
    return _model("/stats")(asked) if asked.get("name") else "/v2/models/stats"


def _stored(suffix: str) -> Callable[[Asked], str]:
    def path(asked: Asked) -> str:
        return f"/v2/repository/models/{_stored_name(asked)}/{suffix}"

    return path


def _stored_name(asked: Asked) -> str:
    """KServe's client has the name in the first field, where the others have that of a repository."""
    name: str = asked.get("model_name") or asked.get("repository_name", "")
    if not name:
        raise InvalidInput("'model_name' is missing", field="model_name")
    return name


def _metadata(asked: Asked, body: Any) -> dict[str, Any]:
    for tensor in (*body["inputs"], *body["outputs"]):
        tensor["parameters"] = grpc.parameters(tensor.get("parameters") or {})
    return _as_it_is(asked, body)


def _parameters(asked: Asked) -> bytes:
    """The body of a load or an unload."""
    given = {name: next(iter(choice.values()), None) for name, choice in asked.get("parameters", {}).items()}
    files = [name for name, value in given.items() if isinstance(value, bytes)]
    if files:
        raise InvalidInput(f"parameter '{files[0]}' is a file: a version is pushed, see `lagar push`", field=files[0])
    return orjson.dumps({"parameters": given}) if given else b""


TWINS: Final[dict[str, Twin]] = {
    "ModelReady": Twin("GET", _model("/ready"), lambda _, body: {"ready": True}),
    "ServerMetadata": Twin("GET", lambda _: "/v2"),
    "ModelMetadata": Twin("GET", _model(""), _metadata),
    "ModelConfig": Twin("GET", _model("/config"), lambda _, body: {"config": body}),
    "ModelStatistics": Twin("GET", _statistics),
    "RepositoryIndex": Twin(
        "POST",
        lambda _: "/v2/repository/index",
        lambda _, body: {"models": body},
        lambda asked: orjson.dumps({"ready": asked.get("ready", False)}),
    ),
    "RepositoryModelLoad": Twin(
        "POST",
        _stored("load"),
        lambda asked, _: {"model_name": _stored_name(asked), "isLoaded": True},
        _parameters,
    ),
    "RepositoryModelUnload": Twin(
        "POST",
        _stored("unload"),
        lambda asked, _: {"model_name": _stored_name(asked), "isUnloaded": True},
        _parameters,
    ),
}
"""Method → its twin, in both services that have it."""


async def ask(app: App, twin: Twin, asked: Asked, stream: Stream) -> dict[str, Any]:
    """The answer of a method as its twin gives it; raises RequestError with the twin's words."""
    body = twin.body(asked)
    headers = [*stream.head.authorization, (b"content-length", b"%d" % len(body))]
    if body:
        headers.append((b"content-type", b"application/json"))
    path = twin.path(asked)
    scope = {
        "type": "http", "method": twin.method, "path": path, "raw_path": path.encode(), "query_string": b"",
        "headers": headers, "scheme": "http", "client": stream.connection.peer,
        "state": {"request_id": stream.request_id},
    }  # fmt: skip
    status, parts = 0, []

    async def receive() -> AsgiMessage:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: AsgiMessage) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        else:
            parts.append(message.get("body", b""))

    await app(scope, receive, send)
    given = orjson.loads(b"".join(parts) or b"null")
    if status < 300:
        return twin.answer(asked, given)
    words = given.get("error") if isinstance(given, dict) else None
    kind = _ERRORS.get(status, InvalidInput if status < 500 else ModelFailed)
    raise kind(words if isinstance(words, str) else f"the server answered {status}")
