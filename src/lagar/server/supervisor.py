"""The supervisor: keeps every place of the server filled, tells the truth about readiness, drains on request.

A `Post` is a place that one child process fills: one per worker, one for control. The process may die; its post keeps
the listening socket, so what is waiting there is answered by the successor.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from lagar.errors import LoadFailed, SettingsError, SetupError, setup_error
from lagar.logs import Log
from lagar.registry.model import Asked, ModelInfo, ModelSource
from lagar.server.auth import has_valid
from lagar.server.channel import (
    BEAT_S,
    Abandon,
    Alive,
    Changed,
    Commit,
    ControlBoot,
    ControlReady,
    Drain,
    Failed,
    Have,
    KeyRow,
    Keys,
    Lapsed,
    Loaded,
    Message,
    Models,
    Prepare,
    Prepared,
    ServerState,
    Violated,
    Want,
    WorkerBoot,
)
from lagar.server.growth import Growth
from lagar.server.process import Child, Phase, advance, start_child
from lagar.server.sockets import Ports, waiting_connections
from lagar.server.switch import PREPARE_TIMEOUT_S, Switch
from lagar.settings import ServerSettings, require_auth

STEADY_S = 10.0
"""A child that served this long and then died is restarted without delay."""
MAX_RESTART_DELAY_S = 30.0
PATIENT_DEADLINES = 3
PATIENT_GRACE_S = 10.0
"""A child that is silent for so many deadlines of a request and this time is replaced: it is stopped, or it holds the
interpreter and did not end itself."""
CONTROL_DRAIN_S = 5.0
RETIRE_GRACE_S = 2.0
"""Beyond the drain time-out, at whose end a retired worker ends itself."""
ECHO_S = 0.1
"""A second signal so soon is the first one again: `timeout` and `uv run` pass on what the terminal has also sent."""
HANDSHAKE_S = 1.0
"""A connection whose first packet went to a socket is there after this time."""
ACCEPT_QUEUE_S = 2.0
"""At most this long the workers are given to accept the connections that were waiting when the drain began."""

CONTROL_AWAY = "the control process is being restarted: whether there is such a version is not known; try again"

WORKER = "lagar.server.worker"
CONTROL = "lagar.control.main"


class Served(msgspec.Struct, frozen=True):
    """The versions that the workers answer with, as control has said."""

    sources: tuple[ModelSource, ...] = ()
    live: dict[str, str] = {}
    weights: dict[str, dict[str, int]] = {}
    """Model → version → share, where several versions share a model's traffic."""


class Folders(msgspec.Struct, frozen=True):
    """Where the processes of this server meet on disk."""

    home: Path
    control_socket: Path
    metrics: Path


class Post:
    """One place in the server that a child process fills."""

    def __init__(self, name: str, module: str, listeners: Mapping[str, socket.socket], slot: int | None = None) -> None:
        self.name = name
        self.module = module
        self.listeners = listeners
        """Its listening sockets, by what is spoken there."""
        self.slot = slot
        """0…N-1 for a worker, None for control."""
        self.active: Child | None = None
        self.deaths = 0
        self.filled = asyncio.Event()
        """Set while its process serves."""
        self.leaves = False
        """True once it is given up: nobody follows its process."""
        self.handed_over: asyncio.Future[None] | None = None
        """Done when another process has taken over from the one whose end is waited for."""

    @property
    def serving(self) -> bool:
        return self.active is not None and self.active.phase is Phase.SERVING and self.active.responds

    def take(self, child: Child) -> Child | None:
        """From now on this process fills the post; the one before it."""
        before, self.active = self.active, child
        self.deaths = 0
        self.filled.set()
        if self.handed_over is not None and not self.handed_over.done():
            self.handed_over.set_result(None)
        return before


def restart_delay_s(deaths: int) -> float:
    """How long to wait before the restart after so many deaths in a row: 0 s, 0.25 s, 0.5 s, … 30 s."""
    return 0.0 if deaths <= 1 else min(0.25 * 2 ** min(deaths - 2, 20), MAX_RESTART_DELAY_S)


