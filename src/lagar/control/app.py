"""The control app: pages, OpenAPI, metrics and assets behind the workers, on a Unix socket.

A worker has already checked the key and the forwarded headers of every request that arrives here, so the socket is
trusted. It has also taken the prefix of `--root-path` from the path, and asked for the scope of what was left: nothing
more is taken here, or another path would be answered than the one that was checked. Every address that is written into
an answer carries the published prefix.
"""

from __future__ import annotations

import logging
import re
import uuid
from typing import Any

import orjson
from fastapi import FastAPI, Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lagar.control.assets import Assets
from lagar.control.metrics import exposition
from lagar.control.models import add_verbs
from lagar.control.openapi import openapi
from lagar.control.pages import Pages
from lagar.control.state import ControlState
from lagar.control.v2 import add_v2

log = logging.getLogger("lagar.control")

CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'{styles}; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
STRICT_POLICY = CONTENT_POLICY.format(styles="")
DOCS_POLICY = CONTENT_POLICY.format(styles=" 'unsafe-inline'")
"""Swagger UI puts style attributes into its markup; scripts stay as strict as on every other page."""

SAFE_HEADERS = {
    "content-security-policy": STRICT_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
ERROR_CODES = {
    400: "bad_request",
    401: "unauthorized",
    404: "not_found",
    405: "method_not_allowed",
    406: "not_acceptable",
    413: "payload_too_large",
    415: "unsupported_media_type",
}
_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)+")
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,256}")


def create_app(state: ControlState) -> FastAPI:
    """The app over `state`, which may change while it runs."""
    app = FastAPI(title="Lagar", openapi_url=None, docs_url=None, redoc_url=None)
    assets = Assets()
    pages = Pages(assets)
    _add_pages(app, state, pages)
    _add_facts(app, state)
    _add_assets(app, assets)
    add_verbs(app, state)
    add_v2(app, state, pages, DOCS_POLICY)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_middleware(Envelope, state=state)
    return app


def _add_pages(app: FastAPI, state: ControlState, pages: Pages) -> None:
    @app.api_route("/", methods=["GET", "HEAD"])
    def index(request: Request) -> Response:
        return _html(pages.index(state, request.state.prefix))

    @app.api_route("/docs", methods=["GET", "HEAD"])
    def docs(request: Request) -> Response:
        response = _html(pages.docs(state, request.state.prefix))
        response.headers["content-security-policy"] = DOCS_POLICY
        return response


def _add_facts(app: FastAPI, state: ControlState) -> None:
    @app.api_route("/openapi.json", methods=["GET", "HEAD"])
    def document(request: Request) -> Response:
        return _json(200, openapi(state, request.state.prefix))

    @app.api_route("/metrics", methods=["GET", "HEAD"])
    def metrics(request: Request) -> Response:
        body, content_type = exposition(state, request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})


def _add_assets(app: FastAPI, assets: Assets) -> None:
    @app.api_route("/favicon.ico", methods=["GET", "HEAD"])
    def icon(request: Request) -> Response:
        return static(request, "press.svg")

    @app.api_route("/static/{name:path}", methods=["GET", "HEAD"])
    def static(request: Request, name: str, v: str = "") -> Response:
        asset = assets.get(name)
        if asset is None:
            raise HTTPException(404)
        packed = "gzip" in request.headers.get("accept-encoding", "")
        etag = f'"{asset.digest}{"-gz" if packed else ""}"'
        headers = {
            "etag": etag,
            "vary": "accept-encoding",
            # Only the address with this content's digest may be kept without asking again.
            "cache-control": "public, max-age=31536000, immutable" if v == asset.digest else "no-cache",
        }
        if etag in (tag.strip() for tag in request.headers.get("if-none-match", "").split(",")):
            return Response(status_code=304, headers=headers)
        headers["content-type"] = asset.content_type
        if packed:
            headers["content-encoding"] = "gzip"
        return Response(asset.packed if packed else asset.data, headers=headers)


class Envelope:
    """Around every request: the prefix, the request id, the headers that all answers carry, and the last net.

    Plain ASGI, outside the routes but inside nothing, so that an answer to a crash has the same headers as any other.
    """

    def __init__(self, app: ASGIApp, state: ControlState) -> None:
        self._app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = headers.get("x-request-id", "")
        if not _REQUEST_ID.fullmatch(request_id):
            request_id = uuid.uuid4().hex
        prefix = published_prefix(self._state, headers)
        path = scope["path"]
        scope = {
            **scope,
            "root_path": "",
            "state": {**scope.get("state", {}), "prefix": prefix, "request_id": request_id},
        }
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                answer = MutableHeaders(scope=message)
                answer["x-request-id"] = request_id
                for name, value in SAFE_HEADERS.items():
                    answer.setdefault(name, value)
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception:
            log.exception("control failed on %s %s, request %s", scope["method"], path, request_id)
            if started:
                raise
            message = "the server failed while writing this page; its log has the reason under this request id"
            await error_response(500, "internal", message, request_id, path)(scope, receive, send_with_headers)


def published_prefix(state: ControlState, headers: Headers) -> str:
    """The path below which callers see the server: what a trusted proxy says, else `--root-path`; "" for none."""
    return normal_prefix(headers.get("x-forwarded-prefix", "")) or normal_prefix(state.settings.root_path)


def normal_prefix(prefix: str) -> str:
    """`/mlapi` for "mlapi", "/mlapi/" and "/mlapi"; "" for an empty one or one that is no plain path."""
    if "//" in prefix:
        return ""
    prefix = "/" + prefix.strip().strip("/")
    return prefix if _PREFIX.fullmatch(prefix) and ".." not in prefix.split("/") else ""


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.scope["path"]  # its URL has another one where the request names no host
    shown = path if len(path) <= 200 else path[:200] + "…"
    home = request.state.prefix + "/docs"
    if error.status_code == 404:
        message = f"no such path {shown!r}; GET {home} lists every path of this server"
    elif error.status_code == 405:
        allowed = _allowed(request)
        message = f"{shown!r} does not take {request.method}, it takes {allowed}; see GET {home}"
    else:
        message = str(error.detail)
    code = ERROR_CODES.get(error.status_code, "bad_request")
    response = error_response(error.status_code, code, message, request.state.request_id, path)
    response.headers.update(error.headers or {})
    if error.status_code == 405:
        response.headers["allow"] = allowed
    return response


def _allowed(request: Request) -> str:
    """Every method of a path; the framework names those of the first route that has it."""
    found: set[str] = set()
    for route in request.app.routes:
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE:
            found |= route.methods or set()
    return ", ".join(sorted(found))


def error_response(status: int, code: str, message: str, request_id: str, path: str) -> Response:
    """The native error shape; that of V2 below `/v2`, which is that of V1 below `/v1`."""
    if path.startswith(("/v1/", "/v2/")) or path in ("/v1", "/v2"):
        return _json(status, {"error": message})
    facts = {"code": code, "message": message, "field": None, "row": None, "request_id": request_id}
    return _json(status, {"error": facts})


def _json(status: int, value: Any) -> Response:
    return Response(orjson.dumps(value), status, headers={"content-type": "application/json"})


def _html(text: str) -> Response:
    return Response(text, headers={"content-type": "text/html; charset=utf-8"})
