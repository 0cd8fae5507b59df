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

from lagar import __version__
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
)
from lagar.intake.mlserver import facts_of
from lagar.protocols import cards, v1, v2_metadata
from lagar.protocols.base import Envelope, InferRequest, status_of, timeout_of
from lagar.registry.model import ModelInfo
from lagar.server.auth import Gate, challenges, plain_path
from lagar.server.channel import ServerState
from lagar.server.coding import LARGE_AT_ONCE, accepted, coding_of, packed, unpacked
from lagar.server.cors import Cors
from lagar.server.demand import Demand
from lagar.server.exchange import Message, Receive, Scope, Send
from lagar.server.heads import HEADER_LENGTH, UPLOAD_PATH
from lagar.server.lane import OFF_LOOP_ROWS, Endpoint, Headers, header_pairs, written
from lagar.server.proxy import ANSWER_TIMEOUT_S, ControlProxy, read_body
from lagar.server.routes import INVOCATIONS, Target, error_shape, prediction
from lagar.server.serving import Serving
from lagar.settings import ServerSettings

OFF_LOOP_BODY_BYTES = 32 * 1024
"""Bodies that are not JSON are parsed in a thread from this size on, JSON from eight times as much."""

_LOAD = re.compile("/v2/repository/models/([^/]+)/load")

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
        settings: ServerSettings,
    ) -> None:
        self.serving = serving
        """Replaced as a whole by a switch: look at it once per decision."""
        self._batcher = batcher
        self._gate = gate
        self._proxy = proxy
        self._infos = infos
        self._demand = demand
        self._settings = settings
        self._timeout_s = settings.request_timeout_s
        self._root = settings.root_path
        self._aliases = {settings.predict_route: INVOCATIONS, settings.health_route: "/ping"}
        self._cors = Cors(settings)
        self._large = asyncio.Semaphore(LARGE_AT_ONCE)
        self.state = ServerState(ready=False, reason="starting")
        self.draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"an ASGI scope of type {scope['type']} is not served")
        state = scope.setdefault("state", {})
        request_id: str = state.setdefault("request_id", f"asgi-{time.monotonic_ns():x}")
        path = strip_root(scope["path"], self._root)
        path = self._aliases.get(path, path)
        origin = self._cors.allowed(scope["headers"])
        if origin is not None:
            granted = self._cors.preflight(scope["method"], scope["headers"], origin)
            if granted is not None:
                await send({"type": "http.response.start", "status": 204, "headers": granted})
                await send({"type": "http.response.body", "body": b""})
                return
            send = self._cors.sending(send, origin)
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
        status, headers, body = written(error_shape(path)(error, request_id), request_id)
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
        if (target := prediction(clean)) is not None:
            _allow(method, "POST")
            await self._predict(scope, receive, send, target, request_id)
        elif (answer := await self._look(clean[1:].split("/"), method, request_id)) is not None:
            await send_answer(send, *answer)
        elif (found := _LOAD.fullmatch(clean)) is not None and method == "POST":
            await self._load(scope, receive, send, found[1])
        else:
            # intake of a pushed version takes as long as its model does; whoever waits for it may leave
            wait_s = None if re.fullmatch(UPLOAD_PATH, clean) else ANSWER_TIMEOUT_S
            await self._proxy.forward(scope, receive, send, path=quote_path(clean), answer_timeout_s=wait_s)

    async def _load(self, scope: Scope, receive: Receive, send: Send, name: str) -> None:
        """V2's load: control sees to it that the version may be asked for, and this worker loads it before it says so.

        The other workers load it with their first request for it.
        """
        body = await read_body(receive)
        if body is None:
            return
        answer = Held()
        path = quote_path(f"/v2/repository/models/{name}/load")
        await self._proxy.forward(scope, _replayed(body), answer.send, path=path)
        version = v2_metadata.version_to_load(body) if answer.status == 200 else None
        if version is not None:
            async with self._loaded(name, version):
                pass
        for message in answer.messages:
            await send(message)

    def _count_refused_key(self, path: str, error: RequestError) -> None:
        """A refused key counts for the model that it was sent to, as it does in the fast lane."""
        target = prediction(plain_path(path) or "/")
        if target is None:
            return
        protocol, name, version = target
        with contextlib.suppress(NotFound):
            serving = self.serving
            deployment = serving.router.resolve(name or serving.router.default_name(), version)
            serving.endpoint(deployment, protocol).count(error, status_of(error))

    # -- predictions

    async def _predict(self, scope: Scope, receive: Receive, send: Send, target: Target, request_id: str) -> None:
        protocol, name, version = target
        name = name or self.serving.router.default_name()
        label = await self._demand.label(name, version, time.perf_counter() + self._timeout_s)
        deployment = self.serving.router.get(name, label)
        endpoint = None if deployment is None else self.serving.endpoint(deployment, protocol)
        try:
            coding = coding_of(_header(scope, b"content-encoding"))
            body = await read_body(receive)
            if body is None:
                return
            received = time.perf_counter()
            envelope = _envelope(scope)
            deadline = received + self._patience_s(envelope.timeout)
            waiter = Waiter(asyncio.get_running_loop())
            call = None
            while call is None:
                async with self._demand.version(name, version, deadline) as deployment:
                    endpoint = self.serving.endpoint(deployment, protocol)
                    async with self._room(coding, envelope.content_type, len(body)):
                        if coding:
                            body = await _unpacked(body, coding, self._settings.max_body_bytes)
                            coding = ""
                        request = await _decoded(endpoint, body, request_id, envelope)
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
            answer, media, lines = await asyncio.to_thread(endpoint.encode, call) if large else endpoint.encode(call)
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
        answer, packing = await self._packed(scope, answer)
        await send_answer(send, 200, headers + header_pairs(lines) + packing, answer)

    def _room(self, coding: str, content_type: str | None, size: int) -> contextlib.AbstractAsyncContextManager[None]:
        """Where a body waits that takes long to read, or may once it is unpacked."""
        return self._large if coding or _is_long_work(content_type, size) else contextlib.nullcontext()

    async def _packed(self, scope: Scope, body: bytes) -> tuple[bytes, Headers]:
        """A large answer as its client takes it, where this server packs answers; and what says so."""
        least = self._settings.compress_answers_bytes
        if not least or len(body) < least:
            return body, []
        coding = accepted(_header(scope, b"accept-encoding"))
        vary = (b"vary", b"accept-encoding")
        if not coding:
            return body, [vary]
        return await asyncio.to_thread(packed, body, coding), [(b"content-encoding", coding.encode("ascii")), vary]

    def _patience_s(self, timeout: str | None) -> float:
        """How long a request waits for its version to be loaded; a time-out that is none is refused with its body."""
        with contextlib.suppress(InvalidInput):
            return min(self._timeout_s, timeout_of(timeout))
        return self._timeout_s

    # -- everything that is only looked at

    async def _look(self, parts: list[str], method: str, request_id: str) -> tuple[int, Headers, bytes] | None:
        answer = self._health(parts)
        if answer is None:
            metadata = {"v1": self._v1_metadata, "v2": self._v2_metadata}.get(parts[0], self._native_metadata)
            answer = await metadata(parts)
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

    async def _v1_metadata(self, parts: list[str]) -> tuple[int, bytes, bytes] | None:
        match parts:
            case ["v1", "models"]:
                return 200, v1.models_list(self.serving.router.names), b"application/json"
            case ["v1", "models", name] if ":" in name:
                raise NotFound(f"there is no {name[name.index(':') :]!r:.80} here: models answer ':predict'")
            case ["v1", "models", name]:
                await self._demand.label(name, None, time.perf_counter() + self._timeout_s)
                return 200, v1.model_ready(name), b"application/json"
        return None

    async def _v2_metadata(self, parts: list[str]) -> tuple[int, bytes, bytes] | None:
        match parts:
            case ["v2"]:
                return 200, v2_metadata.server_metadata(), b"application/json"
            case ["v2", "models"]:
                return 200, v2_metadata.models_list(self.serving.router.names), b"application/json"
            case ["v2", "models", "stats"]:
                return None  # control adds up what all workers counted
            case ["v2", "models", name, "config"]:
                return await self._v2_config(name, None)
            case ["v2", "models", name, "versions", version, "config"]:
                return await self._v2_config(name, version)
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
        return 200, v2_metadata.model_ready(name), b"application/json"

    async def _v2_model(self, name: str, version: str | None) -> tuple[int, bytes, bytes]:
        async with self._loaded(name, version) as deployment:
            kind, signature, said = deployment.kind, deployment.signature, facts_of(deployment.model.source.options)
            return 200, v2_metadata.model_metadata(name, self._labels(name), kind, signature, said), b"application/json"

    async def _v2_config(self, name: str, version: str | None) -> tuple[int, bytes, bytes]:
        async with self._loaded(name, version) as deployment:
            kind, signature, most = deployment.kind, deployment.signature, self._settings.max_rows
            body = v2_metadata.model_config(name, self._labels(name), kind, signature, most)
            return 200, body, b"application/json"

    def _labels(self, name: str) -> list[str]:
        """The versions of a model that are loaded."""
        return [info.version for info in self._infos() if info.name == name]

    async def _native_metadata(self, parts: list[str]) -> tuple[int, bytes, bytes] | None:
        match parts:
            case ["version"]:
                return 200, __version__.encode("ascii"), b"text/plain; charset=utf-8"
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


