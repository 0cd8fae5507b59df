"""What is pinned and is not there: refused where it cannot come, told once with the next step where it may."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from lagar.control import pins
from lagar.control.choice import Choice
from lagar.control.equipment import Equipment
from lagar.errors import SettingsError
from lagar.logs import Log
from lagar.registry.releases import Releases, open_releases
from support.registry import ANA, manifest_of


@pytest.fixture
def releases(tmp_path: Path) -> Iterator[Releases]:
    """churn@1 and churn@2, the second called `champion`, none of them live."""
    with open_releases(tmp_path / "home") as opened:
        for label in ("1", "2"):
            file = tmp_path / f"model-{label}.txt"
            file.write_bytes(label.encode())
            opened.commit(manifest_of({"model.txt": label.encode()}, "churn", label), {"model.txt": file}, ANA)
        opened.set_alias("churn", "champion", "2", ANA)
        yield opened


def test_a_pin_of_a_model_that_cannot_come_is_refused_with_those_there_are() -> None:
    pins.refuse_models(["churn", "churn@3"], {"churn", "iris"})
    with pytest.raises(SettingsError, match=r"must name models that are served \(churn, iris\), got 'chrun'; did you"):
        pins.refuse_models(["churn", "chrun"], {"churn", "iris"})


def test_a_pin_of_a_version_that_cannot_come_is_refused_with_those_there_are(releases: Releases) -> None:
    pins.refuse_versions(["churn", "churn@1", "churn@ab12cd34"], {("churn", "ab12cd34")}, releases)
    with pytest.raises(SettingsError, match=r"got 'churn@9': churn has no version or alias '9'; it has 1, 2, champion"):
        pins.refuse_versions(["churn@9"], set(), releases)
    with pytest.raises(SettingsError, match=r"champion is an alias, which may move: pin churn@2"):
        pins.refuse_versions(["churn@champion"], set(), releases)


def test_a_server_on_the_catalog_says_once_what_would_bring_a_pin(releases: Releases) -> None:
    said = io.StringIO()
    log = Log("json", stream=said)
    choice = Choice(
        releases, Equipment(releases, log), log, ["chrun", "churn", "churn@9", "churn@champion"], lambda live: None
    )
    for _ in range(2):
        assert choice.prepare(releases.current(), -1).sources == ()
    lines = said.getvalue().splitlines()
    assert len(lines) == 4
    assert "there is no model 'chrun'; did you mean 'churn'?" in lines[0]
    assert "`lagar push chrun PATH` makes it" in lines[0]
    assert "nothing of churn is live: `lagar promote churn VERSION`" in lines[1]
    assert "it has 1, 2, champion" in lines[2]
    assert "pin churn@2" in lines[3]
