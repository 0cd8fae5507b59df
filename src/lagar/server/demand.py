"""Versions that are loaded when they are asked for: by label or alias, or live and not loaded now.

One load of a version at a time, however many requests wait for it, each within its own deadline. What control says of
an alias holds until the catalog changes; a version that could not be loaded is not tried again for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

from lagar.engine.deployment import Deployment
from lagar.engine.service import unknown
from lagar.errors import DeadlineExceeded, LagarError, LoadFailed, NotFound, NotReady, RequestError
from lagar.registry.model import without_folders
from lagar.server.channel import Have, Want
from lagar.server.serving import Serving, is_at_hand
from lagar.server.stock import Key, Stock

BROKEN_S = 30.0
"""So long a version that could not be loaded is refused with the same words."""
UNKNOWN_S = 1.0
ANSWER_S = 20.0
"""How long control may take to say where a version lies: its files may have to be fetched."""
_REMEMBERED = 4096

log = logging.getLogger("lagar.worker")

T = TypeVar("T")
Send = Callable[[Want], None]


class Demand:
    """What a worker's requests want that may not be loaded."""

    def __init__(
        self,
        stock: Stock,
        serving: Callable[[], Serving],
        admit: Callable[[Deployment], None],
        *,
        send: Send | None,
        everything: bool,
    ) -> None:
        """`send` asks control, None: nobody knows more versions; `everything`: of any model, else of live ones only."""
        self._stock = stock
        self._serving = serving
        self._admit = admit
        """Called with a version that has just been loaded."""
        self._send = send
        self._everything = everything
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Have]] = {}
        self._labels: dict[Key, str] = {}
        """Name and alias → label, as control last said."""
        self._refusals: dict[Key, tuple[RequestError, float]] = {}
        self._work: dict[tuple[str, Key], asyncio.Task[Any]] = {}

    # -- what requests ask

    async def label(self, name: str, ref: str | None, deadline: float) -> str:
        """The version that answers a request; raises NotFound, and DeadlineExceeded (on time.perf_counter)."""
        router = self._serving().router
        if ref is None:
            return router.pick(name)
        if router.get(name, ref) is not None or ref in router.answering(name):
            return ref
        said = None if self._everything else router.said(name, ref)  # a server of paths answers with what they hold
        if said is not None:
            return said
        known = self._labels.get((name, ref))
        if known is not None:
            return known
        if self._send is None or not (self._everything or name in router.names):
            raise unknown(name, ref, known=name in router.names)
        self._refuse_again((name, ref))
        return await self._once("label", (name, ref), self._find_label(name, ref), deadline)

    @contextlib.asynccontextmanager
    async def version(self, name: str, ref: str | None, deadline: float) -> AsyncIterator[Deployment]:
        """A loaded version, which is not unloaded to make room for another before the block ends.

        A switch may still retire it. Raises NotFound, NotReady when it cannot be loaded, DeadlineExceeded.
        """
        label = await self.label(name, ref, deadline)
        key = (name, label)
        self._stock.awaited[key] += 1
        try:
            while (deployment := self._serving().router.get(name, label)) is None:
                self._refuse_again(key)
                await self._once("load", key, self._load(name, label), deadline)
            yield deployment
        finally:
            self._stock.awaited[key] -= 1
            if not self._stock.awaited[key]:
                del self._stock.awaited[key]
            self._stock.told()

    def _refuse_again(self, key: Key) -> None:
        refusal, until = self._refusals.get(key, (None, 0.0))
        if refusal is None:
            return
        left = until - time.monotonic()
        if left <= 0:
            del self._refusals[key]
            return
        raise type(refusal)(refusal.message, retry_after_s=None if isinstance(refusal, NotFound) else left)

    async def _once(self, what: str, key: Key, work: Coroutine[Any, Any, T], deadline: float) -> T:
        """The outcome of the one task that does this work, for as long as this caller waits."""
        task = self._work.get((what, key))
        if task is None:
            task = self._work[what, key] = asyncio.get_running_loop().create_task(work)
            task.add_done_callback(lambda done: self._done((what, key), done))
        else:
            work.close()
        done, _ = await asyncio.wait({task}, timeout=max(deadline - time.perf_counter(), 0.0))
        if not done:
            raise DeadlineExceeded(
                f"version {key[1]} of model '{key[0]}' is still being loaded; try again, or ask for more time with the "
                "header 'timeout' (seconds)",
                retry_after_s=1,
            )
        outcome: T = task.result()
        return outcome

    def _done(self, what: tuple[str, Key], task: asyncio.Task[Any]) -> None:
        self._work.pop(what, None)
        if not task.cancelled():
            task.exception()  # those who wait are told

    # -- the work

    async def _find_label(self, name: str, ref: str) -> str:
        have = await self._ask(name, ref, lay_out=False)
        _remember(self._labels, (name, ref), have.version)
        return have.version

    async def _load(self, name: str, label: str) -> Deployment:
        try:
            source = (await self._ask(name, label, lay_out=True)).source
            assert source is not None
            apart = source.manifest is not None and not is_at_hand(source)
            started = time.perf_counter()
            deployment = await self._stock.load(source, apart=apart)
        except RequestError:
            raise
        except LagarError as error:
            log.error("%s@%s could not be loaded for a request: %s", name, label, error.message)
            raise self._broken((name, label), error.message) from error
        log.info(
            "loaded %s@%s in %.0f ms%s", name, label, (time.perf_counter() - started) * 1000,
            ", in a process of its own" if apart else "",
        )  # fmt: skip
        self._admit(deployment)
        return deployment

    def _broken(self, key: Key, why: str) -> NotReady:
        refusal = NotReady(
            f"model '{key[0]}', version {key[1]}, could not be loaded: {without_folders(why)}; "
            "ask for another version, or try again after the Retry-After time",
            retry_after_s=BROKEN_S,
        )
        _remember(self._refusals, key, (refusal, time.monotonic() + BROKEN_S))
        return refusal

    # -- control

    async def _ask(self, name: str, ref: str, *, lay_out: bool) -> Have:
        """What control says; raises NotFound, NotReady while it is away, LoadFailed for a version it cannot lay out."""
        if self._send is None:
            raise unknown(name, ref, known=name in self._serving().router.names)
        number = next(self._numbers)
        answer: asyncio.Future[Have] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        self._send(Want(number, name, ref, lay_out))
        try:
            async with asyncio.timeout(ANSWER_S):
                have = await answer
        except TimeoutError:
            raise NotReady(f"the catalog did not say within {ANSWER_S:g} s where {name}@{ref} lies") from None
        finally:
            del self._asked[number]
        if have.code == NotFound.code:
            refusal = NotFound(have.message)
            _remember(self._refusals, (name, ref), (refusal, time.monotonic() + UNKNOWN_S))
            raise refusal
        if have.code == NotReady.code:
            raise NotReady(have.message, retry_after_s=1)
        if have.code:
            raise LoadFailed(have.message)
        return have

    def heard(self, have: Have) -> None:
        """Control has answered."""
        waiting = self._asked.get(have.number)
        if waiting is not None and not waiting.done():
            waiting.set_result(have)

    async def changed(self) -> None:
        """The catalog has changed: aliases may have moved, versions may be retired. Those are unloaded."""
        self._labels.clear()
        self._refusals.clear()
        if self._send is None:
            return
        for deployment in self._serving().router.deployments:
            name, label = deployment.name, deployment.version
            if label in self._serving().router.answering(name):
                continue
            try:
                await self._ask(name, label, lay_out=False)
            except NotFound:
                await self._stock.drop(deployment)
            except LagarError as error:
                log.warning("whether %s@%s may still be used is not known: %s", name, label, error.message)


def _remember(memory: dict[Key, T], key: Key, value: T) -> None:
    if len(memory) >= _REMEMBERED:
        memory.clear()
    memory[key] = value
