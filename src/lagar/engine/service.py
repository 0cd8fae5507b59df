"""Which version answers: the names, versions, weights and the default of one worker."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping

from lagar.engine.deployment import Deployment
from lagar.errors import NotFound
from lagar.intake.mlserver import said_version

_NAMES_SHOWN = 10


class Router:
    """What is live, by name, and the versions of it and of others that are loaded.

    A version may be live and not loaded: it is loaded when it is asked for.
    """

    def __init__(
        self,
        deployments: Iterable[Deployment],
        live: Mapping[str, str],
        weights: Mapping[str, Mapping[str, int]] | None = None,
        *,
        default: str = "",
    ) -> None:
        self._versions: dict[str, dict[str, Deployment]] = {}
        for deployment in deployments:
            self.add(deployment)
        self._live = dict(live)
        self._splits = {
            name: (tuple(shares), tuple(shares.values()))
            for name, shares in (weights or {}).items()
            if sum(1 for weight in shares.values() if weight > 0) > 1
        }
        self._default = default or (next(iter(self._live)) if len(self._live) == 1 else "")

    def add(self, deployment: Deployment) -> None:
        """A version has been loaded."""
        self._versions.setdefault(deployment.name, {})[deployment.version] = deployment

    def remove(self, deployment: Deployment) -> None:
        """A version is loaded no more."""
        versions = self._versions[deployment.name]
        del versions[deployment.version]
        if not versions:
            del self._versions[deployment.name]

    @property
    def deployments(self) -> list[Deployment]:
        """Every version that is loaded."""
        return [deployment for versions in self._versions.values() for deployment in versions.values()]

    def versions(self, name: str) -> list[Deployment]:
        """The versions of a model that are loaded."""
        return list(self._versions.get(name, {}).values())

    @property
    def names(self) -> list[str]:
        """The models that answer when no version is named, loaded or not."""
        return list(self._live)

    @property
    def default(self) -> str:
        """The model that answers where no name is given; "" when there is none."""
        return self._default

    def answering(self, name: str) -> tuple[str, ...]:
        """The versions that share the traffic of a model, loaded or not; () when it is not live."""
        split = self._splits.get(name)
        if split is not None:
            return split[0]
        return (self._live[name],) if name in self._live else ()

    def is_live(self, deployment: Deployment) -> bool:
        """Whether it is the version of its model that has the most traffic."""
        return self._live.get(deployment.name) == deployment.version

    def is_split(self, name: str) -> bool:
        """Whether several versions share the traffic of a model."""
        return name in self._splits

    def get(self, name: str, version: str) -> Deployment | None:
        """A loaded version."""
        return self._versions.get(name, {}).get(version)

    def said(self, name: str, label: str) -> str | None:
        """The loaded version whose settings file calls it so, where the home gave the label to an older content."""
        for deployment in self.versions(name):
            if said_version(deployment.model.source.options) == label:
                return deployment.version
        return None

    def unloaded_of(self, name: str) -> list[tuple[str, bool]]:
        """Versions that share the traffic of a model and are not loaded, and whether each has most of it."""
        loaded = self._versions.get(name, {})
        return [(label, label == self._live[name]) for label in self.answering(name) if label not in loaded]

    def unloaded(self) -> dict[str, list[tuple[str, bool]]]:
        """The same for every live model that has any."""
        return {name: found for name in self._live if (found := self.unloaded_of(name))}

    def pick(self, name: str) -> str:
        """The version that answers the next request that names none; raises NotFound."""
        split = self._splits.get(name)
        if split is not None:
            return random.choices(split[0], split[1])[0]  # noqa: S311 - a share of traffic is no secret
        label = self._live.get(name)
        if label is None:
            raise NotFound(f"Model {name} not found")
        return label

    def resolve(self, name: str, version: str | None = None) -> Deployment:
        """The loaded version that answers; raises NotFound."""
        label = self.pick(name) if version is None else version
        deployment = self.get(name, label)
        if deployment is None:
            raise unknown(name, label, known=name in self._versions or name in self._live)
        return deployment

    def default_name(self) -> str:
        """The model that answers `POST /predict`; raises NotFound when several are served and none is the default."""
        if not self._default:
            names = sorted(self._live)
            shown = ", ".join(names[:_NAMES_SHOWN]) + (", …" if len(names) > _NAMES_SHOWN else "")
            raise NotFound(
                f"no default model: this server has {shown or 'none'}; use /models/NAME/predict, "
                "or start it with --default-model"
            )
        return self._default


def unknown(name: str, version: str, *, known: bool) -> NotFound:
    """The refusal of a model that does not exist, or of a version of one that does."""
    return NotFound(f"Model {name} with version {version} not found" if known else f"Model {name} not found")
