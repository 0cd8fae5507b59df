"""A worker: loads the models, answers on its socket, obeys the supervisor.

Started as `python -m lagar.server.worker --channel-fd N --socket http=N`. It opens no catalog and reads no disk while
it answers; it imports no web framework, no SQL, and no model library that none of its models needs.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import logging
import os
import socket
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

from lagar.engine.batcher import STUCK_DEADLINES, Batcher
from lagar.engine.deployment import Deployment
from lagar.errors import ChangedArtifact, LagarError, SetupError
from lagar.intake.mlserver import said_version
from lagar.logs import Log, capture_standard_logging, open_log
from lagar.metrics import Registry
from lagar.registry.model import ModelInfo, ModelSource
from lagar.registry.proof import Violation, given_up_words
from lagar.server.asgi import App, strip_root
from lagar.server.auth import Gate
from lagar.server.channel import (
    Abandon,
    Changed,
    Channel,
    Commit,
    Drain,
    Failed,
    Have,
    Keys,
    Loaded,
    Prepare,
    Prepared,
    ServerState,
    Violated,
    Want,
    WorkerBoot,
)
from lagar.server.demand import Demand
from lagar.server.doors import Door, tls_context
from lagar.server.growth import Pulse
from lagar.server.heads import Heads
from lagar.server.http import Connection, HttpServer
from lagar.server.process import begin_child
from lagar.server.proxy import ControlProxy, Proxies
from lagar.server.serving import Loader, Serving, is_at_hand
from lagar.server.stock import Stock, answering, close_quietly
from lagar.settings import no_colour

if TYPE_CHECKING:  # loaded where gRPC is asked for
    from lagar.server.grpc import GrpcServer

SWITCH_INTERVAL_S = 0.0005
"""How long a model's Python code in a thread may hold the interpreter before the event loop gets a turn."""
STUCK_EXIT_CODE = 70
STUCK_DRAIN_S = 2.0
FROZEN_GRACE_S = 5.0
"""Beyond three deadlines: only a model that holds the interpreter keeps the loop from its own look at the deadlines."""

log = logging.getLogger("lagar.worker")


