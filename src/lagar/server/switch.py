"""Brings all workers of a server to another set of versions, or none of them.

Each worker that has the libraries loads the set beside the one it answers with; for any other a fresh process loads it
and waits. Only when every worker has loaded and verified is anything switched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from lagar.server.channel import Abandon, Commit, Prepare, Prepared
from lagar.server.post import Post
from lagar.server.process import Child

PREPARE_TIMEOUT_S = 55.0
"""How long a worker may take to load a set, its own restart included: the catalog gives up after a minute, and by then
the reason should be there."""

Start = Callable[[Post, Prepare], Awaitable[Child]]
"""Start a process for a post that loads the set and accepts no connection."""


class Plan:
    """A set that every worker is ready to answer with."""

    def __init__(self, wanted: Prepare, workers: int) -> None:
        self.wanted = wanted
        self.turns = asyncio.Semaphore(max(1, workers // 2))
        """Processes that load a library at a time: they compute beside the workers, which have to go on answering."""
        self.failed = ""
        """Why the set cannot be served, once one worker has said so."""
        self.asked: set[Child] = set()
        """Workers that were told of it."""
        self.beside: dict[Post, Child] = {}
        """Those of them that hold it beside their own."""
        self.fresh: dict[Post, Child] = {}
        """Processes that will take a post over."""
        self.ready = False


class Outcome:
    """What a commit has done, and what is left to do."""

    def __init__(self, wanted: Prepare) -> None:
        self.wanted = wanted
        self.old: list[Child] = []
        """Processes whose post another one has taken over."""
        self.behind: list[Post] = []
        """Places whose process died since it had prepared: who serves there now has the set before."""


class Switch:
    """One switch at a time: prepare, then commit or abandon."""

    def __init__(self, posts: Sequence[Post], start: Start) -> None:
        self._posts = posts
        self._start = start
        self._answers: dict[Child, asyncio.Future[Prepared]] = {}
        self._plan: Plan | None = None

    @property
    def pending(self) -> bool:
        """Whether a set is prepared, or is about to be, that was neither committed nor abandoned."""
        return self._plan is not None

    def heard(self, child: Child, answer: Prepared) -> None:
        """A worker has said how its part of the preparation went."""
        waiting, plan = self._answers.get(child), self._plan
        if waiting is None or waiting.done() or plan is None or answer.generation != plan.wanted.generation:
            return  # of a preparation that was given up
        waiting.set_result(answer)

    async def prepare(self, wanted: Prepare) -> Prepared:
        """Have every worker load the set; on any failure all forget it, and the reason is told."""
        if self._plan is not None and self._plan.ready and self._plan.wanted == wanted:
            return Prepared(wanted.generation, ok=True)  # control was replaced, and asks again
        await self.abandon()
        self._plan = plan = Plan(wanted, len(self._posts))
        outcomes = await asyncio.gather(*(self._prepare_post(plan, post) for post in self._posts))
        failed = [outcome for outcome in outcomes if outcome]
        if failed:
            await self.abandon()
            return Prepared(wanted.generation, ok=False, reason=failed[0])
        plan.ready = True
        return Prepared(wanted.generation, ok=True)

    async def _prepare_post(self, plan: Plan, post: Post) -> str:
        """Why this worker cannot serve the set; "" when it can."""
        try:
            async with asyncio.timeout(PREPARE_TIMEOUT_S):
                return await self._load(plan, post)
        except TimeoutError:
            return f"{post.name} has not loaded the version within {PREPARE_TIMEOUT_S:g} s; the old one goes on"

    async def _load(self, plan: Plan, post: Post) -> str:
        await post.filled.wait()
        child = post.active
        if child is None or not post.serving:
            return f"{post.name} does not respond; try again when the server is ready"
        answer = await self._ask(plan, child)
        if answer is None:
            return f"{post.name} {child.describe_end()} while it loaded the version; the old one goes on"
        if answer.ok:
            plan.beside[post] = child
            return ""
        if not answer.fresh:
            return answer.reason
        async with plan.turns:
            return plan.failed or await self._load_fresh(plan, post)

    async def _load_fresh(self, plan: Plan, post: Post) -> str:
        fresh = await self._start(post, plan.wanted)
        plan.fresh[post] = fresh
        await asyncio.wait({fresh.settled})
        if fresh.settled.result():
            return ""
        why = fresh.failure.message if fresh.failure else f"a new {post.name} {fresh.describe_end()} while it loaded"
        plan.failed = f"{why}; the old version goes on"
        return plan.failed

    async def _ask(self, plan: Plan, child: Child) -> Prepared | None:
        answer: asyncio.Future[Prepared] = asyncio.get_running_loop().create_future()
        self._answers[child] = answer
        plan.asked.add(child)
        child.channel.send(plan.wanted)
        ends: set[asyncio.Future[Any]] = {answer, child.exited}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            del self._answers[child]
        return answer.result() if answer.done() else None

    def commit(self, generation: int) -> Outcome | None:
        """Switch every worker to the prepared set, in one step; None when it is not prepared (any more)."""
        plan = self._plan
        if plan is None or plan.wanted.generation != generation:
            return None
        self._plan = None
        outcome = Outcome(plan.wanted)
        outcome.behind += [post for post in self._posts if post not in plan.beside and post not in plan.fresh]
        for post, child in plan.beside.items():
            if post.active is child and child.alive:
                child.channel.send(Commit(generation))
            else:
                outcome.behind.append(post)
        for post, fresh in plan.fresh.items():
            if not fresh.alive:
                outcome.behind.append(post)
                continue
            fresh.channel.send(Commit(generation))
            old = post.take(fresh)
            if old is not None and old.alive:
                outcome.old.append(old)
        return outcome

    async def abandon(self) -> None:
        """Forget what was prepared."""
        plan, self._plan = self._plan, None
        if plan is None:
            return
        for child in plan.asked:
            child.channel.send(Abandon(plan.wanted.generation))
        for fresh in plan.fresh.values():
            fresh.kill()
            await asyncio.wait({fresh.exited})
