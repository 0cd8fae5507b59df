"""What control answers below `/v2`: statistics, the repository, and the documentation of the V2 paths."""

from __future__ import annotations

import asyncio
from typing import Any, Final, TypeVar

import msgspec
import orjson
from fastapi import FastAPI, Request
from starlette.responses import Response

from lagar.control.models import MAX_BODY_BYTES, who_asked
from lagar.control.openapi import v2_document
from lagar.control.pages import Pages
from lagar.control.repository import Repository
from lagar.control.state import ControlState
from lagar.control.statistics import Key, statistics
from lagar.errors import InvalidInput, NotFound, NotReady

_LOOK: Final[dict[str, Any]] = {"methods": ["GET", "HEAD"]}
_MODELS: Final = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
_TAKEN: Final = {"load": ("version",), "unload": ("unload_dependents",)}
"""The parameters that each takes; `unload_dependents` has no effect, since no model here depends on another."""


class IndexBody(msgspec.Struct):
    """Which versions are asked for."""

    ready: bool = False
    """Only those that answer."""


class RepositoryBody(msgspec.Struct, forbid_unknown_fields=True):
    """The parameters of a load or an unload."""

    parameters: dict[str, Any] = {}


_index: Final = msgspec.json.Decoder(IndexBody)
_change: Final = msgspec.json.Decoder(RepositoryBody)
T = TypeVar("T")


def add_v2(app: FastAPI, state: ControlState, pages: Pages, policy: str) -> None:
    """Mount the V2 paths; `policy` is the Content-Security-Policy of the documentation."""
    _add_statistics(app, state)
    _add_repository(app, state)
    _add_docs(app, state, pages, policy)


def _add_statistics(app: FastAPI, state: ControlState) -> None:
    @app.api_route("/v2/models/stats", **_LOOK)
    def all_statistics() -> Response:
        return _json(statistics(state.metrics_dir, [(info.name, info.version) for info in state.models]))

    for path in _MODELS:

        @app.api_route(f"{path}/stats", **_LOOK)
        def model_statistics(model: str, version: str | None = None) -> Response:
            return _json(statistics(state.metrics_dir, _keys(state, model, version)))


def _keys(state: ControlState, model: str, version: str | None) -> list[Key]:
    """The loaded versions that a path means; raises NotFound."""
    keys = [(info.name, info.version) for info in state.versions(model) if version in (None, info.version)]
    if not keys:
        raise NotFound(f"Model {model}{'' if version is None else f' with version {version}'} not found")
    return keys


def _add_repository(app: FastAPI, state: ControlState) -> None:
    @app.post("/v2/repository/index")
    async def index(request: Request) -> Response:
        body = await _body(request, _index)
        entries = await asyncio.to_thread(_repository(state).index)
        return _json([msgspec.to_builtins(entry) for entry in entries if entry.state == "READY" or not body.ready])

    @app.post("/v2/repository/models/{model}/load")
    async def load(request: Request, model: str) -> Response:
        version = (await _parameters(request, "load")).get("version")
        if version is not None and not isinstance(version, str):
            raise InvalidInput(f"the parameter 'version' must be a text, got {str(version)[:80]!r}", field="version")
        await _repository(state).load(model, version, await who_asked(request, state))
        return Response(b"")

    @app.post("/v2/repository/models/{model}/unload")
    async def unload(request: Request, model: str) -> Response:
        await _parameters(request, "unload")
        await _repository(state).unload(model, await who_asked(request, state))
        return Response(b"")


async def _parameters(request: Request, verb: str) -> dict[str, Any]:
    """The parameters of a load or an unload; raises InvalidInput for one that changes what is stored."""
    parameters = (await _body(request, _change)).parameters
    for name in parameters:
        if name not in _TAKEN[verb]:
            raise InvalidInput(
                f"the parameter {name[:80]!r} is not taken by {verb}, which takes {', '.join(_TAKEN[verb])}: a model "
                "and its configuration are pushed (lagar push, POST /api/models/NAME/versions)",
                field="parameters",
            )
    return parameters


async def _body(request: Request, decoder: msgspec.json.Decoder[T]) -> T:
    """The JSON body of a request, which may be empty; raises InvalidInput."""
    data = b""
    async for piece in request.stream():
        data += piece
        if len(data) > MAX_BODY_BYTES:
            raise InvalidInput(f"the body has more than {MAX_BODY_BYTES} bytes")
    try:
        return decoder.decode(data or b"{}")
    except msgspec.MsgspecError as error:
        raise InvalidInput(f"the body must be a JSON object of this call's own members: {error}") from None


def _repository(state: ControlState) -> Repository:
    if state.repository is None:
        raise NotReady("the repository is not open yet; try again", retry_after_s=1)
    return state.repository


def _add_docs(app: FastAPI, state: ControlState, pages: Pages, policy: str) -> None:
    for path in ("/v2", *_MODELS):

        @app.api_route(f"{path}/docs", **_LOOK)
        def page(request: Request, model: str | None = None, version: str | None = None) -> Response:
            v2_document(state, "", model, version)  # a page for what is not there would be empty
            place = f"{request.url.path.rstrip('/')}/dataplane.json"
            html = pages.docs(state, request.state.prefix, place, model)
            headers = {"content-type": "text/html; charset=utf-8", "content-security-policy": policy}
            return Response(html, headers=headers)

        @app.api_route(f"{path}/docs/dataplane.json", **_LOOK)
        def document(request: Request, model: str | None = None, version: str | None = None) -> Response:
            return _json(v2_document(state, request.state.prefix, model, version))


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value), headers={"content-type": "application/json"})
