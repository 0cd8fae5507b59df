"""A home with versions that are told apart by every answer, pushed once and copied for each test."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.datasets import load_wine

from lagar.client.local import Local
from lagar.intake.push import push
from lagar.registry.releases import Releases, open_releases
from support.load import Load
from support.registry import ANA
from support.server import LagarServer
from support.wines import Wines, said, trained


@pytest.fixture(scope="session")
def wines(tmp_path_factory: pytest.TempPathFactory) -> Wines:
    """Versions 1 and 2 in scikit-learn, 3 in LightGBM, all pushed, none live."""
    from lightgbm import LGBMClassifier

    folder = tmp_path_factory.mktemp("wines")
    data, labels = load_wine(return_X_y=True, as_frame=True)
    rows = data.iloc[::6]
    models = {"1": trained("one", c=1.0), "2": trained("two", c=0.05)}
    names = np.array([f"three-{label}" for label in range(3)], dtype=object)
    models["3"] = LGBMClassifier(n_estimators=5, n_jobs=1, verbose=-1).fit(data, names[labels])
    files = {}
    with open_releases(folder / "home") as releases:
        for version, model in models.items():
            files[version] = folder / f"wine-{version}.joblib"
            joblib.dump(model, files[version])
            push(releases, "wine", files[version], version=version, who=ANA)
    return Wines(
        folder / "home",
        rows.to_dict(orient="records"),
        {version: said(model, rows) for version, model in models.items()},
        files,
    )


@pytest.fixture
def home(wines: Wines, tmp_path: Path) -> Path:
    """A home of the test's own with those versions."""
    shutil.copytree(wines.home, tmp_path / "wines-home")
    return tmp_path / "wines-home"


@pytest.fixture
def releases(home: Path) -> Iterator[Releases]:
    with open_releases(home) as opened:
        yield opened


@pytest.fixture
def verbs(releases: Releases) -> Local:
    """The commands of someone at that home."""
    return Local(releases)


@pytest.fixture
def start() -> Iterator[Callable[..., LagarServer]]:
    """Servers that answer with what is in production, ended with the test."""
    with ExitStack() as stack:

        def started(home: Path, **options: Any) -> LagarServer:
            options.setdefault("workers", 2)
            return stack.enter_context(LagarServer(home=home, **options))

        yield started


@pytest.fixture
def load(wines: Wines) -> Callable[..., Load]:
    """A load on the model "wine" of a server."""

    def loaded(server: LagarServer, **options: Any) -> Load:
        return Load(server.port, "wine", wines.rows, wines.expected | options.pop("also", {}), **options)

    return loaded


def in_turn(*versions: str, times: int) -> list[str]:
    """The versions one after the other, again and again."""
    return list(itertools.islice(itertools.cycle(versions), times))
