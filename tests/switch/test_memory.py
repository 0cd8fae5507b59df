"""Versions that have left traffic leave memory too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import joblib
import pytest
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier

from lagar.client.local import Local
from lagar.intake.push import push
from lagar.registry.releases import open_releases
from support.registry import ANA
from support.server import LagarServer
from support.wait import eventually
from support.wines import live

PROMOTES = 20


def resident_mb(server: LagarServer) -> float:
    """Memory of all workers in MB."""
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in server.workers())
    return pages * 4096 / 1e6


@pytest.fixture(scope="module")
def forests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with two forests of about 50 MB each."""
    folder = tmp_path_factory.mktemp("forests")
    rows, labels = make_classification(20_000, 10, flip_y=0.4, random_state=0)
    with open_releases(folder / "home") as releases:
        for version in ("1", "2"):
            model = RandomForestClassifier(60, random_state=int(version)).fit(rows, labels)
            joblib.dump(model, folder / f"wine-{version}.joblib")
            push(releases, "wine", folder / f"wine-{version}.joblib", version=version, who=ANA)
    return folder / "home"


@pytest.mark.slow
def test_twenty_promotes_do_not_grow_the_workers(forests: Path, start: Callable[..., LagarServer]) -> None:
    with open_releases(forests) as releases:
        verbs = Local(releases)
        verbs.promote("wine", "1")
        server = start(forests, workers=1)
        sizes = [resident_mb(server)]
        for turn in range(PROMOTES):
            version = "2" if turn % 2 == 0 else "1"
            verbs.promote("wine", version)
            eventually(lambda version=version: live(server) == {version}, what="the promote")  # type: ignore[misc]
            sizes.append(resident_mb(server))
    print("resident MB:", " ".join(f"{size:.0f}" for size in sizes))
    assert sizes[-1] < max(sizes[2:5]) * 1.15, sizes
    assert sizes[-1] < sizes[0] + 150, sizes
