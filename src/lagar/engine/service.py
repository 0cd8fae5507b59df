"""Which version answers: the names, versions and the default of one worker."""

from __future__ import annotations

from collections.abc import Iterable

from lagar.engine.deployment import Deployment
from lagar.errors import NotFound


class Router:
    """The loaded versions by name, each name with the version that is live."""

    def __init__(self, deployments: Iterable[Deployment], live: dict[str, str], *, default: str = "") -> None:
        self._versions: dict[str, dict[str, Deployment]] = {}
        for deployment in deployments:
            self._versions.setdefault(deployment.name, {})[deployment.version] = deployment
        self._live = live
        self._default = default or (next(iter(self._versions)) if len(self._versions) == 1 else "")

    @property
    def deployments(self) -> list[Deployment]:
        return [deployment for versions in self._versions.values() for deployment in versions.values()]

    @property
    def default(self) -> str:
        """The model that answers where no name is given; "" when there is none."""
        return self._default

    def is_live(self, deployment: Deployment) -> bool:
        return self._live.get(deployment.name) == deployment.version

    def resolve(self, name: str, version: str | None = None) -> Deployment:
        """The version that answers; raises NotFound."""
        versions = self._versions.get(name)
        if versions is None:
            raise NotFound(f"Model {name} not found")
        deployment = versions.get(self._live[name] if version is None else version)
        if deployment is None:
            raise NotFound(f"Model {name} with version {version} not found")
        return deployment

    def resolve_default(self) -> Deployment:
        """The model that answers `POST /predict`; raises NotFound when several are served and none is the default."""
        if not self._default:
            names = ", ".join(sorted(self._versions)) or "none"
            raise NotFound(
                f"no default model: this server has {names}; use /models/NAME/predict, or start it with --default-model"
            )
        return self.resolve(self._default)
