"""One worker in a thread of the test's own process, with control's part played on the test's registry."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import httpx

from lagar.control.choice import Choice
from lagar.control.equipment import Equipment
from lagar.control.wanted import answer
from lagar.logs import open_log
from lagar.registry.releases import Releases
from lagar.server.channel import Prepare, Prepared, ServerState, Violated, Want, WorkerBoot
from lagar.server.worker import Worker
from lagar.settings import ServerSettings

T = TypeVar("T")
LOG = open_log("json", "error", no_colour=True, process="test")


class WorkerThread:
    """with WorkerThread(releases, folder, memory_bytes=…) as worker: worker.post("wine", "1")"""

    def __init__(
        self, releases: Releases, folder: Path, *, memory_bytes: int = 0, pin: tuple[str, ...] = (),
        at_start: bool = True, **settings: Any,
    ) -> None:  # fmt: skip
        """It answers with what is live in the registry; without `at_start` none of it is loaded then."""
        self.releases = releases
        self.wants: list[Want] = []
        """What it has asked."""
        self.violations: list[Violated] = []
        """What it has told of forms that were wrong."""
        self._equipment = Equipment(releases, LOG)
        self._choice = Choice(releases, self._equipment, LOG, pin, lambda live: None)
        self._at_start = at_start
        self._options = {"memory_bytes": memory_bytes, "settings": ServerSettings(pin=pin, **settings)}
        self._folder = folder
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> WorkerThread:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._thread.start()
        assert self._ready.wait(120)
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self._end.set)
        self._thread.join(60)

    async def _run(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        wanted = self.wanted()
        boot = WorkerBoot(
            slot=0, workers=1, threads=1, sources=wanted.sources if self._at_start else (), live=wanted.live,
            weights=wanted.weights, control_socket=str(self._folder / "nobody"), metrics_dir=str(self._folder), keys=(),
            port=0, from_catalog=True, generation=wanted.generation, **self._options,
        )  # fmt: skip
        self.worker = Worker(boot, self.loop, self._asked)
        await self.worker.load()
        self.worker.app.state = ServerState(ready=True)
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        await self.worker.listen({"http": listener})
        self._ready.set()
        await self._end.wait()
        await self.worker.drain()

    def _asked(self, want: Want | Violated) -> None:
        if isinstance(want, Violated):
            self.violations.append(want)
            return
        self.wants.append(want)

        def find() -> None:
            have = answer(self.releases, self._equipment, want, LOG)
            self.loop.call_soon_threadsafe(self.worker.demand.heard, have)

        threading.Thread(target=find).start()

    def wanted(self) -> Prepare:
        """What control would tell of the current generation."""
        current = self.releases.current()
        wanted = self._choice.prepare(current, self.worker.serving.generation if hasattr(self, "worker") else -1)
        self._choice.taken(current)
        return wanted

    def switch(self) -> Prepared:
        """Bring it to what is live now, as the supervisor does."""
        wanted = self.wanted()
        outcome = self.run(self.worker.prepare(wanted))
        if outcome.ok:
            self.call(lambda: self.worker.commit(wanted.generation))
        return outcome

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What a coroutine gives on the worker's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(120)

    def call(self, work: Callable[[], T]) -> T:
        async def called() -> T:
            return work()

        return self.run(called())

    def loaded(self) -> set[str]:
        """NAME@VERSION of what is loaded."""
        return self.call(lambda: {f"{one.name}@{one.version}" for one in self.worker.serving.router.deployments})

    def post(self, name: str, version: str | None, body: Any, **headers: str) -> httpx.Response:
        where = f"/models/{name}" + ("" if version is None else f"/versions/{version}") + "/predict"
        return httpx.post(self.url + where, json=body, timeout=120, headers=headers)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=120)
