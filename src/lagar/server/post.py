"""A place in the server that one child process fills: one per worker, one for control.

The process may die; its post keeps the listening sockets, so what is waiting there is answered by the successor.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Mapping

from lagar.server.process import Child, Phase

STEADY_S = 10.0
"""A child that served this long and then died is restarted without delay."""
MAX_RESTART_DELAY_S = 30.0

WORKER = "lagar.server.worker"
CONTROL = "lagar.control.main"


class Post:
    """One place in the server, and the process that fills it."""

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

    @classmethod
    def of_worker(cls, slot: int, listeners: Mapping[str, socket.socket]) -> Post:
        return cls(f"worker {slot}", WORKER, listeners, slot)

    @classmethod
    def of_control(cls, listeners: Mapping[str, socket.socket]) -> Post:
        return cls("control", CONTROL, listeners)

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

    def lose(self, child: Child) -> None:
        """Its process has died."""
        since = child.serving_since
        steady = since is not None and time.monotonic() - since >= STEADY_S
        self.deaths = 1 if steady else self.deaths + 1
        self.filled.clear()

    def absence(self) -> str:
        """Why it does not serve, in words."""
        silent = self.active is not None and self.active.phase is Phase.SERVING
        return f"{self.name} {'does not respond' if silent else 'is restarting'}"


def restart_delay_s(deaths: int) -> float:
    """How long to wait before the restart after so many deaths in a row: 0 s, 0.25 s, 0.5 s, … 30 s."""
    return 0.0 if deaths <= 1 else min(0.25 * 2 ** min(deaths - 2, 20), MAX_RESTART_DELAY_S)
