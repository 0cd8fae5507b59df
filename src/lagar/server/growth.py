"""When a server adds a worker, and when it drops one: `workers = "MIN:MAX"`.

Each worker says in its beat how many requests waited for their turn since the last one, on average, and how much it
computed. A queue that stays non-empty is worth a worker; one that was empty for a while, with so little to do that the
others can take it over, is not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

from lagar.server.channel import Alive

if TYPE_CHECKING:  # it brings numpy, and the supervisor has none
    from lagar.engine.deployment import Deployment

WAITING = 1.0
"""Requests per worker that wait, on average over a second: one is a queue that is never empty."""
GROW_LOOKS = 3
"""So many looks in a row."""
QUIET = 0.1
ROOM = 0.5
"""After one is dropped, the others may be busy for so much of their time."""
FAILED_LOOKS = 60
"""After a worker that could not be started, no other one is tried for so many looks."""

Step = Literal["grow", "shrink", "stay"]


class Growth:
    """Decides, once a second."""

    def __init__(self, least: int, most: int, idle_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._least = least
        self._most = most
        self._idle_s = idle_s
        self._clock = clock
        self._crowded = 0
        self._quiet_since: float | None = None

    def look(self, waiting: float, busy: float, workers: int) -> Step:
        """What to do, given what all workers together said in their last beats."""
        self._crowded = self._crowded + 1 if waiting >= WAITING * workers else min(self._crowded, 0)
        if waiting > QUIET * workers or busy > ROOM * (workers - 1):
            self._quiet_since = None
        elif self._quiet_since is None:
            self._quiet_since = self._clock()
        if self._crowded >= GROW_LOOKS and workers < self._most:
            self._crowded = 0
            return "grow"
        if (
            self._quiet_since is not None
            and workers > self._least
            and self._clock() - self._quiet_since >= self._idle_s
        ):
            self._quiet_since = None
            return "shrink"
        return "stay"

    def failed(self) -> None:
        """The added worker could not be started."""
        self._crowded = -FAILED_LOOKS


class Pulse:
    """What a worker says of its load in each beat."""

    def __init__(self) -> None:
        self._waited: Mapping[Deployment, float] = {}
        self._at = time.perf_counter()
        self._computed = time.process_time()

    def beat(self, deployments: list[Deployment]) -> Alive:
        """The seconds that requests waited since the last beat, over its length, are how many waited on average."""
        now, computed = time.perf_counter(), time.process_time()
        passed = max(now - self._at, 1e-3)
        waited = {deployment: deployment.queue_seconds.total for deployment in deployments}
        seconds = sum(total - self._waited.get(deployment, total) for deployment, total in waited.items())
        present = sum(len(deployment.waiting) for deployment in deployments)
        busy = (computed - self._computed) / passed
        self._waited, self._at, self._computed = waited, now, computed
        return Alive(waiting=max(seconds / passed, float(present)), busy=busy)
