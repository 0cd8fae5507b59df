"""How a process ends without a loss: what waits at its sockets is accepted, what it accepted is answered, it ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from lagar.server.channel import Drain
from lagar.server.post import Post
from lagar.server.process import Child, Phase
from lagar.server.sockets import waiting_connections

ACCEPT_QUEUE_S = 2.0
"""At most this long the workers are given to accept the connections that were waiting when the drain began."""


async def accept_queues_are_empty(posts: Sequence[Post]) -> None:
    """Until the workers have accepted all that was established: their sockets may close then without a loss."""
    serving = [sock for post in posts if post.serving for sock in post.listeners.values()]
    deadline = time.monotonic() + ACCEPT_QUEUE_S
    empty_looks = 0
    while empty_looks < 2 and time.monotonic() < deadline:  # twice: the end of a handshake may be on its way
        await asyncio.sleep(0.01)
        waiting = sum(map(waiting_connections, serving))
        empty_looks = 0 if waiting else empty_looks + 1


def drain_child(child: Child, *, successor: bool = False) -> None:
    """Have a process answer what it has accepted, and end."""
    if child.phase in (Phase.STARTING, Phase.SERVING):
        child.drains()
    child.channel.send(Drain(successor))


async def ended(children: Sequence[Child], timeout_s: float) -> list[Child]:
    """Wait for the end of processes; those that still live after the time-out."""
    exits = [child.exited for child in children]
    if exits:
        await asyncio.wait(exits, timeout=max(timeout_s, 0))
    return [child for child in children if child.alive]