class Worker:
    """Everything of one worker process."""

    def __init__(
        self, boot: WorkerBoot, loop: asyncio.AbstractEventLoop, send: Callable[[Want | Violated], None] | None = None
    ) -> None:
        """`send` asks control about versions that the boot does not name, and tells it; None: there are no others."""
        settings = boot.settings
        self._settings = settings
        self._loop = loop
        self._metrics = Registry(Path(boot.metrics_dir), boot.slot)
        self._gate = Gate(settings, boot.keys or ())
        self._loaded_at = datetime.now(UTC).isoformat(timespec="seconds")
        self._send = send
        self._loader = Loader(
            settings,
            self._metrics,
            threads=boot.threads,
            workers=boot.workers,
            run_folder=Path(boot.control_socket).parent,
            on_violation=self._violated,
        )
        self._giving_up: set[asyncio.Task[None]] = set()
        self.stock = Stock(
            self._loader,
            bound_bytes=boot.memory_bytes or sys.maxsize,
            pins=settings.pin,
            loaded=lambda: self.serving.router.deployments,
            unload=self._unload,
            is_live=lambda deployment: deployment.version in self.serving.router.answering(deployment.name),
        )
        self.demand = Demand(self.stock, lambda: self.serving, self._admit, send=send, everything=boot.from_catalog)
        self._boot = boot
        self._prepared: Serving | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._preparing = asyncio.Lock()
        """Sets are prepared and forgotten in the order in which that was asked for."""
        self.serving = Serving(0, (), {}, {}, settings, self._gate)
        self.batcher = Batcher(loop, self._on_stuck, request_timeout_s=settings.request_timeout_s)
        self.app = App(
            self.serving,
            self.batcher,
            self._gate,
            ControlProxy(boot.control_socket, Proxies(settings.trusted_proxies)),
            self.infos,
            self.demand,
            settings=settings,
        )
        self._heads = Heads(
            lambda head: self.serving.hot_route(head),
            max_body_bytes=settings.max_body_bytes,
            max_upload_bytes=settings.max_upload_bytes,
            root_path=settings.root_path,
        )
        self.http = HttpServer(loop, settings, self._heads, self.app, self.batcher, self._metrics, self._refuse)
        self.grpc = self._grpc() if settings.grpc_port is not None else None
        self._doors: list[Door] = []

    async def load(self) -> None:
        """Load what the worker was started with; raises SetupError.

        Of what is live in the catalog a version that cannot be loaded is left out, as long as there is another one.
        """
        boot = self._boot
        deployments: list[Deployment] = []
        broken: SetupError | None = None
        for source in boot.sources:
            label = f"{source.name}@{source.version}"
            if self.stock.fits(source) or boot.whole or self.stock.pins(source):
                try:
                    deployments.append(await self.stock.load(source, in_thread=False))
                except SetupError as error:
                    changed = isinstance(error, ChangedArtifact)
                    if boot.whole or not (changed or boot.from_catalog):  # a set that goes live does so as a whole
                        raise
                    broken = broken if changed else broken or error
                    log.error("%s is not loaded, and requests for it are refused: %s", label, error.message)
            elif self.stock.fits(source, ever=True):
                log.info("%s is loaded when it is asked for: the versions before it fill max_memory", label)
            elif boot.from_catalog:
                log.error("%s is refused: it takes more memory than max_memory grants a worker", label)
            else:
                await self.stock.load(source)
        if broken is not None and not deployments:
            raise broken
        self._take_over(self._assemble(boot.generation, deployments, boot.live, boot.weights))

    def _assemble(
        self,
        generation: int,
        deployments: Iterable[Deployment],
        live: Mapping[str, str],
        weights: Mapping[str, Mapping[str, int]],
    ) -> Serving:
        return Serving(generation, deployments, live, weights, self._settings, self._gate, self.serving)

    # -- another generation

    async def prepare(self, wanted: Prepare) -> Prepared:
        """Load a set of versions beside the one in use; what both hold is shared."""
        async with self._preparing:
            await self._forget_prepared()
            return await self._prepare(wanted)

    async def _prepare(self, wanted: Prepare) -> Prepared:
        before = self.serving
        leaving = self._leaving(wanted)
        missing = [source for source in wanted.sources if self._lacks(source)]
        if not all(is_at_hand(source) for source in missing):
            return Prepared(wanted.generation, ok=False, fresh=True)
        loaded: list[Deployment] = []
        try:
            for source in missing:
                beside = [deployment for deployment in leaving if deployment.name == source.name]
                loaded.append(await self.stock.load(source, beside=beside))
        except LagarError as error:
            await self.stock.close(loaded)
            return Prepared(wanted.generation, ok=False, reason=error.message)
        kept = {(one.name, one.version): one for one in before.router.deployments if one not in leaving}
        kept |= {(one.name, one.version): one for one in loaded}
        self._prepared = self._assemble(wanted.generation, kept.values(), wanted.live, wanted.weights)
        return Prepared(wanted.generation, ok=True)

    def _lacks(self, source: ModelSource) -> bool:
        """Whether a version is to be loaded for a set: what was live before is loaded when it is asked for."""
        router = self.serving.router
        running = router.get(source.name, source.version)
        if running is not None and running.model.source.forms != source.forms:
            return True  # another form was proved meanwhile
        if source.version in router.answering(source.name):
            return running is None and self.stock.pins(source)
        return running is None or running.apart  # wanted by its label only, and so in a process of its own

    def _leaving(self, wanted: Prepare) -> set[Deployment]:
        """What is loaded because it is live, and will not be; all of a model that is taken out of service.

        What is wanted by its label only stays: it lies at a path beside the version that answers now.
        """
        stays, router = answering(wanted.live, wanted.weights), self.serving.router
        stays |= {(source.name, source.version) for source in wanted.sources}
        replaced = {(source.name, said_version(source.options)) for source in wanted.sources}

        def leaves(deployment: Deployment) -> bool:
            name, version = deployment.name, deployment.version
            is_live = version in router.answering(name)
            if name not in wanted.live and router.answering(name):
                return True
            if (name, version) in stays or not (is_live or (name, version) in replaced):
                return False
            return not self.stock.pins(deployment.model.source)

        return {deployment for deployment in router.deployments if leaves(deployment)}

    # -- versions that come and go between two generations

    def _admit(self, deployment: Deployment) -> None:
        """A version that was loaded for a request."""
        self.serving.add(deployment)
        if self._prepared is not None:
            name, version = deployment.name, deployment.version
            stays = version in self._prepared.router.answering(name) or version not in self.serving.router.answering(
                name
            )
            if stays and self._prepared.router.get(name, version) is None:
                self._prepared.add(deployment)
        self._routes_changed()

    def _unload(self, deployment: Deployment) -> None:
        """No new request goes to a version from now on; it is the stock that closes it."""
        deployment.retired = True
        for serving in (self.serving, self._prepared):
            if serving is not None and serving.router.get(deployment.name, deployment.version) is deployment:
                serving.remove(deployment)
        self._routes_changed()

    def commit(self, generation: int) -> bool:
        """Answer with the prepared set from the next request on; False when it was not prepared here."""
        prepared, self._prepared = self._prepared, None
        if prepared is None or prepared.generation != generation:
            return self.serving.generation == generation
        self._take_over(prepared)
        return True

    async def abandon(self) -> None:
        """Close what was prepared, or still is being, and is not in use."""
        async with self._preparing:
            await self._forget_prepared()

    async def _forget_prepared(self) -> None:
        prepared, self._prepared = self._prepared, None
        if prepared is not None:
            await self.stock.close(set(prepared.router.deployments) - set(self.serving.router.deployments))

    def _take_over(self, serving: Serving) -> None:
        before, self.serving = self.serving, serving
        self.app.serving = serving
        self._routes_changed()
        gone = set(before.router.deployments) - set(serving.router.deployments)
        for deployment in gone:
            deployment.retired = True
        if gone:
            closing = self._loop.create_task(self.stock.close(gone))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    def _routes_changed(self) -> None:
        self._heads.forget()
        if self.grpc is not None:
            self.grpc.changed()

    def infos(self) -> tuple[ModelInfo, ...]:
        """What is loaded, as other processes are told."""
        router = self.serving.router
        return tuple(
            deployment.info(live=router.is_live(deployment), loaded_at=self._loaded_at)
            for deployment in router.deployments
        )

    def _refuse(self, error: LagarError, path: str, request_id: str) -> object:
        return self.app.refuse(error, strip_root(path, self._settings.root_path), request_id)  # type: ignore[arg-type]

    # -- forms that are not the original

    def _violated(self, deployment: Deployment, violation: Violation) -> None:
        """The shadow check's thread has found a difference."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._tell_violation, deployment, violation)

    def _tell_violation(self, deployment: Deployment, violation: Violation) -> None:
        if deployment.given_up:
            return
        at = datetime.now(UTC).isoformat(timespec="seconds")
        message = Violated(deployment.name, deployment.version, deployment.model.source.forms, violation, at)
        if self._send is not None:
            self._send(message)
        self.give_up_forms(message)

    def give_up_forms(self, message: Violated) -> None:
        """Have the original answer in place of forms that were wrong."""
        loaded = set(self.serving.router.deployments)
        if self._prepared is not None:
            loaded |= set(self._prepared.router.deployments)
        for deployment in loaded:
            source = deployment.model.source
            if (source.name, source.version, source.forms) != (message.model, message.version, message.forms):
                continue
            if deployment.given_up:
                continue
            why = given_up_words(message.violation, message.at)
            log.error("%s@%s: %s; the original answers from now on", source.name, source.version, why)
            task = self._loop.create_task(
                deployment.give_up_form(
                    why, partial(self._loader.original, source), keep=self._settings.on_violation == "keep"
                )
            )
            self._giving_up.add(task)
            task.add_done_callback(self._giving_up.discard)

    # -- life

    def _grpc(self) -> GrpcServer:
        """What answers gRPC, which no other server needs to load."""
        from lagar.server.grpc_services import grpc_server

        return grpc_server(self._loop, self._settings, self.app, self.batcher, self._gate, self.demand, self._metrics)

    async def listen(self, sockets: Mapping[str, socket.socket]) -> None:
        """Accept connections on the slot's sockets."""
        settings, loop = self._settings, self._loop
        tls = settings.tls_cert is not None
        self._doors.append(Door(loop, sockets["http"], lambda: Connection(self.http, tls=tls), tls_context(settings)))
        if self.grpc is not None:
            context = tls_context(settings, protocol="h2")
            self._doors.append(Door(loop, sockets["grpc"], self.grpc.connection, context))
        for door in self._doors:
            await door.open()

    async def commit_or_listen(self, generation: int, sockets: Mapping[str, socket.socket]) -> None:
        """Answer with that generation; a worker that was held back begins to accept connections."""
        if not self.commit(generation):
            log.error("generation %d was committed and is not prepared here", generation)
        if not self._doors:
            await self.listen(sockets)

    async def drain(self, *, successor: bool = False) -> bool:
        """Stop accepting once the accept queue is empty, and answer everything that was accepted; False when it could
        not within the drain time-out.

        With a successor in its place the server goes on: readiness stays what the supervisor says.
        """
        self.app.draining = not successor
        self.http.draining, self.http.patient = True, successor
        if self.grpc is not None:
            self.grpc.draining = True
            self.grpc.changed()
        for door in self._doors:
            await door.close()
        done = all(await asyncio.gather(*self._drained(self._settings.drain_timeout_s, patient=successor)))
        self.batcher.closed = True
        return done

    def _drained(self, timeout_s: float, *, patient: bool = False) -> list[Coroutine[Any, Any, bool]]:
        """The end of all connections, by protocol; each says whether all was answered."""
        draining = [self.http.drain(timeout_s, patient=patient)]
        return draining if self.grpc is None else [*draining, self.grpc.drain(timeout_s)]

    def close_models(self) -> None:
        """Let each model put away what it holds: files and connections of the user's own class."""
        for deployment in self.serving.router.deployments:
            close_quietly(deployment)

    def update_keys(self, keys: Keys) -> None:
        self._gate.update(keys.keys)

    def update_state(self, state: ServerState) -> None:
        self.app.state = state
        if self.grpc is not None:
            self.grpc.changed()

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
        for door in self._doors:
            door.shut()
        await asyncio.gather(*self._drained(STUCK_DRAIN_S))
        os._exit(STUCK_EXIT_CODE)


