"""docs/compatibility.md is what the table says, and the table leaves nothing unsaid."""

from __future__ import annotations

import pytest

from support import compatibility
from support.compatibility import FEATURES, JUDGES, JUDGES_FOLDER, PAGE, render


def test_the_page_is_current() -> None:
    assert PAGE.read_text() == render(), "run: make compatibility"


def test_a_feature_stands_there_once_and_what_is_missing_has_its_reason() -> None:
    named = [(feature.protocol, feature.name) for feature in FEATURES]
    assert len(set(named)) == len(named)
    assert all(feature.judges for feature in FEATURES)
    for difference in (*compatibility.REST, *compatibility.RPC):
        assert difference.why, difference
    refused = {file for file, word in compatibility.SETTINGS.items() if word}
    assert refused == set(compatibility.SETTINGS_WHY)


@pytest.mark.parametrize("judge", [name for name, judge in JUDGES.items() if judge.script])
def test_each_judge_says_what_it_tries_as_the_table_does(judge: str) -> None:
    """The verdicts themselves are for test-all; here the names in the script are held to the table."""
    text = (JUDGES_FOLDER / JUDGES[judge].script).read_text()
    for feature in FEATURES:
        if judge in feature.judges:
            assert f'"{feature.name}"' in text, feature
    assert (JUDGES_FOLDER / f"{JUDGES[judge].lock}.in").exists()