class Supervisor:
    """Runs one server from its start to its end."""

    def __init__(
        self,
        settings: ServerSettings,
        asked: Asked,
        cores: int,
        folders: Folders,
        ports: Ports,
        control_listener: socket.socket,
        metrics_listener: socket.socket | None,
        threads: int,
        environment: Mapping[str, str],
        log: Log,
        announce: Callable[[tuple[ModelInfo, ...]], None],
        url: str,
        memory_bytes: int,
        most_workers: int,
    ) -> None:
        """`memory_bytes` is what loaded versions may take over all workers; `most_workers` how many may be added."""
        self._url = url
        self._memory_bytes = memory_bytes
        self._most_workers = most_workers
        self._id = secrets.token_hex(8)
        self._lapsed = "" if asked.paths else "starting: nothing has been heard of the catalog"
        """Why control cannot follow the catalog."""
        self._begun = False
        """True once the workers are kept."""
        self._committed = -1
        """The catalog's generation that the workers answer with."""
        self._settings = settings
        self._asked = asked
        self._cores = cores
        self._served = Served()
        self._folders = folders
        self._ports = ports
        self._keys: tuple[KeyRow, ...] | None = None
        """None until control has read them: nothing is answered before."""
        self._threads = threads
        self._environment = environment
        self._log = log
        self._announce = announce
        self._workers = [Post(f"worker {i}", WORKER, socks, i) for i, socks in enumerate(ports.sockets)]
        metrics = {} if metrics_listener is None else {"metrics": metrics_listener}
        self._control = Post("control", CONTROL, {"control": control_listener} | metrics)
        self._phase = Phase.STARTING
        self._children: dict[Child, Post] = {}
        """Every process that has not been reaped, retired ones too."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._models: tuple[ModelInfo, ...] = ()
        self._stopped_at = 0.0
        """time.monotonic() of the signal that began the drain."""
        self._generation = 0
        """Grows with each switch."""
        self._models_generation = -1
        self._state = ServerState(ready=False, reason="starting", workers=len(self._workers))
        self._switch = Switch(self._workers, self._start_held)
        self._switching = asyncio.Lock()
        self._violations: dict[tuple[str, str], Violated] = {}
        """Name and version → the form of it that was given up last."""

    async def run(self) -> int:
        """Serve until a signal ends it; returns the exit code.

        0 after a drain that answered everything, 1 when the drain ran out of time, 128 + the signal's number when a
        second signal cut it short. Raises SetupError when the server cannot start.
        """
        self._end: asyncio.Future[int | SetupError] = asyncio.get_running_loop().create_future()
        with _signals(self._stop):
            async with asyncio.TaskGroup() as group:
                self._group = group
                self._run(self._keep(self._control))
                self._run(self._notice_silence())
                if self._most_workers > len(self._workers):
                    self._run(self._follow_load())
                try:
                    outcome = await self._end
                finally:
                    self._phase = advance(self._phase, Phase.ENDED)
                    for child in self._children:
                        child.kill()  # the group waits until each is reaped
                    for task in self._tasks:
                        task.cancel()
        if isinstance(outcome, SetupError):
            raise outcome
        return outcome

    def _keep_workers(self) -> None:
        for post in self._workers:
            self._run(self._keep(post))

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        """Work that is cancelled when the server ends."""
        task = self._group.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # One post

    async def _keep(self, post: Post) -> None:
        """Keep a post filled; what ends while the server starts ends the server."""
        while self._phase in (Phase.STARTING, Phase.SERVING):
            if post.active is None or not post.active.alive:
                post.active = await self._start(post)
            child = post.active
            post.handed_over = asyncio.get_running_loop().create_future()
            await _first_of(child.exited, post.handed_over)
            if self._phase not in (Phase.STARTING, Phase.SERVING):
                return
            if post.leaves:
                return
            if post.active is child:
                await self._mourn(post, child)

    async def _mourn(self, post: Post, child: Child) -> None:
        """Say why a child ended, and wait as long as its successor has to."""
        since = child.serving_since
        steady = since is not None and time.monotonic() - since >= STEADY_S
        post.deaths = 1 if steady else post.deaths + 1
        post.filled.clear()
        self._publish()
        if self._phase is Phase.STARTING and since is None:
            self._give_up(post, child)
            return
        why = child.failure.message if child.failure else f"it {child.describe_end()}"
        delay = restart_delay_s(post.deaths)
        self._log.error(f"{post.name} is restarted: {why}", pid=child.pid, delay_s=delay or None)
        await asyncio.sleep(delay)

    def _give_up(self, post: Post, child: Child) -> None:
        if not self._end.done():
            told = child.failure
            self._end.set_result(
                setup_error(told.code, told.message)
                if told
                else LoadFailed(f"{post.name} {child.describe_end()} while it was starting")
            )

    async def _start_held(self, post: Post, wanted: Prepare) -> Child:
        """A process for a worker's post that loads a set and accepts no connection before Commit."""
        served = Served(wanted.sources, wanted.live, weights=wanted.weights)
        return await self._start(post, served, wanted.generation, whole=True)

    async def _start(self, post: Post, held: Served | None = None, committed: int = 0, *, whole: bool = False) -> Child:
        """Start a child for a post, send it what it needs, and listen to it until its end.

        With `held` it accepts no connection before the Commit of that generation; `whole`: all of the set is loaded.
        """
        child = await start_child(post.name, post.module, post.listeners, self._environment)
        child.generation = self._generation
        child.metrics_slot = post.slot
        if post.slot is not None:
            # a dead one may still be listened to: its successor goes on with its counts, and sets its gauges back
            taken = {other.metrics_slot for other in self._children if other.alive}
            slots = itertools.count(post.slot, len(self._workers))
            child.metrics_slot = next(slot for slot in slots if slot not in taken)
        self._children[child] = post
        boot = self._boot(child, held or self._served)
        if isinstance(boot, WorkerBoot) and held is not None:
            boot = msgspec.structs.replace(boot, hold=True, whole=whole, generation=committed)
        child.channel.send(boot)
        child.channel.send(self._state)
        if post is self._control and self._models:
            child.channel.send(Models(self._models))
        for violated in self._violations.values():
            child.channel.send(violated)
        self._group.create_task(self._attend(post, child))
        return child

    def _boot(self, child: Child, served: Served) -> Message:
        count, port = len(self._workers), self._ports.numbers["http"]
        control_socket, metrics = str(self._folders.control_socket), str(self._folders.metrics)
        if child.metrics_slot is None:
            return ControlBoot(
                settings=self._settings,
                control_socket=control_socket,
                metrics_dir=metrics,
                home=str(self._folders.home),
                workers=count,
                port=port,
                url=self._url,
                asked=self._asked,
                cores=self._cores,
                sources=self._served.sources,
                server_id=self._id,
                generation=self._committed,
            )
        return WorkerBoot(
            slot=child.metrics_slot,
            workers=self._most_workers,
            threads=self._threads,
            settings=self._settings,
            sources=served.sources,
            live=served.live,
            weights=served.weights,
            control_socket=control_socket,
            metrics_dir=metrics,
            keys=self._keys,
            port=port,
            memory_bytes=self._memory_bytes // self._most_workers,
            from_catalog=not self._asked.paths,
        )

    async def _attend(self, post: Post, child: Child) -> None:
        """Act on what a child says until it is gone."""
        listening = asyncio.ensure_future(self._listen(post, child))
        try:
            await _first_of(listening, child.exited)
            if not child.alive:
                # its last words may still be in the socket; a process that it started may hold the socket open
                await asyncio.wait({listening}, timeout=1.0)
            elif child.phase is not Phase.DRAINING:
                # it closed its channel and lives: nothing can be asked of it any more
                await asyncio.wait({child.exited}, timeout=5.0)
                child.kill()
            await asyncio.wait({child.exited})
        finally:
            listening.cancel()
            del self._children[child]
            await child.channel.close()

    async def _listen(self, post: Post, child: Child) -> None:
        async for message in child.channel.messages():
            match message:
                case Loaded() if child.phase is Phase.STARTING:
                    self._child_serves(child)
                    self._take_models(child, message.models)
                case ControlReady() if child.phase is Phase.STARTING:
                    self._child_serves(child)
                case Loaded() if child.phase is Phase.SERVING:
                    self._take_models(child, message.models)
                case Prepared():
                    self._switch.heard(child, message)
                case Prepare():
                    self._run(self._prepare(message))
                case Commit():
                    self._run(self._commit(message))
                case Abandon():
                    self._run(self._abandon())
                case Alive():
                    child.silent_s = 0.0
                    child.waiting, child.busy = message.waiting, message.busy
                case Want():
                    self._wanted(child, message)
                case Have():
                    self._tell_worker(message)
                case Violated():
                    self._violated(message)
                case Changed():
                    for worker in self._worker_children():
                        worker.channel.send(message)
                case Lapsed():
                    self._lapsed = message.reason
                    self._publish()
                case Failed():
                    child.failure = message
                case Keys():
                    self._take_keys(message)
                case _:
                    self._log.warning(f"{post.name} sent an unexpected {type(message).__name__}")

    async def _notice_silence(self) -> None:
        """Replace children whose event loop stands still: they cannot say so themselves, nor give up."""
        patience_s = PATIENT_DEADLINES * self._settings.request_timeout_s + PATIENT_GRACE_S
        while True:
            await asyncio.sleep(BEAT_S)
            self._tell_control(Alive())
            for child in self._children:
                if child.phase is not Phase.SERVING:
                    continue
                child.silent_s += BEAT_S  # in turns of this loop: while the whole server is stopped, nobody is silent
                if child.silent_s > patience_s and child.failure is None:
                    child.failure = Failed("silent", f"it did not respond for {patience_s:g} s")
                    child.kill()
            self._publish()

    def _child_serves(self, child: Child) -> None:
        child.serves()
        self._children[child].filled.set()
        self._log.debug(f"{child.name} is ready", pid=child.pid)
        self._publish()

    def _take_models(self, child: Child, models: tuple[ModelInfo, ...]) -> None:
        if child.generation <= self._models_generation:
            return
        self._models_generation, self._models = child.generation, models
        if self._control.active is not None:
            self._control.active.channel.send(Models(models))
        self._publish()

    def _take_keys(self, message: Keys) -> None:
        """What control has read in the catalog: at the start, and whenever it changes."""
        if self._keys is None:
            try:
                require_auth(self._settings, has_valid(message.keys))
            except SettingsError as error:
                if not self._end.done():
                    self._end.set_result(error)
                return
        self._keys = message.keys
        for worker in self._worker_children():
            worker.channel.send(message)

    # Another set of versions

    async def _prepare(self, wanted: Prepare) -> None:
        """What control found in the catalog: the first set starts the workers, a later one is loaded beside."""
        async with self._switching:
            if self._models_generation < 0:
                await self._first_set(wanted)
                return
            outcome = await self._switch.prepare(wanted)
            if not outcome.ok:
                self._log.error("a switch was given up; the old versions go on", reason=outcome.reason)
            self._tell_control(outcome)

    async def _first_set(self, wanted: Prepare) -> None:
        self._served = msgspec.structs.replace(
            self._served, sources=wanted.sources, live=wanted.live, weights=wanted.weights
        )
        if not self._begun:  # else control died meanwhile, and its successor has found the same
            self._begun = True
            self._keep_workers()
        for post in self._workers:
            await post.filled.wait()
        self._committed = wanted.generation
        self._tell_control(Prepared(wanted.generation, ok=True))

    async def _commit(self, message: Commit) -> None:
        """Nothing is awaited between the first worker's commit and the last task: no process starts in between."""
        async with self._switching:
            outcome = self._switch.commit(message.generation)
            if outcome is None:
                return
            wanted, before = outcome.wanted, self._served
            self._served = msgspec.structs.replace(
                self._served, sources=wanted.sources, live=wanted.live, weights=wanted.weights
            )
            self._committed = wanted.generation
            self._generation += 1
            for post in self._workers:
                if post.active is not None:
                    post.active.generation = self._generation
            for child in outcome.old:
                self._run(self._retire(child))
            for post in outcome.behind:
                if post.active is not None and post.active.alive:
                    self._run(self._catch_up(post, post.active))
            if before != self._served:
                live = " ".join(f"{name}@{version}" for name, version in wanted.live.items()) or "nothing"
                self._log.info("switched", generation=message.generation, live=live)

    async def _abandon(self) -> None:
        async with self._switching:
            await self._switch.abandon()

    async def _catch_up(self, post: Post, stale: Child) -> None:
        """Replace a worker that came up with the set before, while the others went over to another one."""
        if stale.phase is Phase.STARTING:
            stale.failure = Failed("superseded", "another version went live while it started")
            stale.kill()
        elif why := await self._replace(post):
            stale.failure = Failed("superseded", f"it still had the version before, and could not be replaced: {why}")
            stale.kill()

    def _wanted(self, child: Child, message: Want) -> None:
        control = self._control.active
        if control is None or control.phase is not Phase.SERVING:
            message = msgspec.structs.replace(message, worker=child.pid)
            self._tell_worker(Have(message.number, child.pid, code="not_ready", message=CONTROL_AWAY))
            return
        self._tell_control(msgspec.structs.replace(message, worker=child.pid))

    def _tell_worker(self, message: Have) -> None:
        for child in self._worker_children():
            if child.pid == message.worker:
                child.channel.send(message)

    def _violated(self, message: Violated) -> None:
        """Control keeps the row, and no worker goes on with the form, nor one that starts later from the same set."""
        key = message.model, message.version
        known = self._violations.get(key)
        if known is not None and known.forms == message.forms:
            return
        self._violations[key] = message
        self._tell_control(message)
        for worker in self._worker_children():
            worker.channel.send(message)

    def _tell_control(self, message: Message) -> None:
        if self._control.active is not None:
            self._control.active.channel.send(message)

    # As many workers as are needed

    async def _follow_load(self) -> None:
        """Add workers while requests wait, and drop them when nothing has waited for a while."""
        least, most = len(self._workers), self._most_workers
        growth = Growth(least, most, self._settings.workers_idle_s)
        while self._phase in (Phase.STARTING, Phase.SERVING):
            await asyncio.sleep(BEAT_S)
            active = [post.active for post in self._workers if post.active is not None and post.serving]
            if self._phase is not Phase.SERVING or len(active) < len(self._workers):
                continue
            step = growth.look(
                sum(child.waiting for child in active), sum(child.busy for child in active), len(self._workers)
            )
            if step == "grow" and (why := await self._grow()):
                self._log.error("requests wait, and a worker could not be added", reason=why)
                growth.failed()
            elif step == "shrink":
                await self._shrink()

    async def _grow(self) -> str:
        """Add a worker; why that failed, or "".

        It loads while versions may go live: one that holds a set which nobody has any more is given up, and the next
        look starts another.
        """
        slot, generation = len(self._workers), self._committed
        try:
            listeners = self._ports.add()
        except OSError as error:
            ports = " and ".join(map(str, self._ports.numbers.values()))
            return f"no further socket on port {ports}: {error.strerror or error}"
        post = Post(f"worker {slot}", WORKER, listeners, slot)
        child = await self._start(post, self._served, generation)
        await asyncio.wait({child.settled}, timeout=PREPARE_TIMEOUT_S)
        async with self._switching:
            if self._phase is not Phase.SERVING:
                return ""  # the drain has ended it, or does
            loaded = child.settled.done() and child.settled.result()
            if not loaded or self._committed != generation or self._switch.pending:
                self._ports.drop_last()
                return await self._give_back(child)
            child.channel.send(Commit(generation))
            post.take(child)
            self._workers.append(post)
            self._run(self._keep(post))
            self._publish()
            self._log.info("a worker was added: requests wait", workers=len(self._workers))
        return ""

    async def _give_back(self, child: Child) -> str:
        """End a process that is of no use; why, or "" when only its set is of yesterday."""
        if not child.settled.done():
            why = f"it has not loaded its models within {PREPARE_TIMEOUT_S:g} s"
        elif not child.settled.result():
            why = child.failure.message if child.failure else f"it {child.describe_end()}"
        else:
            why = ""
        child.kill()
        await asyncio.wait({child.exited})
        return why

    async def _shrink(self) -> None:
        """Drop the worker that was added last: it gets no new connection, and answers those it has."""
        async with self._switching:
            if self._switch.pending:
                return  # it has answered for this worker; the next look finds nothing pending
            post = self._workers[-1]
            self._ports.spare_last()
            await asyncio.sleep(HANDSHAKE_S)
            await self._accept_queues_are_empty([post])
            child = post.active
            if self._phase is not Phase.SERVING or child is None or not child.alive:
                self._ports.use_all()
                return
            post.leaves = True
            self._workers.remove(post)
            self._ports.drop_last()
            self._publish()
            self._log.info("a worker is dropped: nothing waits", workers=len(self._workers))
        await self._retire(child)
        self._ports.use_all()

    # The whole server

    def _publish(self) -> None:
        """Tell every process whether the server is ready, when that has changed; the first time, announce it."""
        state = self._truth()
        if state != self._state:
            if state.ready and not self._state.ready and self._phase is Phase.SERVING:
                self._log.info("the server is ready again")
            self._state = state
            self._broadcast(state)
        if state.ready and self._phase is Phase.STARTING:
            self._phase = advance(self._phase, Phase.SERVING)
            self._announce(self._models)

    def _truth(self) -> ServerState:
        serving, count = sum(post.serving for post in self._workers), len(self._workers)
        away = [post for post in (*self._workers, self._control) if not post.serving]
        if self._phase in (Phase.DRAINING, Phase.ENDED):
            return ServerState(False, "the server is draining", serving, count)
        if not away and self._models_generation >= 0:
            return ServerState(not self._lapsed, self._lapsed, serving, count)
        if self._phase is Phase.STARTING:
            return ServerState(
                False, f"starting: {serving} of {count} workers have loaded their models", serving, count
            )
        return ServerState(False, " and ".join(map(_absence, away)), serving, count)

    def _broadcast(self, message: Message) -> None:
        for child in self._children:
            child.channel.send(message)

    def _stop(self, number: int) -> None:
        """What a signal does: the first drains, the second ends everything at once."""
        now = time.monotonic()
        if self._phase in (Phase.STARTING, Phase.SERVING):
            self._stopped_at = now
            self._log.info(f"{signal.Signals(number).name}: draining; again to stop at once")
            self._phase = advance(self._phase, Phase.DRAINING)
            self._run(self._drain())
        elif not self._end.done() and now - self._stopped_at >= ECHO_S:
            self._log.warning(f"{signal.Signals(number).name}: stopping at once")
            self._end.set_result(128 + number)

    async def _drain(self) -> None:
        """Every connection that was accepted or waits is answered; then the workers end, then control."""
        deadline = time.monotonic() + self._settings.drain_timeout_s
        self._ports.refuse_new()
        self._publish()
        for child in self._worker_children():
            if child.phase is Phase.STARTING:
                child.kill()  # it has accepted nothing, and cannot listen to us while it loads
        await self._accept_queues_are_empty(self._workers)
        self._ports.close()
        workers = [child for child in self._worker_children() if child.alive]
        for child in workers:
            _drain_child(child)
        for child in await _ended(workers, deadline - time.monotonic()):
            child.kill()
            await asyncio.wait({child.exited})
        undone = [child for child in workers if child.serving_since is not None and child.exited.result() != 0]
        if undone:
            self._log.error(
                f"requests of {len(undone)} of {len(workers)} workers were still unanswered after drain_timeout_s = "
                f"{self._settings.drain_timeout_s:g}"
            )
        rest = [child for child in self._children if child not in workers]
        for child in rest:
            _drain_child(child)
        await _ended(rest, CONTROL_DRAIN_S)
        if not self._end.done():
            self._end.set_result(1 if undone else 0)

    async def _accept_queues_are_empty(self, posts: Sequence[Post]) -> None:
        """Until the workers have accepted all that was established: their sockets may close then without a loss."""
        serving = [sock for post in posts if post.serving for sock in post.listeners.values()]
        deadline = time.monotonic() + ACCEPT_QUEUE_S
        empty_looks = 0
        while empty_looks < 2 and time.monotonic() < deadline:  # twice: the end of a handshake may be on its way
            await asyncio.sleep(0.01)
            waiting = sum(map(waiting_connections, serving))
            empty_looks = 0 if waiting else empty_looks + 1

    def _worker_children(self) -> list[Child]:
        return [child for child, post in self._children.items() if post is not self._control]

    # Another process for a post

    async def _replace(self, post: Post) -> str:
        """Let a fresh process with what is served now take a post over; why it could not, "" when it did."""
        fresh = await self._start(post)
        await asyncio.wait({fresh.settled})
        if self._phase is not Phase.SERVING:
            return ""
        if not fresh.settled.result():
            return fresh.failure.message if fresh.failure else f"the new {post.name} {fresh.describe_end()}"
        old = post.take(fresh)
        self._publish()
        if old is not None and old.alive:
            self._run(self._retire(old))
        return ""

    async def _retire(self, child: Child) -> None:
        """Let a worker that has a successor answer what it has accepted, and end."""
        if child.phase is Phase.STARTING:
            child.kill()
        else:
            _drain_child(child, successor=True)
        for late in await _ended([child], self._settings.drain_timeout_s + RETIRE_GRACE_S):
            late.kill()


def _absence(post: Post) -> str:
    silent = post.active is not None and post.active.phase is Phase.SERVING
    return f"{post.name} {'does not respond' if silent else 'is restarting'}"


def _drain_child(child: Child, *, successor: bool = False) -> None:
    if child.phase in (Phase.STARTING, Phase.SERVING):
        child.drains()
    child.channel.send(Drain(successor))


async def _first_of(*awaited: asyncio.Future[Any]) -> None:
    await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)


async def _ended(children: Sequence[Child], timeout_s: float) -> list[Child]:
    """Wait for the end of processes; those that still live after the time-out."""
    exits = [child.exited for child in children]
    if exits:
        await asyncio.wait(exits, timeout=max(timeout_s, 0))
    return [child for child in children if child.alive]


@contextlib.contextmanager
def _signals(stop: Callable[[int], None]) -> Iterator[None]:
    """SIGTERM and SIGINT call `stop`; SIGHUP, which a closed terminal sends, is ignored."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        # all is done: what comes now must not change the exit code
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)
