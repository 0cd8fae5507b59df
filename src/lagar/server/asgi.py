"""The ASGI lane: every request that is not hot. Predictions and health are answered here, the rest by control."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from urllib.parse import quote

import msgspec

from lagar.engine.batcher import Batcher, Call
from lagar.engine.deployment import Deployment
from lagar.errors import (
    Forbidden,
    InvalidInput,
    MethodNotAllowed,
    ModelFailed,
    NotFound,
    RequestError,
    Unauthorized,
    UnsupportedMediaType,
)
from lagar.protocols import cards, native, v2
from lagar.protocols.base import InferRequest, status_of, timeout_of
from lagar.registry.model import ModelInfo
from lagar.server.auth import Gate, challenges, plain_path
from lagar.server.channel import ServerState
from lagar.server.demand import Demand
from lagar.server.exchange import Receive, Scope, Send
from lagar.server.heads import UPLOAD_PATH
from lagar.server.lane import OFF_LOOP_ROWS, Endpoint, Headers, written
from lagar.server.proxy import ANSWER_TIMEOUT_S, ControlProxy, read_body
from lagar.server.serving import Serving

OFF_LOOP_BODY_BYTES = 32 * 1024
"""Bodies that are not JSON are parsed in a thread from this size on, JSON from eight times as much."""

log = logging.getLogger("lagar.asgi")


class App:
    """The ASGI application of a worker."""

    def __init__(
        self,
        serving: Serving,
        batcher: Batcher,
        gate: Gate,
        proxy: ControlProxy,
        infos: Callable[[], tuple[ModelInfo, ...]],
        demand: Demand,
        *,
        root_path: str,
        request_timeout_s: float,
    ) -> None:
        self.serving = serving
        """Replaced as a whole by a switch: look at it once per decision."""
        self._batcher = batcher
        self._gate = gate
        self._proxy = proxy
        self._infos = infos
        self._demand = demand
        self._timeout_s = request_timeout_s
        self._root = root_path
        self.state = ServerState(ready=False, reason="starting")
        self.draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"an ASGI scope of type {scope['type']} is not served")
        state = scope.setdefault("state", {})
        request_id: str = state.setdefault("request_id", f"asgi-{time.monotonic_ns():x}")
        path = strip_root(scope["path"], self._root)
        try:
            await self._route(scope, receive, send, path, request_id)
        except RequestError as error:
            if isinstance(error, (Unauthorized, Forbidden)):
                self._count_refused_key(path, error)
            await send_answer(send, *self.refuse(error, path, request_id, accept=_header(scope, b"accept")))
        except Exception:
            log.exception("a request failed", extra={"request_id": request_id})
            failure = ModelFailed("the server failed on this request; its log has the reason")
            await send_answer(send, *self.refuse(failure, path, request_id))

    def refuse(
        self, error: RequestError, path: str, request_id: str, *, accept: str | None = None
    ) -> tuple[int, Headers, bytes]:
        """An error in the shape of the protocol that the path belongs to."""
        shape = v2.error_answer if path == "/v2" or path.startswith("/v2/") else native.error_answer
        status, headers, body = written(shape(error, request_id), request_id)
        if isinstance(error, Unauthorized):
            headers = [header for header in headers if header[0] != b"www-authenticate"]
            headers += [(b"www-authenticate", value) for value in challenges(path, accept or "")]
        return status, headers, body

    async def _route(self, scope: Scope, receive: Receive, send: Send, path: str, request_id: str) -> None:
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        scope["state"]["key_id"] = self._gate.check(scope["method"], path, scope["headers"])
        clean = plain_path(path)
        if clean is None:
            raise NotFound(f"no such path: {path!r:.200}")
        parts = clean[1:].split("/")
        if (target := _prediction(parts)) is not None:
            _allow(method, "POST")
            await self._predict(scope, receive, send, target, request_id)
        elif (answer := await self._look(parts, method, request_id)) is not None:
            await send_answer(send, *answer)
        else:
            # intake of a pushed version takes as long as its model does; whoever waits for it may leave
            wait_s = None if re.fullmatch(UPLOAD_PATH, clean) else ANSWER_TIMEOUT_S
            await self._proxy.forward(scope, receive, send, path=quote_path(clean), answer_timeout_s=wait_s)

    def _count_refused_key(self, path: str, error: RequestError) -> None:
        """A refused key counts for the model that it was sent to, as it does in the fast lane."""
        target = _prediction((plain_path(path) or "/")[1:].split("/"))
        if target is None:
            return
        protocol, name, version = target
        with contextlib.suppress(NotFound):
            serving = self.serving
            deployment = serving.router.resolve(name or serving.router.default_name(), version)
            serving.endpoint(deployment, protocol).count(error, status_of(error))

    # -- predictions

    async def _predict(
        self, scope: Scope, receive: Receive, send: Send, target: tuple[str, str, str | None], request_id: str
    ) -> None:
        protocol, name, version = target
        name = name or self.serving.router.default_name()
        label = await self._demand.label(name, version, time.perf_counter() + self._timeout_s)
        deployment = self.serving.router.get(name, label)
        endpoint = None if deployment is None else self.serving.endpoint(deployment, protocol)
        try:
            _check_coding(scope)
            body = await read_body(receive)
            if body is None:
                return
            received = time.perf_counter()
            deadline = received + self._patience_s(_header(scope, b"timeout"))
            waiter = Waiter(asyncio.get_running_loop())
            call = None
            while call is None:
                async with self._demand.version(name, version, deadline) as deployment:
                    endpoint = self.serving.endpoint(deployment, protocol)
                    request = await _decoded(scope, endpoint, body, request_id)
                    if not endpoint.retired:  # by a switch, while the body was parsed
                        call = endpoint.call(request, waiter, received)
                        self._batcher.submit(call)
            assert endpoint is not None
            try:
                await waiter.future
            finally:
                if not call.done:
                    self._batcher.cancel(call)
            if call.error is not None:
                raise call.error
            large = call.n > OFF_LOOP_ROWS
            answer, media = await asyncio.to_thread(endpoint.encode, call) if large else endpoint.encode(call)
        except RequestError as error:
            if endpoint is None:
                raise
            endpoint.count(error, status_of(error))
            await send_answer(send, *endpoint.refuse(error, request_id))
            return
        except Exception as error:
            if endpoint is None:
                raise
            log.exception("a prediction failed", extra={"request_id": request_id})
            endpoint.count(None, 500)
            await send_answer(send, *endpoint.refuse(error, request_id))
            return
        endpoint.deployment.request_seconds.observe(time.perf_counter() - call.received)
        endpoint.count(None, 200)
        headers = [(b"content-type", media.encode("ascii")), (b"x-request-id", request_id.encode("ascii"))]
        await send_answer(send, 200, headers, answer)

    def _patience_s(self, timeout: str | None) -> float:
        """How long a request waits for its version to be loaded; a time-out that is none is refused with its body."""
        with contextlib.suppress(InvalidInput):
            return min(self._timeout_s, timeout_of(timeout))
        return self._timeout_s

    # -- everything that is only looked at

    async def _look(self, parts: list[str], method: str, request_id: str) -> tuple[int, Headers, bytes] | None:
        answer = self._health(parts)
        if answer is None:
            metadata = self._v2_metadata(parts) if parts[0] == "v2" else self._native_metadata(parts)
            answer = await metadata
        if answer is None:
            return None
        _allow(method, "GET")
        status, body, media = answer
        return status, [(b"content-type", media), (b"x-request-id", request_id.encode("ascii"))], body

    def _health(self, parts: list[str]) -> tuple[int, bytes, bytes] | None:
        match parts:
            case ["healthz"] | ["health"]:
                return _json(200, {"status": "alive"})
            case ["ping"]:
                return (200, b"PONG", b"text/plain; charset=utf-8") if self._ready else self._not_ready()
            case ["readyz"]:
                return _json(200, {"status": "ready"}) if self._ready else self._not_ready()
            case ["v2", "health", "live"]:
                return _json(200, {"live": True})
            case ["v2", "health", "ready"]:
                return _json(200, {"ready": True}) if self._ready else _json(503, {"ready": False})
        return None

    @property
    def _ready(self) -> bool:
        return self.state.ready and not self.draining

    def _not_ready(self) -> tuple[int, bytes, bytes]:
        reason = "the server is shutting down" if self.draining else self.state.reason
        return _json(503, {"status": "unavailable", "reason": reason})

    @contextlib.asynccontextmanager
    async def _loaded(self, name: str, ref: str | None) -> AsyncIterator[Deployment]:
        """The version that a path names, loaded for as long as the block takes; raises as `Demand.version`."""
        async with self._demand.version(name, ref, time.perf_counter() + self._timeout_s) as deployment:
            yield deployment

    async def _v2_metadata(self, parts: list[str]) -> tuple[int, bytes, bytes] | None:
        match parts:
            case ["v2"]:
                return 200, v2.server_metadata(), b"application/json"
            case ["v2", "models", name, "ready"]:
                return await self._model_ready(name, None)
            case ["v2", "models", name, "versions", version, "ready"]:
                return await self._model_ready(name, version)
            case ["v2", "models", name]:
                return await self._v2_model(name, None)
            case ["v2", "models", name, "versions", version]:
                return await self._v2_model(name, version)
        return None

    async def _model_ready(self, name: str, version: str | None) -> tuple[int, bytes, bytes]:
        """Whether a prediction would find it; this path is open to all, so nothing is loaded for it."""
        await self._demand.label(name, version, time.perf_counter() + self._timeout_s)
        return 200, v2.model_ready(name), b"application/json"

    async def _v2_model(self, name: str, version: str | None) -> tuple[int, bytes, bytes]:
        async with self._loaded(name, version) as deployment:
            versions = [info.version for info in self._infos() if info.name == name]
            return 200, v2.model_metadata(name, versions, deployment.kind, deployment.signature), b"application/json"

    async def _native_metadata(self, parts: list[str]) -> tuple[int, bytes, bytes] | None:
        match parts:
            case ["models"]:
                return _json(200, {"models": cards.models_list(self._infos(), self.serving.router.unloaded())})
            case ["models", name] | ["models", name, "versions"]:
                async with self._loaded(name, None):
                    infos = [info for info in self._infos() if info.name == name]
                    return _json(200, cards.model_card(name, infos, self.serving.router.unloaded_of(name)))
            case ["models", name, "versions", version]:
                async with self._loaded(name, version) as deployment:
                    infos = [info for info in self._infos() if (info.name, info.version) == _key(deployment)]
                    return _json(200, cards.version_card(infos[0]))
            case ["example"]:
                return await self._example(self.serving.router.default_name(), None)
            case ["models", name, "example"]:
                return await self._example(name, None)
            case ["models", name, "versions", version, "example"]:
                return await self._example(name, version)
        return None

    async def _example(self, name: str, version: str | None) -> tuple[int, bytes, bytes]:
        async with self._loaded(name, version) as deployment:
            return 200, cards.example_body(deployment), b"application/json"


class Waiter:
    """A future of the ASGI lane as the sink of a call."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.future: asyncio.Future[None] = loop.create_future()

    def answered(self, call: Call) -> None:
        if not self.future.done():
            self.future.set_result(None)