async def run(channel_socket: socket.socket, sockets: Mapping[str, socket.socket]) -> int:
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
        worker = Worker(boot, asyncio.get_running_loop(), channel.send)
        await worker.load()
        if boot.keys is None and not await keys_known(worker, channel):
            return 0  # the supervisor is gone
        if not boot.hold:
            await worker.listen(sockets)
    except LagarError as error:
        channel.send(Failed(error.code, error.message))
        await channel.close()
        return 1
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    channel.send(Loaded(worker.infos()))
    alive = asyncio.create_task(prove_alive(STUCK_DEADLINES * settings.request_timeout_s + FROZEN_GRACE_S))
    pulse = Pulse()
    beating = asyncio.create_task(channel.beat(lambda: pulse.beat(worker.serving.router.deployments)))
    answered = await obey(worker, channel, sockets)
    beating.cancel()
    alive.cancel()
    await channel.close()
    return 0 if answered else 1


async def keys_known(worker: Worker, channel: Channel) -> bool:
    """Wait until control has read the keys, which takes about as long as loading a model; False when nobody tells."""
    async for message in channel.messages():
        match message:
            case ServerState():
                worker.update_state(message)
            case Keys():
                worker.update_keys(message)
                return True
            case _:
                log.warning("an unexpected %s came from the supervisor", type(message).__name__)
    return False


