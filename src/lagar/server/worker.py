"""A worker: loads the models, answers on its socket, obeys the supervisor.

Started as `python -m lagar.server.worker --channel-fd N --socket-fd N`. It opens no catalog and reads no disk while it
answers; it imports no web framework, no SQL, and no model library that none of its models needs.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
import ssl
import sys
from datetime import UTC, datetime
from pathlib import Path

import uvloop

from lagar import runtimes
from lagar.engine.batcher import Batcher
from lagar.engine.deployment import Deployment
from lagar.engine.service import Router
from lagar.errors import LagarError, LoadFailed
from lagar.logs import Log, capture_standard_logging, open_log
from lagar.metrics import Registry
from lagar.protocols import native, v2
from lagar.protocols.base import Adapter, Limits
from lagar.registry.model import ModelInfo, ModelSource
from lagar.server.asgi import App, Served, strip_root
from lagar.server.auth import Gate
from lagar.server.channel import Channel, Drain, Failed, Keys, Loaded, ServerState, WorkerBoot
from lagar.server.heads import Head, Heads
from lagar.server.http import Connection, HttpServer
from lagar.server.lane import Endpoint
from lagar.server.process import begin_child
from lagar.server.proxy import ControlProxy, Proxies
from lagar.settings import ServerSettings, no_colour
from lagar.types import Rows

SWITCH_INTERVAL_S = 0.0005
"""How long a model's Python code in a thread may hold the interpreter before the event loop gets a turn."""
STUCK_EXIT_CODE = 70
STUCK_DRAIN_S = 2.0

log = logging.getLogger("lagar.worker")

_JSON_TYPES = frozenset({b"application/json", b"application/json;charset=utf-8", b"application/json; charset=utf-8"})
_ANY_JSON = frozenset({b"*/*", b"application/json", b"application/json, text/plain, */*"})
_COLD_HEADERS = frozenset(
    {b"expect", b"transfer-encoding", b"content-encoding", b"upgrade", b"inference-header-content-length"}
)


