"""As many workers as are needed: adds one while requests wait, drops one when nothing has waited for a while.

`growth` decides; here is how a worker joins those that answer, and how one leaves them without a loss.
"""

from __future__ import annotations

import asyncio

from lagar.logs import Log
from lagar.server.briefing import Briefing, Held
from lagar.server.changeover import Changeover
from lagar.server.channel import BEAT_S, Commit
from lagar.server.crew import Crew
from lagar.server.drain import accept_queues_are_empty
from lagar.server.growth import Growth
from lagar.server.life import Life
from lagar.server.post import Post
from lagar.server.process import Child, Phase
from lagar.server.sockets import Ports
from lagar.server.switch import PREPARE_TIMEOUT_S

HANDSHAKE_S = 1.0
"""A connection whose first packet went to a socket is there after this time."""


class Hiring:
    """Adds and drops the workers of a server that has a range of them."""

    def __init__(
        self, crew: Crew, changeover: Changeover, briefing: Briefing, ports: Ports, life: Life, log: Log
    ) -> None:
        self._crew = crew
        self._changeover = changeover
        self._briefing = briefing
        self._ports = ports
        self._life = life
        self._log = log

    async def follow_load(self) -> None:
        """Look at the beats of all workers once a second, as long as the server goes on."""
        workers, facts = self._crew.workers, self._briefing.facts
        growth = Growth(len(workers), facts.most_workers, facts.settings.workers_idle_s)
        while self._life.goes_on:
            await asyncio.sleep(BEAT_S)
            active = [post.active for post in workers if post.active is not None and post.serving]
            if self._life.phase is not Phase.SERVING or len(active) < len(workers):
                continue
            step = growth.look(
                sum(child.waiting for child in active), sum(child.busy for child in active), len(workers)
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
        workers, generation = self._crew.workers, self._briefing.committed
        slot = len(workers)
        try:
            listeners = self._ports.add()
        except OSError as error:
            ports = " and ".join(map(str, self._ports.numbers.values()))
            return f"no further socket on port {ports}: {error.strerror or error}"
        post = Post.of_worker(slot, listeners)
        child = await self._crew.start(post, Held(self._briefing.served, generation))
        await asyncio.wait({child.settled}, timeout=PREPARE_TIMEOUT_S)
        async with self._changeover.turn:
            if self._life.phase is not Phase.SERVING:
                return ""  # the drain has ended it, or does
            loaded = child.settled.done() and child.settled.result()
            if not loaded or self._briefing.committed != generation or self._changeover.pending:
                self._ports.drop_last()
                return await self._give_back(child)
            child.channel.send(Commit(generation))
            post.take(child)
            workers.append(post)
            self._crew.keep(post)
            self._crew.changed()
            self._log.info("a worker was added: requests wait", workers=len(workers))
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
        async with self._changeover.turn:
            if self._changeover.pending:
                return  # it has answered for this worker; the next look finds nothing pending
            workers = self._crew.workers
            post = workers[-1]
            self._ports.spare_last()
            await asyncio.sleep(HANDSHAKE_S)
            await accept_queues_are_empty([post])
            child = post.active
            if self._life.phase is not Phase.SERVING or child is None or not child.alive:
                self._ports.use_all()
                return
            post.leaves = True
            workers.remove(post)
            self._ports.drop_last()
            self._crew.changed()
            self._log.info("a worker is dropped: nothing waits", workers=len(workers))
        await self._crew.retire(child)
        self._ports.use_all()