async def prove_alive(patience_s: float) -> None:
    """End the process, with every thread's traceback on stderr, when the loop stands still for so long.

    Code that holds the interpreter keeps all Python of this process from running, and with it whatever would notice;
    faulthandler's thread needs no interpreter.
    """
    try:
        while True:
            faulthandler.dump_traceback_later(patience_s, exit=True)
            await asyncio.sleep(1.0)
    finally:
        faulthandler.cancel_dump_traceback_later()


async def obey(worker: Worker, channel: Channel, sockets: Mapping[str, socket.socket]) -> bool:
    """Do what the supervisor says until it is gone, or until it said Drain and all is answered; False when requests
    were left unanswered."""
    orders = Orders(worker, channel, sockets)
    heard = asyncio.create_task(orders.follow())
    ends: set[asyncio.Future[Any]] = {heard, orders.drained}
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    heard.cancel()
    return orders.drained.result() if orders.drained.done() else True


class Orders:
    """What the supervisor says, done in its order; what takes long is done beside, so that the next word is heard."""

    def __init__(self, worker: Worker, channel: Channel, sockets: Mapping[str, socket.socket]) -> None:
        self._worker = worker
        self._channel = channel
        self._sockets = sockets
        self._tasks: set[asyncio.Task[None]] = set()
        self._drains = False
        self.drained: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def follow(self) -> None:
        worker = self._worker
        async for message in self._channel.messages():
            match message:
                case ServerState():
                    worker.update_state(message)
                case Keys():
                    worker.update_keys(message)
                case Prepare():
                    self._run(self._prepare(message))
                case Commit():
                    await worker.commit_or_listen(message.generation, self._sockets)
                    self._channel.send(Loaded(worker.infos()))
                case Abandon():
                    self._run(worker.abandon())
                case Have():
                    worker.demand.heard(message)
                case Changed():
                    self._run(worker.demand.changed())
                case Violated():
                    worker.give_up_forms(message)
                case Drain():
                    self._drain(message)
                case _:
                    log.warning("an unexpected %s came from the supervisor", type(message).__name__)

    def _run(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _prepare(self, wanted: Prepare) -> None:
        self._channel.send(await self._worker.prepare(wanted))

    def _drain(self, message: Drain) -> None:
        if self._drains:  # the server ends while this worker makes room for its successor
            self._worker.http.hurry()
            return
        self._drains = True
        self._run(self._finish(message))

    async def _finish(self, message: Drain) -> None:
        answered = await self._worker.drain(successor=message.successor)
        if answered:  # else a call is still in the model
            self._worker.close_models()
        if not self.drained.done():
            self.drained.set_result(answered)


def main() -> None:
    channel_socket, sockets = begin_child()
    code = uvloop.run(run(channel_socket, sockets))
    with contextlib.suppress(OSError, ValueError):  # a model may have closed it
        sys.stderr.flush()
    os._exit(code)  # a model's thread that never returns must not hold the end up


if __name__ == "__main__":
    main()
