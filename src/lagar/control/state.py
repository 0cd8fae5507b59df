"""What the control process knows of its server; the bootstrap changes it as messages arrive."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from lagar.control.repository import Repository
from lagar.registry.catalog import Catalog
from lagar.registry.model import ModelInfo
from lagar.registry.releases import Releases
from lagar.server.channel import KeyRow, ServerState
from lagar.settings import ServerSettings, is_loopback

MAX_SHOWN = 100


@dataclass
class ControlState:
    """The facts behind every page; each is read anew for each request, so assigning to it is enough."""

    settings: ServerSettings
    models: tuple[ModelInfo, ...] = ()
    """What the workers have loaded, and what is live beside it; `take` keeps it."""
    server: ServerState = field(default_factory=lambda: ServerState(ready=False, reason="starting"))
    metrics_dir: Path | None = None
    """Folder of the workers' metrics; None: only the facts of this process are told."""
    port: int = 0
    """The bound port."""
    catalog: Catalog | None = None
    """The catalog of the home; None when the server runs without one."""
    releases: Releases | None = None
    """Versions and traffic in that catalog."""
    home: Path | None = None
    """Where pushed files lie until they are taken in."""
    repository: Repository | None = None
    """What this server may answer with; None until the leader is known."""
    switches: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("switched", "failed", "abandoned"), 0))
    """How changes of what is live have ended here since this process started."""
    refused: dict[str, str] = field(default_factory=dict)
    """A place at the paths of this server that is not served → why."""
    _loaded: tuple[ModelInfo, ...] = ()
    _live: tuple[ModelInfo, ...] = ()
    has_keys: bool = False
    """True once the home has an API key, revoked ones included."""
    keys: tuple[KeyRow, ...] = ()
    """All of them."""

    def take(self, *, loaded: tuple[ModelInfo, ...] | None = None, live: tuple[ModelInfo, ...] | None = None) -> None:
        """What the workers have loaded has changed, or what is live by the catalog."""
        self._loaded = self._loaded if loaded is None else loaded
        self._live = self._live if live is None else live
        known = {(info.name, info.version) for info in self._loaded}
        self.models = (*self._loaded, *(info for info in self._live if (info.name, info.version) not in known))

    def count_switch(self, result: str) -> None:
        self.switches[result] += 1

    def take_refused(self, refused: dict[str, str]) -> None:
        self.refused = refused

    @property
    def answering(self) -> set[str]:
        """The models that the workers answer for when no version is named, by their own word."""
        return {info.name for info in self._loaded if info.live}

    @property
    def wants_key(self) -> bool:
        """True when callers must send an API key; the rule is that of `server.auth.Gate`."""
        return not self.settings.no_auth and (self.has_keys or not is_loopback(self.settings.host))

    @property
    def names(self) -> tuple[str, ...]:
        """Model names in the order in which they were loaded."""
        return tuple(dict.fromkeys(info.name for info in self.models))

    @property
    def shown(self) -> tuple[str, ...]:
        """Those of them that pages and documentation tell of in full: a page for a thousand would be 9 MB."""
        return self.names[:MAX_SHOWN]

    @property
    def default(self) -> str:
        """The model that answers `/predict`; "" when there are several and none was named for it."""
        return self.settings.default_model or (self.names[0] if len(self.names) == 1 else "")

    def versions(self, name: str) -> tuple[ModelInfo, ...]:
        """The loaded versions of a model, the live one first."""
        return tuple(sorted((info for info in self.models if info.name == name), key=lambda info: not info.live))
