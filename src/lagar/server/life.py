"""The life of a server: its phase, the work that goes on meanwhile, the signals that end it, and its outcome."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from lagar.errors import SetupError
from lagar.server.process import Phase, advance


class Life:
    """From the start of a server to its end."""

    def __init__(self) -> None:
        self.phase = Phase.STARTING
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, group: asyncio.TaskGroup) -> None:
        """From now on work can be run, in this group, and an end be set."""
        self._group = group
        self.outcome: asyncio.Future[int | SetupError] = asyncio.get_running_loop().create_future()
        """The exit code, or why the server cannot start."""

    @property
    def goes_on(self) -> bool:
        """Whether the server serves, or will: nothing has begun to end it."""
        return self.phase in (Phase.STARTING, Phase.SERVING)

    def advance(self, to: Phase) -> None:
        self.phase = advance(self.phase, to)

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Work that is cancelled when the server ends."""
        task = self._group.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def see_through(self, work: Coroutine[Any, Any, None]) -> None:
        """Work that the server's end waits for."""
        self._group.create_task(work)

    def end_with(self, outcome: int | SetupError) -> None:
        """Let the server end; the first outcome holds."""
        if not self.outcome.done():
            self.outcome.set_result(outcome)

    def end(self) -> None:
        """Cancel what still runs."""
        self.advance(Phase.ENDED)
        for task in self._tasks:
            task.cancel()


@contextlib.contextmanager
def signals(stop: Callable[[int], None]) -> Iterator[None]:
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