async def send_answer(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """One whole answer."""
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [*headers, (b"content-length", b"%d" % len(body))],
        }
    )
    await send({"type": "http.response.body", "body": body})


def _key(deployment: Deployment) -> tuple[str, str]:
    return deployment.name, deployment.version


def strip_root(path: str, root: str) -> str:
    """The path without the prefix of the proxy, whether the proxy took it away or not."""
    if root and path.startswith(root) and (len(path) == len(root) or path[len(root)] == "/"):
        return path[len(root) :] or "/"
    return path


def quote_path(path: str) -> str:
    """A decoded path as it travels in a request line."""
    return quote(path, safe="/:@!$&'()*+,;=-._~")


def _prediction(parts: list[str]) -> tuple[str, str, str | None] | None:
    """(protocol, model, version) of a prediction path; the model is "" for the default one."""
    match parts:
        case ["predict"]:
            return "native", "", None
        case ["models", name, "predict"]:
            return "native", name, None
        case ["models", name, "versions", version, "predict"]:
            return "native", name, version
        case ["v2", "models", name, "infer"]:
            return "v2", name, None
        case ["v2", "models", name, "versions", version, "infer"]:
            return "v2", name, version
    return None


def _allow(method: str, allowed: str) -> None:
    if method != allowed:
        shown = "GET, HEAD" if allowed == "GET" else allowed
        raise MethodNotAllowed(f"this path takes {shown}, not {method}", allow=shown)


