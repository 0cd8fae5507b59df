"""What a process is told when it starts: what is fixed for the server's life, and what is known so far."""

from __future__ import annotations

import secrets
from pathlib import Path

import msgspec

from lagar.registry.model import Asked, ModelInfo, ModelSource
from lagar.server.channel import (
    ControlBoot,
    KeyRow,
    Message,
    Models,
    Prepare,
    ServerState,
    Violated,
    WorkerBoot,
)
from lagar.settings import ServerSettings


class Folders(msgspec.Struct, frozen=True):
    """Where the processes of this server meet on disk."""

    home: Path
    control_socket: Path
    metrics: Path


class Facts(msgspec.Struct, frozen=True):
    """What is fixed for the life of a server."""

    settings: ServerSettings
    asked: Asked
    cores: int
    folders: Folders
    port: int
    """The bound port of HTTP."""
    url: str
    """The server's own address."""
    threads: int
    """Of a worker's libraries."""
    memory_bytes: int
    """What loaded versions may take over all workers."""
    most_workers: int
    """How many there may be at a time."""


class Served(msgspec.Struct, frozen=True):
    """The versions that the workers answer with, as control has said."""

    sources: tuple[ModelSource, ...] = ()
    live: dict[str, str] = {}
    weights: dict[str, dict[str, int]] = {}
    """Model → version → share, where several versions share a model's traffic."""

    @classmethod
    def of(cls, wanted: Prepare) -> Served:
        return cls(wanted.sources, wanted.live, wanted.weights)


class Held(msgspec.Struct, frozen=True):
    """A set that a worker loads and holds back: it accepts no connection before the Commit of that generation."""

    served: Served
    generation: int
    whole: bool = False
    """True: all of the set is loaded, or the worker fails."""


class Briefing:
    """What the supervisor knows of the server by now; whatever changes is told to the processes that run, too."""

    def __init__(self, facts: Facts, workers: int) -> None:
        self.facts = facts
        self.served = Served()
        self.committed = -1
        """The catalog's generation that the workers answer with."""
        self.switches = 0
        """How often the workers went over to another set."""
        self.keys: tuple[KeyRow, ...] | None = None
        """None until control has read them: nothing is answered before."""
        self.models: tuple[ModelInfo, ...] = ()
        self.state = ServerState(ready=False, reason="starting", workers=workers)
        self._server_id = secrets.token_hex(8)
        self._models_since = -1
        """The number of switches after which `models` were told."""
        self._violations: dict[tuple[str, str], Violated] = {}
        """Name and version → the form of it that was given up last."""

    @property
    def has_models(self) -> bool:
        """Whether a worker has said what it loaded, be it nothing."""
        return self._models_since >= 0

    def learn_models(self, models: tuple[ModelInfo, ...], switches: int) -> bool:
        """What a worker has loaded; False when as much is known, of it or of another one of the same set."""
        if switches <= self._models_since:
            return False
        self._models_since, self.models = switches, models
        return True

    def learn_violation(self, violated: Violated) -> bool:
        """A form that was given up; False when that is known."""
        key = violated.model, violated.version
        known = self._violations.get(key)
        if known is not None and known.forms == violated.forms:
            return False
        self._violations[key] = violated
        return True

    def for_control(self, workers: int) -> list[Message]:
        """What a new control process hears first."""
        facts = self.facts
        boot = ControlBoot(
            settings=facts.settings,
            control_socket=str(facts.folders.control_socket),
            metrics_dir=str(facts.folders.metrics),
            home=str(facts.folders.home),
            workers=workers,
            port=facts.port,
            url=facts.url,
            asked=facts.asked,
            cores=facts.cores,
            sources=self.served.sources,
            server_id=self._server_id,
            generation=self.committed,
        )
        models = [Models(self.models)] if self.models else []
        return [boot, self.state, *models, *self._violations.values()]

    def for_worker(self, metrics_slot: int, held: Held | None = None) -> list[Message]:
        """What a new worker hears first; without `held` it loads what is served and accepts connections."""
        facts, served = self.facts, self.served if held is None else held.served
        boot = WorkerBoot(
            slot=metrics_slot,
            workers=facts.most_workers,
            threads=facts.threads,
            settings=facts.settings,
            sources=served.sources,
            live=served.live,
            weights=served.weights,
            control_socket=str(facts.folders.control_socket),
            metrics_dir=str(facts.folders.metrics),
            keys=self.keys,
            port=facts.port,
            memory_bytes=facts.memory_bytes // facts.most_workers,
            from_catalog=not facts.asked.paths,
        )
        if held is not None:
            boot = msgspec.structs.replace(boot, hold=True, whole=held.whole, generation=held.generation)
        return [boot, self.state, *self._violations.values()]
