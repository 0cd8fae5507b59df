"""A home with two versions of one model that need different versions of one library, pushed once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lagar.intake.push import push
from lagar.registry.releases import Releases, open_releases
from support.environments import isolating, requirements, scaled_folder
from support.registry import ANA

FACTORS = {"1": 2.0, "2": 3.0}


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """scaled@1 needs factors 1.0 and doubles, scaled@2 needs factors 2.0 and trebles; "shaped" has handlers."""
    folder = tmp_path_factory.mktemp("environments")
    with open_releases(folder / "home") as releases:
        for version, factor in FACTORS.items():
            model = scaled_folder(folder / version / "scaled")
            wanted = requirements(folder / version / "requirements.txt", f"{version}.0")
            push(
                releases, "scaled", model, version=version, requirements=wanted, who=ANA,
                isolate=isolating(releases.environments, factor),
            )  # fmt: skip
        shaped = scaled_folder(folder / "h" / "shaped", handlers=True)
        push(
            releases, "shaped", shaped, who=ANA, example=_example(folder),
            requirements=requirements(folder / "h" / "requirements.txt", "1.0"),
            isolate=isolating(releases.environments, 2.0),
        )  # fmt: skip
    return folder / "home"


def _example(folder: Path) -> Path:
    path = folder / "example.json"
    path.write_text('[{"text_x": "1.5"}, {"text_x": "2"}]')
    return path


@pytest.fixture
def releases(home: Path) -> Iterator[Releases]:
    with open_releases(home) as opened:
        yield opened
