"""V2's repository: which versions there are, and taking a model out of service and back into it.

A model that is unloaded answers nothing, by name or by version, until it is loaded again; its versions stay. On a
server that follows its catalog that is a change of traffic like any other: every server of the catalog takes part, and
the history says who asked for it. On a server that was given paths it holds for this server, as long as it runs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Container
from typing import Literal, Protocol

import msgspec

from lagar.errors import InvalidInput, NotFound, NotReady
from lagar.registry.releases import Releases, Version, Who

READY_WITHIN_S = 70.0
"""How long a load or an unload may take: a little longer than the preparation of a change of traffic."""
SEEN_WITHIN_S = 5.0
"""How long the workers' own word for a switch is waited for: who asked may send its next request at once."""
LOOK_S = 0.05


class Entry(msgspec.Struct, frozen=True):
    """One version in the index."""

    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    """The word "READY": a request for it is answered, and loads it where it is not loaded."""
    reason: str = ""


class Repository(Protocol):
    """What a server may answer with."""

    def index(self) -> list[Entry]:
        """Every version, in the order of names and versions."""
        ...

    async def load(self, model: str, version: str | None, who: Who) -> None:
        """Have a model answer, and a version be there for who asks for it; raises NotFound, InvalidInput, NotReady."""
        ...

    async def unload(self, model: str, who: Who) -> None:
        """Have a model answer nothing; raises NotFound, NotReady."""
        ...


class CatalogRepository:
    """Of a server that follows its catalog."""

    def __init__(self, releases: Releases, serving: Callable[[], int], live: Callable[[], Container[str]]) -> None:
        """`serving` says which generation the workers have been told to answer with, `live` what they say of it."""
        self._releases = releases
        self._serving = serving
        self._live = live

    def index(self) -> list[Entry]:
        entries: list[Entry] = []
        for model in self._releases.models():
            off = not model.weights and self._releases.is_unloaded(model.name)
            for version in self._releases.versions(model.name):
                reason = "unloaded" if off else "retired" if version.state == "retired" else ""
                state: Literal["READY", "UNAVAILABLE"] = "UNAVAILABLE" if reason else "READY"
                entries.append(Entry(model.name, version.version, state, reason))
        return entries

    async def load(self, model: str, version: str | None, who: Who) -> None:
        number = await asyncio.to_thread(self._propose_load, model, version, who)
        if number is not None:
            await self._taken(number, f"failed to load '{model}'")
            await seen(self._live, model, True)

    async def unload(self, model: str, who: Who) -> None:
        await asyncio.to_thread(self._versions, model)
        if not await asyncio.to_thread(self._releases.is_unloaded, model):
            number = await asyncio.to_thread(self._releases.propose, model, {}, who, action="unload")
            await self._taken(number, f"failed to unload '{model}'")
            await seen(self._live, model, False)

    def _propose_load(self, model: str, ref: str | None, who: Who) -> int | None:
        versions = self._versions(model)
        label = None
        if ref is not None:
            try:
                version = self._releases.get(model, ref)
            except NotFound:
                raise NotFound(f"Model {model} with version {ref} not found") from None
            label = version.version
            if version.state == "retired":
                self._releases.retire(model, label, who, undo=True)
        if self._releases.traffic(model) is not None:
            return None
        if label is not None:
            return self._releases.propose(model, {label: 100}, who, action="load")
        ready = {version.version for version in versions if version.state != "retired"}
        for line in reversed(self._releases.history(model)):
            if line.weights and ready.issuperset([*line.weights, *([line.shadow] if line.shadow else [])]):
                return self._releases.propose(model, line.weights, who, action="load", shadow=line.shadow)
        newest = [version.version for version in versions if version.version in ready][-1:]
        if not newest:
            raise InvalidInput(f"failed to load '{model}', all its versions are retired: name one to bring it back")
        return self._releases.propose(model, {newest[0]: 100}, who, action="load")

    def _versions(self, model: str) -> list[Version]:
        try:
            return self._releases.versions(model)
        except NotFound:
            raise NotFound(f"Model {model} not found") from None

    async def _taken(self, number: int, failed: str) -> None:
        """Wait until the workers answer with that generation, or a later one."""
        ends = time.monotonic() + READY_WITHIN_S
        while True:
            generation = await asyncio.to_thread(self._releases.generation, number)
            if generation.state not in ("prepare", "committed"):
                raise InvalidInput(f"{failed}, {generation.reason or 'a server could not prepare it in time'}")
            if generation.state == "committed" and self._serving() >= number:
                return
            if time.monotonic() >= ends:
                raise NotReady(f"{failed} within {READY_WITHIN_S:g} s; it goes on", retry_after_s=5)
            await asyncio.sleep(LOOK_S)


class Placed(Protocol):
    """What a server that was given paths knows of them (watch.Watcher)."""

    def placed(self) -> list[tuple[str, str, bool]]:
        """Name, version, and whether it is in service, of all that lies there and is good."""
        ...

    def refused_places(self) -> list[tuple[str, str]]:
        """Name and reason of what lies there and is not served."""
        ...

    async def put_in_service(self, model: str, on: bool) -> str:
        """Switch all versions of a model on or off; why that cannot be, or ""."""
        ...


class PathRepository:
    """Of a server that was given paths."""

    def __init__(self, places: Placed, live: Callable[[], Container[str]]) -> None:
        self._places = places
        self._live = live

    def index(self) -> list[Entry]:
        entries = [
            Entry(name, version, "READY" if on else "UNAVAILABLE", "" if on else "unloaded")
            for name, version, on in self._places.placed()
        ]
        return entries + [Entry(name, "", "UNAVAILABLE", reason) for name, reason in self._places.refused_places()]

    async def load(self, model: str, version: str | None, who: Who) -> None:
        self._require(model, version)
        await self._put(model, True, f"failed to load '{model}'")

    async def unload(self, model: str, who: Who) -> None:
        self._require(model, None)
        await self._put(model, False, f"failed to unload '{model}'")

    async def _put(self, model: str, on: bool, failed: str) -> None:
        why = await self._places.put_in_service(model, on)
        if why:
            raise InvalidInput(f"{failed}, {why}")
        await seen(self._live, model, on)

    def _require(self, model: str, version: str | None) -> None:
        labels = [label for name, label, _ in self._places.placed() if name == model]
        if not labels:
            refused = dict(self._places.refused_places()).get(model)
            if refused is not None:
                raise InvalidInput(f"failed to load '{model}', {refused}")
            raise NotFound(f"Model {model} not found")
        if version is not None and version not in labels:
            raise NotFound(f"Model {model} with version {version} not found")


async def seen(live: Callable[[], Container[str]], model: str, on: bool) -> None:
    """Wait until the workers say that a model is live, or is not; not for ever, as the switch is decided."""
    ends = time.monotonic() + SEEN_WITHIN_S
    while True:
        if (model in live()) == on or time.monotonic() >= ends:
            return
        await asyncio.sleep(LOOK_S)