class Worker:
    """Everything of one worker process, put together once its models are loaded."""

    def __init__(self, boot: WorkerBoot, loop: asyncio.AbstractEventLoop) -> None:
        settings = boot.settings
        self._settings = settings
        self._loop = loop
        self._metrics = Registry(Path(boot.metrics_dir), boot.slot)
        self._gate = Gate(settings, boot.keys)
        self._loaded_at = datetime.now(UTC).isoformat(timespec="seconds")
        self._threads = boot.threads
        self._examples: list[tuple[Deployment, Rows]] = []
        deployments = [self._load(source, boot) for source in boot.sources]
        self.router = Router(deployments, boot.live, default=settings.default_model)
        endpoints = {(d.name, d.version): self._endpoints(d) for d in deployments}
        served = Served(self.router, endpoints)
        self.batcher = Batcher(loop, self._on_stuck, request_timeout_s=settings.request_timeout_s)
        self.app = App(
            served,
            self.batcher,
            self._gate,
            ControlProxy(boot.control_socket, Proxies(settings.trusted_proxies)),
            self.infos,
            root_path=settings.root_path,
        )
        self._hot = hot_paths(self.router, served, settings) if settings.fast_lane else {}
        heads = Heads(self._hot_route, max_body_bytes=settings.max_body_bytes)
        self.http = HttpServer(loop, settings, heads, self.app, self.batcher, self._metrics, self._refuse)
        self._listener: asyncio.Server | None = None
        self._socket: socket.socket | None = None

    async def isolate_models(self) -> None:
        """Give each model that holds the interpreter a process of its own."""
        for deployment, example in self._examples:
            await deployment.isolate_if_needed(example, self._threads)
        self._examples.clear()

    def _load(self, source: ModelSource, boot: WorkerBoot) -> Deployment:
        share = max(1, self._settings.queue_rows // boot.workers)
        try:
            model = runtimes.load(source, threads=boot.threads)
            deployment = Deployment(model, self._metrics, max_queue_rows=share)
            assert model.probe is not None, "runtimes.load leaves the rows that it has tried"
            example = model.probe.slice(0, 1)
            deployment.warm_up(example)
            self._examples.append((deployment, example))
        except LagarError:
            raise
        except Exception as error:
            log.exception("loading failed")
            raise LoadFailed(f"{source.path}: loading failed with {type(error).__name__}: {error}") from None
        for warning in model.warnings:
            log.warning("%s@%s: %s", source.name, source.version, warning)
        return deployment

    def _endpoints(self, deployment: Deployment) -> dict[str, Endpoint]:
        limits = Limits(max_rows=self._settings.max_rows)
        timeout_s = self._settings.request_timeout_s
        adapters: dict[str, Adapter] = {
            "native": native.NativeAdapter(deployment, limits),
            "v2": v2.V2Adapter(deployment, limits),
        }
        return {
            name: Endpoint(deployment, adapter, name, gate=self._gate, request_timeout_s=timeout_s)
            for name, adapter in adapters.items()
        }

    def infos(self) -> tuple[ModelInfo, ...]:
        """What is loaded, as other processes are told."""
        return tuple(
            deployment.info(live=self.router.is_live(deployment), loaded_at=self._loaded_at)
            for deployment in self.router.deployments
        )

    def _refuse(self, error: LagarError, path: str, request_id: str) -> object:
        return self.app.refuse(error, strip_root(path, self._settings.root_path), request_id)  # type: ignore[arg-type]

    def _hot_route(self, head: Head) -> Endpoint | None:
        """The endpoint of a request that may take the fast lane, None for the ASGI lane."""
        endpoint = self._hot.get(head.raw_path)
        if endpoint is None or head.method != "POST" or head.query or head.http_10 or not head.keep_alive:
            return None
        if head.chunked or head.length == 0:
            return None
        for name, value in head.headers:
            if name in _COLD_HEADERS:
                return None
            if name == b"content-type" and value.lower() not in _JSON_TYPES:
                return None
            if name == b"accept" and value.lower() not in _ANY_JSON:
                return None
            if name == b"connection" and value.lower() != b"keep-alive":
                return None
        return endpoint

    # -- life

    async def listen(self, sock: socket.socket) -> None:
        """Accept connections on the slot's socket."""
        context = tls_context(self._settings)
        self._socket = sock
        self._listener = await self._loop.create_server(
            lambda: Connection(self.http, tls=context is not None), sock=sock.dup(), ssl=context, backlog=4096
        )

    async def drain(self, timeout_s: float) -> bool:
        """Stop accepting once the accept queue is empty, and answer everything that was accepted."""
        self.app.draining = True
        self.http.draining = True
        await self._empty_accept_queue()
        done = await self.http.drain(timeout_s)
        self.batcher.closed = True
        return done

    def close_models(self) -> None:
        """Let each model put away what it holds: files and connections of the user's own class."""
        for deployment in self.router.deployments:
            try:
                deployment.close()
            except Exception:
                log.exception("closing model %s@%s failed", deployment.name, deployment.version)

    async def _empty_accept_queue(self) -> None:
        assert self._socket is not None
        assert self._listener is not None
        self._listener.close()
        self._socket.setblocking(False)
        context = tls_context(self._settings)
        while True:
            try:
                accepted, _ = self._socket.accept()
            except OSError:
                break
            await self._loop.connect_accepted_socket(
                lambda: Connection(self.http, tls=context is not None), accepted, ssl=context
            )
        self._socket.close()

    def update_keys(self, keys: Keys) -> None:
        self._gate.update(keys.keys)

    def update_state(self, state: ServerState) -> None:
        self.app.state = state

    def _on_stuck(self, deployment: Deployment) -> None:
        """A call of the model does not return: end its host, or answer the others and let a fresh worker take over."""
        if deployment.hosted is not None:
            log.error(
                "model %s@%s has not returned for three deadlines; its process is ended",
                deployment.name,
                deployment.version,
            )
            deployment.hosted.kill()
            return
        log.error(
            "model %s@%s has not returned for three deadlines; this worker is replaced",
            deployment.name,
            deployment.version,
        )
        self._loop.create_task(self._give_up())

    async def _give_up(self) -> None:
        self.app.draining = self.http.draining = True
        if self._listener is not None:
            self._listener.close()
        await self.http.drain(STUCK_DRAIN_S)
        os._exit(STUCK_EXIT_CODE)


def hot_paths(router: Router, served: Served, settings: ServerSettings) -> dict[bytes, Endpoint]:
    """Exact path → endpoint, with and without the proxy's prefix."""
    paths: dict[str, Endpoint] = {}
    for deployment in router.deployments:
        name, version = deployment.name, deployment.version
        native_endpoint = served.endpoint(deployment, "native")
        v2_endpoint = served.endpoint(deployment, "v2")
        paths[f"/models/{name}/versions/{version}/predict"] = native_endpoint
        paths[f"/v2/models/{name}/versions/{version}/infer"] = v2_endpoint
        if router.is_live(deployment):
            paths[f"/models/{name}/predict"] = native_endpoint
            paths[f"/v2/models/{name}/infer"] = v2_endpoint
            if name == router.default:
                paths["/predict"] = native_endpoint
    prefixes = {"", settings.root_path}
    return {(prefix + path).encode("ascii"): endpoint for path, endpoint in paths.items() for prefix in prefixes}


def tls_context(settings: ServerSettings) -> ssl.SSLContext | None:
    """The server's TLS context, None without a certificate."""
    if settings.tls_cert is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(settings.tls_cert, settings.tls_key)
    return context


async def run(channel_socket: socket.socket, listener: socket.socket) -> int:
    """The worker's life; returns its exit code."""
    channel = await Channel.open(channel_socket)
    boot = await channel.receive()
    if not isinstance(boot, WorkerBoot):
        return 1
    settings = boot.settings
    journal: Log = open_log(
        settings.log_format, settings.log_level, no_colour=no_colour(), process=f"worker-{boot.slot}"
    )
    capture_standard_logging(journal)
    try:
        worker = Worker(boot, asyncio.get_running_loop())
        await worker.isolate_models()
        await worker.listen(listener)
    except LagarError as error:
        channel.send(Failed(error.code, error.message))
        await channel.close()
        return 1
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    channel.send(Loaded(worker.infos()))
    answered = True
    async for message in channel.messages():
        if isinstance(message, ServerState):
            worker.update_state(message)
        elif isinstance(message, Keys):
            worker.update_keys(message)
        elif isinstance(message, Drain):
            answered = await worker.drain(settings.drain_timeout_s)
            if answered:  # else a call is still in the model
                worker.close_models()
            break
    await channel.close()
    return 0 if answered else 1


def main() -> None:
    channel_socket, listener = begin_child()
    code = uvloop.run(run(channel_socket, listener))
    sys.stderr.flush()
    os._exit(code)  # a model's thread that never returns must not hold the end up


if __name__ == "__main__":
    main()
