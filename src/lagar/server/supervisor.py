"""The supervisor: runs a server from its start to its end, tells the truth about readiness, drains on request."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Callable, Mapping

import msgspec

from lagar.errors import SettingsError, SetupError
from lagar.logs import Log
from lagar.registry.model import ModelInfo
from lagar.server.auth import has_valid
from lagar.server.briefing import Briefing, Facts
from lagar.server.changeover import Changeover
from lagar.server.channel import (
    Abandon,
    Alive,
    Changed,
    Commit,
    ControlReady,
    Failed,
    Have,
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
)
from lagar.server.crew import Crew
from lagar.server.drain import accept_queues_are_empty, drain_child, ended
from lagar.server.hiring import Hiring
from lagar.server.life import Life, signals
from lagar.server.post import Post
from lagar.server.process import Child, Phase
from lagar.server.sockets import Ports
from lagar.settings import require_auth

CONTROL_DRAIN_S = 5.0
ECHO_S = 0.1
"""A second signal so soon is the first one again: `timeout` and `uv run` pass on what the terminal has also sent."""

CONTROL_AWAY = "the control process is being restarted: whether there is such a version is not known; try again"


class Supervisor:
    """Runs one server from its start to its end."""

    def __init__(
        self,
        facts: Facts,
        ports: Ports,
        control_listeners: Mapping[str, socket.socket],
        environment: Mapping[str, str],
        log: Log,
        announce: Callable[[tuple[ModelInfo, ...]], None],
    ) -> None:
        """`announce` is called when the server is ready for the first time, with what it has loaded."""
        self._settings = facts.settings
        self._most_workers = facts.most_workers
        self._ports = ports
        self._log = log
        self._announce = announce
        self._lapsed = "" if facts.asked.paths else "starting: nothing has been heard of the catalog"
        """Why control cannot follow the catalog."""
        self._stopped_at = 0.0
        """time.monotonic() of the signal that began the drain."""
        workers = [Post.of_worker(slot, sockets) for slot, sockets in enumerate(ports.sockets)]
        control = Post.of_control(control_listeners)
        self._life = Life()
        self._briefing = Briefing(facts, len(workers))
        self._crew = Crew(
            workers, control, self._briefing, self._life, environment, log, heard=self._heard, changed=self._publish
        )
        self._changeover = Changeover(self._crew, self._briefing, self._life, log)
        self._hiring = Hiring(self._crew, self._changeover, self._briefing, ports, self._life, log)

    async def run(self) -> int:
        """Serve until a signal ends it; returns the exit code.

        0 after a drain that answered everything, 1 when the drain ran out of time, 128 + the signal's number when a
        second signal cut it short. Raises SetupError when the server cannot start.
        """
        with signals(self._stop):
            async with asyncio.TaskGroup() as group:
                self._life.begin(group)
                self._crew.keep(self._crew.control)
                self._life.run(self._crew.notice_silence())
                if self._most_workers > len(self._crew.workers):
                    self._life.run(self._hiring.follow_load())
                try:
                    outcome = await self._life.outcome
                finally:
                    for child in self._crew.children:
                        child.kill()  # the group waits until each is reaped
                    self._life.end()
        if isinstance(outcome, SetupError):
            raise outcome
        return outcome

    # What the children say

    def _heard(self, child: Child, message: Message) -> None:
        crew, run = self._crew, self._life.run
        match message:
            case Loaded() if child.phase is Phase.STARTING:
                crew.serves(child)
                self._take_models(child, message.models)
            case ControlReady() if child.phase is Phase.STARTING:
                crew.serves(child)
            case Loaded() if child.phase is Phase.SERVING:
                self._take_models(child, message.models)
            case Prepared():
                self._changeover.heard(child, message)
            case Prepare():
                run(self._changeover.prepare(message))
            case Commit():
                run(self._changeover.commit(message))
            case Abandon():
                run(self._changeover.abandon())
            case Alive():
                child.silent_s = 0.0
                child.waiting, child.busy = message.waiting, message.busy
            case Want():
                self._ask_control(child, message)
            case Have():
                crew.tell_worker(message.worker, message)
            case Violated():
                self._take_violation(message)
            case Changed():
                crew.tell_workers(message)
            case Lapsed():
                self._lapsed = message.reason
                self._publish()
            case Failed():
                child.failure = message
            case Keys():
                self._take_keys(message)
            case _:
                self._log.warning(f"{child.name} sent an unexpected {type(message).__name__}")

    def _take_models(self, child: Child, models: tuple[ModelInfo, ...]) -> None:
        if self._briefing.learn_models(models, child.switches):
            self._crew.tell_control(Models(models))
            self._publish()

    def _take_keys(self, message: Keys) -> None:
        """What control has read in the catalog: at the start, and whenever it changes."""
        if self._briefing.keys is None:
            try:
                require_auth(self._settings, has_valid(message.keys))
            except SettingsError as error:
                self._life.end_with(error)
                return
        self._briefing.keys = message.keys
        self._crew.tell_workers(message)

    def _take_violation(self, message: Violated) -> None:
        """Control keeps the row, and no worker goes on with the form, nor one that starts later from the same set."""
        if self._briefing.learn_violation(message):
            self._crew.tell_control(message)
            self._crew.tell_workers(message)

    def _ask_control(self, child: Child, message: Want) -> None:
        control = self._crew.control.active
        if control is None or control.phase is not Phase.SERVING:
            self._crew.tell_worker(child.pid, Have(message.number, child.pid, code="not_ready", message=CONTROL_AWAY))
            return
        self._crew.tell_control(msgspec.structs.replace(message, worker=child.pid))

    # Whether the server is ready

    def _publish(self) -> None:
        """Tell every process whether the server is ready, when that has changed; the first time, announce it."""
        state, before, life = self._truth(), self._briefing.state, self._life
        if state != before:
            if state.ready and not before.ready and life.phase is Phase.SERVING:
                self._log.info("the server is ready again")
            self._briefing.state = state
            self._crew.tell_all(state)
        if state.ready and life.phase is Phase.STARTING:
            life.advance(Phase.SERVING)
            self._announce(self._briefing.models)

    def _truth(self) -> ServerState:
        workers, phase = self._crew.workers, self._life.phase
        serving, count = sum(post.serving for post in workers), len(workers)
        away = self._crew.away()
        if phase in (Phase.DRAINING, Phase.ENDED):
            return ServerState(False, "the server is draining", serving, count)
        if not away and self._briefing.has_models:
            return ServerState(not self._lapsed, self._lapsed, serving, count)
        if phase is Phase.STARTING:
            return ServerState(
                False, f"starting: {serving} of {count} workers have loaded their models", serving, count
            )
        return ServerState(False, " and ".join(post.absence() for post in away), serving, count)

    # The end

    def _stop(self, number: int) -> None:
        """What a signal does: the first drains, the second ends everything at once."""
        now = time.monotonic()
        if self._life.goes_on:
            self._stopped_at = now
            self._log.info(f"{signal.Signals(number).name}: draining; again to stop at once")
            self._life.advance(Phase.DRAINING)
            self._life.run(self._drain())
        elif not self._life.outcome.done() and now - self._stopped_at >= ECHO_S:
            self._log.warning(f"{signal.Signals(number).name}: stopping at once")
            self._life.end_with(128 + number)

    async def _drain(self) -> None:
        """Every connection that was accepted or waits is answered; then the workers end, then control."""
        deadline = time.monotonic() + self._settings.drain_timeout_s
        self._ports.refuse_new()
        self._publish()
        for child in self._crew.worker_children():
            if child.phase is Phase.STARTING:
                child.kill()  # it has accepted nothing, and cannot listen to us while it loads
        await accept_queues_are_empty(self._crew.workers)
        self._ports.close()
        workers = [child for child in self._crew.worker_children() if child.alive]
        for child in workers:
            drain_child(child)
        for child in await ended(workers, deadline - time.monotonic()):
            child.kill()
            await asyncio.wait({child.exited})
        undone = [child for child in workers if child.serving_since is not None and child.exited.result() != 0]
        if undone:
            self._log.error(
                f"requests of {len(undone)} of {len(workers)} workers were still unanswered after drain_timeout_s = "
                f"{self._settings.drain_timeout_s:g}"
            )
        rest = [child for child in self._crew.children if child not in workers]
        for child in rest:
            drain_child(child)
        await ended(rest, CONTROL_DRAIN_S)
        self._life.end_with(1 if undone else 0)
