"""The gRPC side of a worker: the Open Inference Protocol, and gRPC's own services, health and reflection."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, Final

from lagar.engine.batcher import Batcher
from lagar.errors import NotFound, Overloaded
from lagar.metrics import Registry
from lagar.protocols import schema
from lagar.protocols.schema import Message, ProtoFile
from lagar.server.asgi import App
from lagar.server.auth import Gate
from lagar.server.demand import Demand
from lagar.server.grpc import Calls, GrpcServer, Method
from lagar.server.streams import Stream
from lagar.server.twins import TWINS, ask
from lagar.settings import ServerSettings

_OPEN: Final = ("GET", "/v2/health/ready")
_READ: Final = ("GET", "/v2")
_MAX_UNREAD_BYTES: Final = 256 * 1024
"""Of answers of a reflection call that its client has not taken."""
_SERVING, _NOT_SERVING, _SERVICE_UNKNOWN = 1, 2, 3
_NOT_FOUND: Final = 5


def grpc_server(
    loop: asyncio.AbstractEventLoop,
    settings: ServerSettings,
    app: App,
    batcher: Batcher,
    gate: Gate,
    demand: Demand,
    metrics: Registry,
) -> GrpcServer:
    """The gRPC side of a worker."""
    calls = Calls(lambda: app.serving, batcher, gate, demand, settings, loop)
    inference, repository, health = (schema.read(name) for name in ("inference", "repository", "health"))
    _answer_protocol(calls, app, inference)
    _answer_protocol(calls, app, repository)
    watched = Health(calls, app, health, frozenset((*inference.services, *repository.services)))
    reflections = [schema.read("reflection", package=f"grpc.reflection.{label}") for label in ("v1", "v1alpha")]
    files = (inference, repository, health, *reflections)
    for file in reflections:
        Reflection(calls, file, files)
    return GrpcServer(loop, settings, calls, watched.changed, metrics)


def _answer_protocol(calls: Calls, app: App, file: ProtoFile) -> None:
    """The methods of the Open Inference Protocol beside ModelInfer."""

    async def live(asked: dict[str, Any], stream: Stream) -> dict[str, Any]:
        return {"live": True}

    async def ready(asked: dict[str, Any], stream: Stream) -> dict[str, Any]:
        return {"ready": _ready(app)}

    for service, rpcs in file.services.items():
        for rpc in rpcs:
            path, request, answer = f"/{service}/{rpc.name}", file.messages[rpc.request], file.messages[rpc.answer]
            if rpc.name in TWINS:
                twin = TWINS[rpc.name]
                calls.unary(path, twin.route, request, answer, partial(ask, app, twin))
            elif rpc.name in ("ServerLive", "ServerReady"):
                calls.unary(path, _OPEN, request, answer, live if rpc.name == "ServerLive" else ready)


def _ready(app: App) -> bool:
    return app.state.ready and not app.draining


class Health:
    """grpc.health.v1.Health: the server under "", each model under its name, and the server's own services."""

    def __init__(self, calls: Calls, app: App, file: ProtoFile, services: frozenset[str]) -> None:
        self._calls = calls
        self._app = app
        self._services = services
        self._answer = file.messages["grpc.health.v1.HealthCheckResponse"]
        self._request = file.messages["grpc.health.v1.HealthCheckRequest"]
        self._watches: dict[Stream, tuple[str, int]] = {}
        """Who watches → what, and the status that was told last."""
        listed = file.messages["grpc.health.v1.HealthListRequest"], file.messages["grpc.health.v1.HealthListResponse"]
        calls.unary("/grpc.health.v1.Health/Check", _OPEN, self._request, self._answer, self._check)
        calls.unary("/grpc.health.v1.Health/List", _READ, *listed, self._list)
        calls.add(Method("/grpc.health.v1.Health/Watch", _OPEN, self._watch))

    def _status(self, service: str) -> int:
        if service and service not in self._services and service not in self._app.serving.router.names:
            return _SERVICE_UNKNOWN
        return _SERVING if _ready(self._app) else _NOT_SERVING

    async def _check(self, asked: dict[str, Any], stream: Stream) -> dict[str, Any]:
        service = asked.get("service", "")
        status = self._status(service)
        if status == _SERVICE_UNKNOWN:
            raise NotFound(f"Model {service} not found")
        return {"status": status}

    async def _list(self, asked: dict[str, Any], stream: Stream) -> dict[str, Any]:
        names = ["", *self._app.serving.router.names, *sorted(self._services)]
        return {"statuses": {name: {"status": self._status(name)} for name in names}}

    def _watch(self, stream: Stream, data: bytes, packed: bool) -> None:
        service = self._request.decode(self._calls.plain(stream, data, packed)).get("service", "")
        self._watches[stream] = (service, -1)
        stream.endless = True
        stream.on_gone = lambda: self._watches.pop(stream, None)
        self._tell(stream)

    def _tell(self, stream: Stream) -> None:
        service, told = self._watches[stream]
        status = self._status(service)
        if status != told:
            self._watches[stream] = (service, status)
            stream.send(self._answer.encode({"status": status}))

    def changed(self) -> None:
        """Readiness, or what is live, may have changed: those who watch are told."""
        for stream in list(self._watches):
            if stream.live:
                self._tell(stream)
            else:
                del self._watches[stream]


class Reflection:
    """grpc.reflection of one package: what services there are, and the files that describe them."""

    def __init__(self, calls: Calls, file: ProtoFile, files: tuple[ProtoFile, ...]) -> None:
        self._calls = calls
        self._files = files
        self._request: Message = file.messages[f"{file.package}.ServerReflectionRequest"]
        self._answer: Message = file.messages[f"{file.package}.ServerReflectionResponse"]
        (service,) = file.services
        calls.add(Method(f"/{service}/ServerReflectionInfo", _READ, self._message, streams=True))

    def _message(self, stream: Stream, data: bytes, packed: bool) -> None:
        if stream.unsent > _MAX_UNREAD_BYTES:
            raise Overloaded("the answers of this reflection call are not read")
        asked = self._request.decode(self._calls.plain(stream, data, packed))
        answer = {"valid_host": asked.get("host", ""), "original_request": asked, **self._about(asked)}
        stream.send(self._answer.encode(answer))

    def _about(self, asked: dict[str, Any]) -> dict[str, Any]:
        if "list_services" in asked:
            names = sorted(name for file in self._files for name in file.services)
            return {"list_services_response": {"service": [{"name": name} for name in names]}}
        if "file_by_filename" in asked:
            wanted = asked["file_by_filename"]
            found = [file for file in self._files if file.name == wanted]
        elif "file_containing_symbol" in asked:
            wanted = asked["file_containing_symbol"]
            found = [file for file in self._files if wanted in file.symbols]
        elif "all_extension_numbers_of_type" in asked:
            wanted = asked["all_extension_numbers_of_type"]
            if any(wanted in file.messages for file in self._files):
                return {"all_extension_numbers_response": {"base_type_name": wanted}}
            found = []
        else:
            wanted, found = "this", []
        if not found:
            return {"error_response": {"error_code": _NOT_FOUND, "error_message": f"{wanted} is not known here"}}
        return {"file_descriptor_response": {"file_descriptor_proto": [found[0].descriptor()]}}