class Held:
    """An answer that is looked at before it goes out."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.status = 0

    async def send(self, message: Message) -> None:
        self.messages.append(message)
        self.status = message.get("status", self.status)


def _replayed(body: bytes) -> Receive:
    """An ASGI receive of a body that was read already."""

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


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


def _allow(method: str, allowed: str) -> None:
    if method != allowed:
        shown = "GET, HEAD" if allowed == "GET" else allowed
        raise MethodNotAllowed(f"this path takes {shown}, not {method}", allow=shown)


async def _unpacked(body: bytes, coding: str, limit: int) -> bytes:
    if len(body) > OFF_LOOP_BODY_BYTES:
        return await asyncio.to_thread(unpacked, body, coding, limit)
    return unpacked(body, coding, limit)


def _envelope(scope: Scope) -> Envelope:
    return Envelope(
        content_type=_header(scope, b"content-type"),
        accept=_header(scope, b"accept"),
        timeout=_header(scope, b"timeout"),
        header_length=_header(scope, HEADER_LENGTH),
        headers=scope["headers"],
    )


async def _decoded(endpoint: Endpoint, body: bytes, request_id: str, envelope: Envelope) -> InferRequest:
    decode = partial(endpoint.decode, body, request_id, envelope)
    return await asyncio.to_thread(decode) if _is_long_work(envelope.content_type, len(body)) else decode()


def _is_long_work(content_type: str | None, size: int) -> bool:
    """Whether decoding a body would hold the loop: a large one, or one that first imports pyarrow."""
    if content_type is None or any(kind in content_type for kind in ("json", "csv", "octet-stream")):
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
