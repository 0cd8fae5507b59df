"""The server goes over to another set of versions: control names it, all workers load it, then all answer with it."""

from __future__ import annotations

import asyncio

from lagar.logs import Log
from lagar.server.briefing import Briefing, Held, Served
from lagar.server.channel import Commit, Failed, Prepare, Prepared
from lagar.server.crew import Crew
from lagar.server.life import Life
from lagar.server.post import Post
from lagar.server.process import Child, Phase
from lagar.server.switch import Switch


class Changeover:
    """What control found in the catalog, step by step; each step waits for the one before it."""

    def __init__(self, crew: Crew, briefing: Briefing, life: Life, log: Log) -> None:
        self.turn = asyncio.Lock()
        """Held while the set changes, or the number of workers."""
        self._crew = crew
        self._briefing = briefing
        self._life = life
        self._log = log
        self._switch = Switch(crew.workers, self._start_held)
        self._begun = False
        """True once the workers are kept."""

    @property
    def pending(self) -> bool:
        """Whether a set is prepared, or is about to be, that was neither committed nor abandoned."""
        return self._switch.pending

    def heard(self, child: Child, answer: Prepared) -> None:
        """A worker has said how its part of the preparation went."""
        self._switch.heard(child, answer)

    async def _start_held(self, post: Post, wanted: Prepare) -> Child:
        """A process for a worker's post that loads a set and accepts no connection before Commit."""
        return await self._crew.start(post, Held(Served.of(wanted), wanted.generation, whole=True))

    async def prepare(self, wanted: Prepare) -> None:
        """The first set starts the workers, a later one is loaded beside."""
        async with self.turn:
            if not self._briefing.has_models:
                await self._first_set(wanted)
                return
            outcome = await self._switch.prepare(wanted)
            if not outcome.ok:
                self._log.error("a switch was given up; the old versions go on", reason=outcome.reason)
            self._crew.tell_control(outcome)

    async def _first_set(self, wanted: Prepare) -> None:
        self._briefing.served = Served.of(wanted)
        if not self._begun:  # else control died meanwhile, and its successor has found the same
            self._begun = True
            for post in self._crew.workers:
                self._crew.keep(post)
        for post in self._crew.workers:
            await post.filled.wait()
        self._briefing.committed = wanted.generation
        self._crew.tell_control(Prepared(wanted.generation, ok=True))

    async def commit(self, message: Commit) -> None:
        """Nothing is awaited between the first worker's commit and the last task: no process starts in between."""
        async with self.turn:
            outcome = self._switch.commit(message.generation)
            if outcome is None:
                return
            wanted, before = outcome.wanted, self._briefing.served
            self._briefing.served = Served.of(wanted)
            self._briefing.committed = wanted.generation
            self._briefing.switches += 1
            for post in self._crew.workers:
                if post.active is not None:
                    post.active.switches = self._briefing.switches
            for child in outcome.old:
                self._life.run(self._crew.retire(child))
            for post in outcome.behind:
                if post.active is not None and post.active.alive:
                    self._life.run(self._catch_up(post, post.active))
            if before != self._briefing.served:
                live = " ".join(f"{name}@{version}" for name, version in wanted.live.items()) or "nothing"
                self._log.info("switched", generation=message.generation, live=live)

    async def abandon(self) -> None:
        """Forget what was prepared."""
        async with self.turn:
            await self._switch.abandon()

    async def _catch_up(self, post: Post, stale: Child) -> None:
        """Replace a worker that came up with the set before, while the others went over to another one."""
        if stale.phase is Phase.STARTING:
            stale.failure = Failed("superseded", "another version went live while it started")
            stale.kill()
        elif why := await self._crew.replace(post):
            stale.failure = Failed("superseded", f"it still had the version before, and could not be replaced: {why}")
            stale.kill()
