"""What is kept of forms that were wrong on a live row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lagar.control import violations
from lagar.logs import open_log
from lagar.registry.proof import Violation
from lagar.registry.releases import Releases, open_releases
from lagar.server.channel import Violated

LOG = open_log("json", "error", no_colour=True, process="test")


@pytest.fixture
def releases(tmp_path: Path) -> Iterator[Releases]:
    with open_releases(tmp_path / "home") as opened:
        yield opened


def violated(minute: int, text: str = "a") -> Violated:
    found = Violation("live", 1, {"word": text}, "predict", 1.0, 2.0, "another label")
    return Violated("wine", "1", (), found, f"2026-01-02T03:{minute:02}:00+00:00")


def test_rows_are_kept_for_their_owner_alone_and_not_without_end(releases: Releases, tmp_path: Path) -> None:
    for minute in range(violations.MAX_FILES + 3):
        violations.keep(releases, tmp_path, violated(minute), LOG)
    kept = sorted((tmp_path / "violations" / "wine@1").iterdir())
    assert len(kept) == violations.MAX_FILES
    assert kept[0].name == "2026-01-02T030300.json"
    assert {path.stat().st_mode & 0o777 for path in kept} == {0o600}
    assert json.loads(kept[0].read_bytes())["violation"]["row"] == {"word": "a"}


def test_a_row_that_is_too_large_is_left_out_and_said(releases: Releases, tmp_path: Path) -> None:
    violations.keep(releases, tmp_path, violated(0, "a" * violations.MAX_BYTES), LOG)
    (kept,) = (tmp_path / "violations" / "wine@1").iterdir()
    assert "too large to keep" in json.loads(kept.read_bytes())["violation"]["words"]
