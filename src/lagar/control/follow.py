"""Follows the catalog: what it says is in production is what this server's workers answer with.

A promote is a generation. Each live server (one whose lease has not run out) loads the proposed set and reports; when
all have, one compare-and-set commits it, whoever gets there first; each server then switches. A server that lost the
catalog goes on with its last generation, says so in its readiness, and takes the current one before it is ready again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from lagar.control.choice import Choice
from lagar.control.compiling import Compiler
from lagar.control.equipment import Equipment
from lagar.errors import CatalogAway, LagarError
from lagar.logs import Log
from lagar.registry.generations import Generation
from lagar.registry.leases import LEASE_S
from lagar.registry.model import ModelInfo
from lagar.registry.releases import Releases
from lagar.server.channel import Abandon, Changed, Commit, Message, Prepared
from lagar.server.process import SILENT_S

LEASE_INTERVAL_S = 1.0

_AWAY = "the catalog has been out of reach for"
_OTHER = (
    "it has generation {} and this server serves {}, so it is another one or an older copy: bring the one back that "
    "was there, or start the server again to follow this one"
)
_LAPSED = "this server stood still, and looks whether its versions are still the right ones"

T = TypeVar("T")


class Follower:
    """One server's part in the generations of its catalog."""

    def __init__(
        self, releases: Releases, tell: Callable[[Message], None], lapsed: Callable[[str], None], log: Log,
        *, server_id: str, url: str, serving: int = -1, count: Callable[[str], None] = lambda _result: None,
        pins: Sequence[str] = (), compiling: bool = False,
        tell_live: Callable[[tuple[ModelInfo, ...]], None] = lambda _live: None,
    ) -> None:  # fmt: skip
        """`tell_live` is called with what is live whenever that has changed."""
        self._releases = releases
        self._choice = Choice(releases, Equipment(releases, log), log, pins, tell_live)
        self._compiler = Compiler(releases, log, build=False) if compiling else None
        self._tell = tell
        self._lapsed = lapsed
        """Called with the reason while the catalog is out of reach for longer than a lease, with "" when it is back."""
        self._log = log
        self._count = count
        """Called with "switched", "failed" or "abandoned" when a preparation has come to its end."""
        self._id = server_id
        self._url = url
        self._serving = serving
        """The generation that the workers answer with."""
        self._prepared = -1
        self._reported = -1
        self._waiting = -1
        self._answer: asyncio.Future[Prepared] | None = None
        self._leased_at = self._supervised_at = time.monotonic()
        self._refused = False
        """True while the committed generation cannot be served here; it is tried again each second."""
        self.ready = False
        self.reason = "starting"

    @property
    def serving(self) -> int:
        """The generation that the workers were told to answer with; -1 before the first."""
        return self._serving

    def heard(self, outcome: Prepared) -> None:
        """The supervisor says how a preparation ended; one that a dead control process began is not ours."""
        if self._answer is not None and not self._answer.done() and outcome.generation == self._waiting:
            self._answer.set_result(outcome)

    def supervised(self) -> None:
        """The supervisor lives. Without it this server can load nothing, and no promote has to wait for it."""
        self._supervised_at = time.monotonic()

    async def run(self) -> None:
        """Follow until cancelled; the lease is given back at the end, so that no promote waits for this server."""
        try:
            while True:
                try:
                    await self._look()
                    self._is_back()
                except LagarError as error:
                    self._is_away(error.message)
                except Exception as error:  # whatever it is, the next look may find the catalog well again
                    self._is_away(f"{type(error).__name__}: {error}", exc_info=error)
                await self._wait()
        finally:
            with contextlib.suppress(Exception):
                self._releases.release(self._id)

    async def _look(self) -> None:
        late = time.monotonic() - self._leased_at > LEASE_S
        if late and self.ready:
            self._is_unready(_LAPSED)  # before the catalog is asked, which takes its time
        await self._refuse_another()
        if not await self._lease() and self.ready:
            self._is_unready(_LAPSED)
        if await self._ask(self._releases.current_number) != self._serving:
            await self._take(await self._ask(self._releases.current))
        await self._take_compiled()
        proposed = await self._ask(self._releases.pending)
        if self._prepared > self._serving and (proposed is None or proposed.n != self._prepared):
            self._tell(Abandon(self._prepared))  # another server could not load it
            self._prepared = self._serving
            self._count("abandoned")
        if proposed is not None and proposed.n > max(self._reported, self._serving):
            await self._prepare_proposed(proposed)
        elif proposed is not None and await self._ask(self._releases.try_commit, proposed.n):
            await self._take(await self._ask(self._releases.current))

    async def _refuse_another(self) -> None:
        """Numbers only rise: an empty home in the place of this server's must not take all its models away."""
        number = await self._ask(self._releases.current_number)
        if number < self._serving:
            raise CatalogAway(_OTHER.format(number, self._serving))

    async def _prepare_proposed(self, proposed: Generation) -> None:
        outcome = await self._prepare(proposed, proposed=True)
        await self._ask(self._releases.report, proposed.n, self._id, outcome.ok, outcome.reason)
        self._reported = proposed.n
        if not outcome.ok:
            self._count("failed")
        if outcome.ok and await self._ask(self._releases.try_commit, proposed.n):
            await self._take(await self._ask(self._releases.current))

    async def _take(self, current: Generation) -> None:
        """Have the workers answer with a committed generation."""
        if self._prepared != current.n:
            outcome = await self._prepare(current)
            if not outcome.ok:
                if not self._refused:
                    self._log.error("the committed versions cannot be served here", reason=outcome.reason)
                    self._count("failed")
                self._refused = True
                self._is_unready(outcome.reason)
                return
        self._refused = False
        if self._serving >= 0:
            self._count("switched")
        self._tell(Commit(current.n))
        self._choice.taken(current)
        self._serving = self._prepared = current.n
        await self._lease()  # from the first one on, a promote waits for this server

    async def _take_compiled(self) -> None:
        """Switch to the forms that were proved on this machine since the last look; the generation stays."""
        if self._compiler is None or self._prepared != self._serving:
            return
        sources = self._choice.sources()
        self._compiler.want(sources)
        done = await self._ask(self._compiler.done, sources)
        if not done:
            return
        self._choice.replace(done)
        current = await self._ask(self._releases.current)
        if current.n == self._serving and (await self._prepare(current)).ok:
            self._tell(Commit(current.n))
            self._count("switched")

    async def _prepare(self, generation: Generation, *, proposed: bool = False) -> Prepared:
        keeping = asyncio.create_task(self._keep_lease())
        try:
            wanted = await self._ask(self._choice.prepare, generation, self._serving)
            self._waiting = generation.n
            self._answer = asyncio.get_running_loop().create_future()
            self._tell(wanted)
            outcome = await self._answer
        except LagarError as error:
            if proposed:  # what a worker refuses is told by the supervisor, which has not heard of this
                self._log.error("a switch was given up; the old versions go on", reason=error.message)
            return Prepared(generation.n, ok=False, reason=error.message)
        finally:
            keeping.cancel()
            self._answer = None
        if outcome.ok:
            self._prepared = generation.n
        return outcome

    # The lease

    async def _keep_lease(self) -> None:
        """A long load must not look like a dead server."""
        while True:
            await asyncio.sleep(LEASE_INTERVAL_S)
            try:
                await self._lease()
            except LagarError as error:
                self._is_away(error.message)

    async def _lease(self) -> bool:
        """Whether the lease had lasted until now."""
        now = time.monotonic()
        if now - self._supervised_at > SILENT_S:
            return False
        unbroken = await self._ask(
            self._releases.lease,
            self._id,
            self._url,
            self._serving if self._serving >= 0 else None,
            self.ready,
            self.reason,
        )
        self._leased_at = now
        return unbroken

    def _is_back(self) -> None:
        if self.reason.startswith(_AWAY):
            self._log.info("the catalog is back")
        if not self._refused:
            self.ready, self.reason = True, ""
            self._lapsed("")

    def _is_unready(self, reason: str) -> None:
        self.ready, self.reason = False, reason
        self._lapsed(reason)

    def _is_away(self, why: str, **facts: Any) -> None:
        away_s = time.monotonic() - self._leased_at
        if not self.reason.startswith(_AWAY):
            self._log.error("the catalog is out of reach; the versions in use go on", error=why, **facts)
        self.reason = f"{_AWAY} {away_s:.0f} s: {why}"
        if away_s > LEASE_S:
            self._is_unready(self.reason)

    async def _wait(self) -> None:
        """Until the catalog changes, or the lease wants renewing; workers are told, since aliases may have moved."""
        try:
            if await self._ask(self._releases.wait_changed, LEASE_INTERVAL_S):
                self._tell(Changed())
        except Exception:  # the next look says what it is
            await asyncio.sleep(LEASE_INTERVAL_S)

    async def _ask(self, question: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.to_thread(question, *arguments)
