"""How taking in is told of at the start and under --watch."""

from __future__ import annotations

import io

from lagar.control.progress import Given, Lines, Logged
from lagar.logs import Log


def test_what_lies_in_a_mirror_is_told_of_by_its_url() -> None:
    stream = io.StringIO()
    given = Given(Logged(Log("json", stream=stream)), lambda text: text.replace("/data/mirror", "s3://models"))
    given.taken("/data/mirror/wine.joblib", "wine@1", 2.0)
    given.said("/data/mirror/wine.joblib is wine@1-ab12cd34")
    text = stream.getvalue()
    assert '"path":"s3://models/wine.joblib"' in text.replace('": "', '":"')
    assert "s3://models/wine.joblib is wine@1-ab12cd34" in text
    assert "mirror" not in text


def test_a_terminal_shows_the_name_of_what_is_taken_in() -> None:
    stream = io.StringIO()
    lines = Lines(stream)
    lines.step("s3://models/wine.joblib", "load")
    assert stream.getvalue().endswith("lagar: taking in wine.joblib (load)")
    lines.taken("s3://models/wine.joblib", "wine@1", 2.0)
    assert stream.getvalue().endswith("lagar: wine.joblib is wine@1, taken in in 2.0 s\n")


def test_what_is_refused_is_no_longer_shown_as_being_taken_in() -> None:
    stream = io.StringIO()
    lines = Lines(stream)
    lines.step("bad.pkl", "scan")
    lines.step("good.joblib", "load")
    lines.left("bad.pkl")
    assert stream.getvalue().endswith("\x1b[K"), "the line of the log that says why stands by itself"
    lines.step("good.joblib", "lock")
    assert stream.getvalue().endswith("lagar: taking in good.joblib (lock)")
