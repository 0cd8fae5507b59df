"""The child processes of a server: keeps every post filled, listens to who fills it, and hands a post over."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping
from typing import Any

from lagar.errors import LoadFailed, setup_error
from lagar.logs import Log
from lagar.server.briefing import Briefing, Held
from lagar.server.channel import BEAT_S, Alive, Failed, Message
from lagar.server.drain import drain_child, ended
from lagar.server.life import Life
from lagar.server.post import Post, restart_delay_s
from lagar.server.process import Child, Phase, start_child

PATIENT_DEADLINES = 3
PATIENT_GRACE_S = 10.0
"""A child that is silent for so many deadlines of a request and this time is replaced: it is stopped, or it holds the
interpreter and did not end itself."""
RETIRE_GRACE_S = 2.0
"""Beyond the drain time-out, at whose end a retired worker ends itself."""


class Crew:
    """Every post of a server and every process that was started for one."""

    def __init__(
        self,
        workers: list[Post],
        control: Post,
        briefing: Briefing,
        life: Life,
        environment: Mapping[str, str],
        log: Log,
        *,
        heard: Callable[[Child, Message], None],
        changed: Callable[[], None],
    ) -> None:
        """`heard` is called with what a child says, `changed` when a post may serve that did not, or not any more."""
        self.workers = workers
        self.control = control
        self.children: dict[Child, Post] = {}
        """Every process that has not been reaped, retired ones too."""
        self.changed = changed
        self._briefing = briefing
        self._settings = briefing.facts.settings
        self._life = life
        self._environment = environment
        self._log = log
        self._heard = heard

    # One post

    def keep(self, post: Post) -> None:
        """Keep a post filled as long as the server goes on."""
        self._life.run(self._keep(post))

    async def _keep(self, post: Post) -> None:
        """What ends while the server starts ends the server."""
        while self._life.goes_on:
            if post.active is None or not post.active.alive:
                post.active = await self.start(post)
            child = post.active
            post.handed_over = asyncio.get_running_loop().create_future()
            await _first_of(child.exited, post.handed_over)
            if not self._life.goes_on:
                return
            if post.leaves:
                return
            if post.active is child:
                await self._mourn(post, child)

    async def _mourn(self, post: Post, child: Child) -> None:
        """Say why a child ended, and wait as long as its successor has to."""
        post.lose(child)
        self.changed()
        if self._life.phase is Phase.STARTING and child.serving_since is None:
            told = child.failure
            self._life.end_with(
                setup_error(told.code, told.message)
                if told
                else LoadFailed(f"{post.name} {child.describe_end()} while it was starting{self._loading(post)}")
            )
            return
        why = child.failure.message if child.failure else f"it {child.describe_end()}"
        delay = restart_delay_s(post.deaths)
        self._log.error(f"{post.name} is restarted: {why}", pid=child.pid, delay_s=delay or None)
        await asyncio.sleep(delay)

    def _loading(self, post: Post) -> str:
        """What a worker had to load: one of these is at fault where it did not live to say which."""
        names = [f"{source.name}@{source.version}" for source in self._briefing.served.sources]
        if post.slot is None or not names:
            return ""
        if len(names) == 1:
            return f"; it had to load {names[0]}: open that once by hand, with the library that saved it"
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        return f"; it had to load {', '.join(names[:5])}{more}: serve fewer of them to find the one that ends it"

    async def start(self, post: Post, held: Held | None = None) -> Child:
        """Start a child for a post, send it what it needs, and listen to it until its end.

        With `held` it accepts no connection before the Commit of that generation.
        """
        child = await start_child(post.name, post.module, post.listeners, self._environment)
        child.switches = self._briefing.switches
        if post.slot is None:
            first_words = self._briefing.for_control(len(self.workers))
        else:
            child.metrics_slot = self._free_metrics_slot(post.slot)
            first_words = self._briefing.for_worker(child.metrics_slot, held)
        self.children[child] = post
        for message in first_words:
            child.channel.send(message)
        self._life.see_through(self._attend(post, child))
        return child

    def _free_metrics_slot(self, slot: int) -> int:
        # a dead one may still be listened to: its successor goes on with its counts, and sets its gauges back
        taken = {other.metrics_slot for other in self.children if other.alive}
        slots = itertools.count(slot, len(self.workers))
        return next(slot for slot in slots if slot not in taken)

    async def _attend(self, post: Post, child: Child) -> None:
        """Act on what a child says until it is gone."""
        listening = asyncio.ensure_future(self._listen(child))
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
            del self.children[child]
            await child.channel.close()

    async def _listen(self, child: Child) -> None:
        async for message in child.channel.messages():
            self._heard(child, message)

    def serves(self, child: Child) -> None:
        """It said that it can answer."""
        child.serves()
        self.children[child].filled.set()
        self._log.debug(f"{child.name} is ready", pid=child.pid)
        self.changed()

    async def notice_silence(self) -> None:
        """Replace children whose event loop stands still: they cannot say so themselves, nor give up."""
        patience_s = PATIENT_DEADLINES * self._settings.request_timeout_s + PATIENT_GRACE_S
        while True:
            await asyncio.sleep(BEAT_S)
            self.tell_control(Alive())
            for child in self.children:
                if child.phase is not Phase.SERVING:
                    continue
                child.silent_s += BEAT_S  # in turns of this loop: while the whole server is stopped, nobody is silent
                if child.silent_s > patience_s and child.failure is None:
                    child.failure = Failed("silent", f"it did not respond for {patience_s:g} s")
                    child.kill()
            self.changed()

    # Another process for a post

    async def replace(self, post: Post) -> str:
        """Let a fresh process with what is served now take a post over; why it could not, "" when it did."""
        fresh = await self.start(post)
        await asyncio.wait({fresh.settled})
        if self._life.phase is not Phase.SERVING:
            return ""
        if not fresh.settled.result():
            return fresh.failure.message if fresh.failure else f"the new {post.name} {fresh.describe_end()}"
        old = post.take(fresh)
        self.changed()
        if old is not None and old.alive:
            self._life.run(self.retire(old))
        return ""

    async def retire(self, child: Child) -> None:
        """Let a worker that has a successor answer what it has accepted, and end."""
        if child.phase is Phase.STARTING:
            child.kill()
        else:
            drain_child(child, successor=True)
        for late in await ended([child], self._settings.drain_timeout_s + RETIRE_GRACE_S):
            late.kill()

    # What is said to whom

    def tell_all(self, message: Message) -> None:
        for child in self.children:
            child.channel.send(message)

    def tell_control(self, message: Message) -> None:
        if self.control.active is not None:
            self.control.active.channel.send(message)

    def tell_workers(self, message: Message) -> None:
        for worker in self.worker_children():
            worker.channel.send(message)

    def tell_worker(self, pid: int, message: Message) -> None:
        for child in self.worker_children():
            if child.pid == pid:
                child.channel.send(message)

    def worker_children(self) -> list[Child]:
        """The processes of workers, those that begin or end too."""
        return [child for child, post in self.children.items() if post is not self.control]

    def away(self) -> list[Post]:
        """The posts that no process fills as it should."""
        return [post for post in (*self.workers, self.control) if not post.serving]


async def _first_of(*awaited: asyncio.Future[Any]) -> None:
    await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