def _check_coding(scope: Scope) -> None:
    coding = _header(scope, b"content-encoding")
    if coding is not None and coding.strip().lower() != "identity":
        raise UnsupportedMediaType(f"content-encoding {coding!r:.60} is not read here; send the body uncompressed")
    if _header(scope, b"inference-header-content-length") is not None:
        raise InvalidInput("binary tensor bodies are not read here; send the tensors as JSON")


async def _decoded(scope: Scope, endpoint: Endpoint, body: bytes, request_id: str) -> InferRequest:
    content_type = _header(scope, b"content-type")
    decode = partial(
        endpoint.decode,
        body,
        request_id,
        content_type=content_type,
        accept=_header(scope, b"accept"),
        timeout=_header(scope, b"timeout"),
    )
    return await asyncio.to_thread(decode) if _is_long_work(content_type, len(body)) else decode()


def _is_long_work(content_type: str | None, size: int) -> bool:
    """Whether decoding a body would hold the loop: a large one, or one that first imports pyarrow."""
    if content_type is None or "json" in content_type or "csv" in content_type:
        return size > OFF_LOOP_BODY_BYTES * (1 if content_type is not None and "csv" in content_type else 8)
    return True


def _header(scope: Scope, name: bytes) -> str | None:
    """The value of a header; of several, the first, except that all ranges of `accept` count (RFC 9110 §5.3)."""
    values: list[str] = [value.decode("latin-1") for key, value in scope["headers"] if key == name]
    if not values:
        return None
    return ", ".join(values) if name == b"accept" else values[0]


def _json(status: int, body: object) -> tuple[int, bytes, bytes]:
    return status, msgspec.json.encode(body), b"application/json"
