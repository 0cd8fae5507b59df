"""Which version answers: the names, versions, weights and the default of one worker."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping

from lagar.engine.deployment import Deployment
from lagar.errors import NotFound


class Router:
    """The loaded versions by name, each name with the version that is live, or several by weight."""

    def __init__(
        self,
        deployments: Iterable[Deployment],
        live: dict[str, str],
        weights: Mapping[str, Mapping[str, int]] | None = None,
        *,
        default: str = "",
    ) -> None:
        self._versions: dict[str, dict[str, Deployment]] = {}
        for deployment in deployments:
            self._versions.setdefault(deployment.name, {})[deployment.version] = deployment
        self._live = live
        self._splits = {
            name: (tuple(shares), tuple(shares.values()))
            for name, shares in (weights or {}).items()
            if sum(1 for weight in shares.values() if weight > 0) > 1
        }
        self._default = default or (next(iter(self._versions)) if len(self._versions) == 1 else "")

    @property
    def deployments(self) -> list[Deployment]:
        return [deployment for versions in self._versions.values() for deployment in versions.values()]

    @property
    def live_names(self) -> list[str]:
        """The models that answer when no version is named."""
        return [name for name in self._versions if self._live.get(name) in self._versions[name]]

    @property
    def default(self) -> str:
        """The model that answers where no name is given; "" when there is none."""
        return self._default

    def live_version(self, name: str) -> str:
        """The version of a live model that has the most traffic."""
        return self._live[name]

    def is_live(self, deployment: Deployment) -> bool:
        return self._live.get(deployment.name) == deployment.version

    def is_split(self, name: str) -> bool:
        """Whether several versions share the traffic of a model."""
        return name in self._splits

    def resolve(self, name: str, version: str | None = None) -> Deployment:
        """The version that answers; raises NotFound."""
        versions = self._versions.get(name)
        if versions is None:
            raise NotFound(f"Model {name} not found")
        if version is None:
            version = self._pick(name)
        deployment = versions.get(version) if version is not None else None
        if deployment is None:
            raise NotFound(f"Model {name} with version {version} not found" if version else f"Model {name} not found")
        return deployment

    def _pick(self, name: str) -> str | None:
        split = self._splits.get(name)
        if split is None:
            return self._live.get(name)
        return random.choices(split[0], split[1])[0]  # noqa: S311 - a share of traffic is no secret

    def resolve_default(self) -> Deployment:
        """The model that answers `POST /predict`; raises NotFound when several are served and none is the default."""
        if not self._default:
            names = ", ".join(sorted(self._versions)) or "none"
            raise NotFound(
                f"no default model: this server has {names}; use /models/NAME/predict, or start it with --default-model"
            )
        return self.resolve(self._default)
