"""The loaded versions of one worker, within the memory that it may use.

Bytes are reserved before a load begins. Where there is no room, what was called longest ago is unloaded first: it gets
no new request, answers those it has, is closed, and its memory goes back to the system before the load begins.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from lagar import memory
from lagar.engine.deployment import Deployment
from lagar.errors import LoadFailed
from lagar.registry.model import ModelSource
from lagar.server.serving import Loader
from lagar.settings import size_words

LEAST_BYTES = 256 * 1024
"""What any version is counted with: its queue, its endpoints, what was not measured."""
HOST_BYTES = 64 * 1024 * 1024
"""What a process of its own takes beside its model."""

log = logging.getLogger("lagar.worker")

Key = tuple[str, str]
"""Name and version."""


class Stock:
    """Loads and unloads; whoever uses it says which versions are there and takes one out of use."""

    def __init__(
        self,
        loader: Loader,
        *,
        bound_bytes: int,
        pins: Collection[str],
        loaded: Callable[[], Iterable[Deployment]],
        unload: Callable[[Deployment], None],
        is_live: Callable[[Deployment], bool],
    ) -> None:
        """`pins` are NAME (whatever is live of it) and NAME@VERSION: never unloaded to make room."""
        self._loader = loader
        self._bound = bound_bytes
        self._pins = frozenset(pins)
        self._loaded = loaded
        self._unload = unload
        self._is_live = is_live
        self._used = 0
        self._loading = 0
        self._reserving = asyncio.Lock()
        self._news = asyncio.Event()
        self.awaited: Counter[Key] = Counter()
        """Versions that requests are about to be sent to: not unloaded before."""

    def fits(self, source: ModelSource, *, ever: bool = False) -> bool:
        """Whether there is room without unloading anything; `ever`: when all else is unloaded."""
        return (0 if ever else self._used) + cost_bytes(source) <= self._bound

    def is_pinned(self, deployment: Deployment) -> bool:
        """Whether it stays loaded whatever room others need."""
        if f"{deployment.name}@{deployment.version}" in self._pins:
            return True
        return deployment.name in self._pins and self._is_live(deployment)

    def pins(self, source: ModelSource) -> bool:
        """Whether this very version is to be loaded, live or not."""
        return f"{source.name}@{source.version}" in self._pins

    async def load(
        self, source: ModelSource, *, in_thread: bool = True, apart: bool = False, beside: Sequence[Deployment] = ()
    ) -> Deployment:
        """A loaded version, its bytes reserved; raises SetupError.

        `beside` are versions that go when this one comes: until then both are in memory, whatever the bound is.
        """
        needed = cost_bytes(source, apart=apart)
        await self._reserve(needed, source, beside)
        self._loading += 1
        try:
            deployment = await self._loader.load(source, in_thread=in_thread, apart=apart)
        except BaseException:
            self._used -= needed
            raise
        finally:
            self._loading -= 1
            self.told()
        deployment.lean(self._loader.original)
        deployment.memory_bytes = needed
        deployment.apart = apart
        return deployment

    async def _reserve(self, needed: int, source: ModelSource, beside: Sequence[Deployment]) -> None:
        if needed > self._bound:
            raise LoadFailed(
                f"{source.name}@{source.version} takes {size_words(needed)} and a worker may use "
                f"{size_words(self._bound)}: raise max_memory, or serve with fewer workers"
            )
        async with self._reserving:
            limit = self._bound + sum(deployment.memory_bytes for deployment in beside)
            while self._used + needed > limit:
                victim = self._oldest(beside)
                if victim is not None:
                    log.info("unloading %s@%s to make room", victim.name, victim.version)
                    self._unload(victim)
                    await self.close([victim])
                elif self._loading or any(_key(deployment) in self.awaited for deployment in self._loaded()):
                    self._news.clear()
                    await self._news.wait()
                else:
                    raise LoadFailed(
                        f"{source.name}@{source.version} takes {size_words(needed)}, and of the "
                        f"{size_words(self._bound)} that a worker may use {size_words(self._used)} are pinned or being "
                        "loaded: raise max_memory, or pin less"
                    )
            self._used += needed

    def _oldest(self, beside: Sequence[Deployment]) -> Deployment | None:
        return min(
            (
                deployment
                for deployment in self._loaded()
                if _key(deployment) not in self.awaited
                and deployment not in beside
                and not deployment.retired
                and not self.is_pinned(deployment)
            ),
            key=lambda deployment: deployment.used_at,
            default=None,
        )

    async def drop(self, deployment: Deployment) -> None:
        """Unload a version that is not to be used any more."""
        if not deployment.retired:
            self._unload(deployment)
            await self.close([deployment])

    async def close(self, deployments: Iterable[Deployment]) -> None:
        """Close versions once their last call is answered, and give their memory back."""
        left = list(deployments)
        while left:
            deployment = left.pop()
            deployment.retired = True
            await deployment.drained()
            await asyncio.to_thread(close_quietly, deployment)
            self._used -= deployment.memory_bytes
            self.told()
            del deployment
        gc.collect()
        await asyncio.to_thread(memory.give_back)

    def told(self) -> None:
        """Something has changed for whoever waits for room."""
        self._news.set()


def _key(deployment: Deployment) -> Key:
    return deployment.name, deployment.version


def cost_bytes(source: ModelSource, *, apart: bool = False) -> int:
    """What a version is counted with."""
    return max(source.memory_bytes, LEAST_BYTES) + (HOST_BYTES if apart else 0)


def close_quietly(deployment: Deployment) -> None:
    """Close a version; what its own close() raises is logged."""
    try:
        deployment.close()
    except Exception:
        log.exception("closing model %s@%s failed", deployment.name, deployment.version)


def answering(live: Mapping[str, str], weights: Mapping[str, Mapping[str, int]]) -> set[Key]:
    """Every version that has a share of the traffic."""
    shares = {name: tuple(split) for name, split in weights.items()}
    return {(name, label) for name, version in live.items() for label in shares.get(name, (version,))}
