"""Brings all workers of a server to another set of versions, or none of them.

Each worker that has the libraries loads the set beside the one it answers with; for any other a fresh process loads it
and waits. Only when every worker has loaded and verified is anything switched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from lagar.server.channel import Abandon, Commit, Prepare, Prepared
from lagar.server.process import Child

if TYPE_CHECKING:
    from lagar.server.supervisor import Post

SERVING_TIMEOUT_S = 30.0
"""How long a switch waits for a worker that is just being restarted."""

Start = Callable[["Post", Prepare], Awaitable[Child]]
"""Start a process for a post that loads the set and accepts no connection."""


class Plan:
    """A set that every worker is ready to answer with."""

    def __init__(self, wanted: Prepare) -> None:
        self.wanted = wanted
        self.beside: dict[Post, Child] = {}
        """Workers that hold it beside their own."""
        self.fresh: dict[Post, Child] = {}
        """Processes that will take a post over."""


class Switch:
    """One switch at a time: prepare, then commit or abandon."""

    def __init__(self, posts: Sequence[Post], start: Start, retire: Callable[[Child], Awaitable[None]]) -> None:
        self._posts = posts
        self._start = start
        self._retire = retire
        self._answers: dict[Child, asyncio.Future[Prepared]] = {}
        self._plan: Plan | None = None

    def heard(self, child: Child, answer: Prepared) -> None:
        """A worker has said how its part of the preparation went."""
        waiting = self._answers.pop(child, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)

    async def prepare(self, wanted: Prepare) -> Prepared:
        """Have every worker load the set; on any failure all forget it, and the reason is told."""
        await self.abandon()
        plan = Plan(wanted)
        outcomes = await asyncio.gather(*(self._prepare_post(plan, post) for post in self._posts))
        self._plan = plan
        failed = [outcome for outcome in outcomes if outcome]
        if failed:
            await self.abandon()
            return Prepared(wanted.generation, ok=False, reason=failed[0])
        return Prepared(wanted.generation, ok=True)

    async def _prepare_post(self, plan: Plan, post: Post) -> str:
        """Why this worker cannot serve the set; "" when it can."""
        child = await self._serving_child(post)
        if child is None:
            return f"{post.name} is not serving; try again when the server is ready"
        answer = await self._ask(child, plan.wanted)
        if answer is None:
            return f"{post.name} {child.describe_end()} while it loaded the version; the old one goes on"
        if answer.ok:
            plan.beside[post] = child
            return ""
        if not answer.fresh:
            return answer.reason
        fresh = await self._start(post, plan.wanted)
        plan.fresh[post] = fresh
        await asyncio.wait({fresh.settled})
        if fresh.settled.result():
            return ""
        return fresh.failure.message if fresh.failure else f"a new {post.name} {fresh.describe_end()} while it loaded"

    async def _serving_child(self, post: Post) -> Child | None:
        try:
            async with asyncio.timeout(SERVING_TIMEOUT_S):
                await post.filled.wait()
        except TimeoutError:
            return None
        return post.active if post.serving else None

    async def _ask(self, child: Child, wanted: Prepare) -> Prepared | None:
        answer: asyncio.Future[Prepared] = asyncio.get_running_loop().create_future()
        self._answers[child] = answer
        child.channel.send(wanted)
        ends: set[asyncio.Future[Any]] = {answer, child.exited}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        self._answers.pop(child, None)
        return answer.result() if answer.done() else None

    async def commit(self, generation: int) -> Plan | None:
        """Switch every worker to the prepared set; None when it is not prepared (any more).

        A worker that died since it had prepared is replaced as any dead one is: its successor loads what was committed.
        """
        plan, self._plan = self._plan, None
        if plan is None or plan.wanted.generation != generation:
            self._plan = plan
            return None
        for post, child in plan.beside.items():
            if post.active is child and child.alive:
                child.channel.send(Commit(generation))
            elif post.active is not None and post.active.alive:
                post.active.kill()  # it was started with the old set meanwhile
        for post, fresh in plan.fresh.items():
            old = post.active
            fresh.channel.send(Commit(generation))
            post.active = fresh
            post.deaths = 0
            if old is not None and old.alive:
                asyncio.get_running_loop().create_task(_awaited(self._retire(old)))
        return plan

    async def abandon(self) -> None:
        """Forget what was prepared."""
        plan, self._plan = self._plan, None
        if plan is None:
            return
        for child in plan.beside.values():
            child.channel.send(Abandon(plan.wanted.generation))
        for fresh in plan.fresh.values():
            fresh.kill()
            await asyncio.wait({fresh.exited})


async def _awaited(work: Awaitable[None]) -> None:
    await work
