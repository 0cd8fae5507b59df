"""Environments for the versions that this server is to answer with, where they were pushed on another machine.

Making one may take minutes, and a change of traffic is decided within one: so it is begun at once, waited for as long
as there is time, and goes on beside; who asks again then finds it made.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

from lagar.errors import LagarError, MissingEnvironment
from lagar.logs import Log
from lagar.registry import environments
from lagar.registry.manifest import Manifest
from lagar.registry.releases import Releases

PATIENCE_S = 30.0
"""Of the minute that a change of traffic has; the rest is for loading."""
RETRY_S = 30.0
"""A failure is told again for so long before another attempt is made."""


class Equipment:
    """Makes what is missing, each environment once at a time."""

    def __init__(self, releases: Releases, log: Log, *, patience_s: float = PATIENCE_S) -> None:
        self._releases = releases
        self._log = log
        self._patience_s = patience_s
        self._works: dict[str, _Work] = {}

    def require(self, manifests: Iterable[Manifest]) -> None:
        """Return when every version can be loaded on this machine.

        Raises MissingEnvironment that says that one is still being made, and what kept one from being made.
        """
        works = [work for manifest in manifests if (work := self._work(manifest)) is not None]
        ends = time.monotonic() + self._patience_s
        for work in works:
            if not work.done.wait(max(ends - time.monotonic(), 0.0)):
                raise MissingEnvironment(
                    f"the environment of {work.label} ({work.what}) is still being made on this server after "
                    f"{time.monotonic() - work.began:.0f} s: try again in a minute"
                )
            if work.failure is not None:
                raise MissingEnvironment(f"the environment of {work.label} cannot be made: {work.failure}")

    def _work(self, manifest: Manifest) -> _Work | None:
        """What makes the environment of a version; None where it needs none, or has it."""
        key = environments.key_for(manifest)
        if key is None or self._releases.environments.interpreter(key) is not None:
            return None
        from lagar.intake import environment  # few servers need it

        lacking = environment.missing(manifest.requirements)
        if not lacking:
            return None
        work = self._works.get(key)
        if work is None or work.is_stale():
            work = self._works[key] = _Work(f"{manifest.model}@{manifest.version}", ", ".join(lacking[:3]))
            self._log.info(f"the environment of {work.label} is being made", needs=work.what)
            # a daemon: the server's end does not wait for it, and what it leaves is removed by the next
            threading.Thread(target=self._make, args=(work, manifest), name=f"environment {key}", daemon=True).start()
        return work

    def _make(self, work: _Work, manifest: Manifest) -> None:
        from lagar.intake import environment

        try:
            environment.make(self._releases.environments, manifest, self._releases.lock(manifest))
            self._log.info(f"the environment of {work.label} is made, in {time.monotonic() - work.began:.1f} s")
        except LagarError as error:
            work.failure = error.message
        except Exception as error:  # told to who waits for it
            work.failure = f"{type(error).__name__}: {error}"
        work.ended = time.monotonic()
        work.done.set()


class _Work:
    """One environment on its way."""

    def __init__(self, label: str, what: str) -> None:
        self.label = label
        self.what = what
        self.began = time.monotonic()
        self.ended = 0.0
        self.done = threading.Event()
        self.failure: str | None = None

    def is_stale(self) -> bool:
        """Whether another attempt is worth it: made once and gone, or failed a while ago."""
        return self.done.is_set() and (self.failure is None or time.monotonic() - self.ended > RETRY_S)
