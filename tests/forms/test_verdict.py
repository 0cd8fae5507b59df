"""The race on one screen."""

from __future__ import annotations

import msgspec

from lagar.cli.screen import screen
from lagar.cli.verdict import table
from lagar.registry.answers import VersionCard, VersionReport
from lagar.registry.manifest import FileEntry, Form
from lagar.registry.proof import Attempt, Criterion, Machine, Proof, Served, Violation, faster, verdict
from support.registry import manifest_of

US = {"1": 200.0, "4": 201.0, "32": 210.0, "128": 240.0, "1000": 4000.0}
WRONG = Violation(
    kind="offsets", size=32, row={f"field_{index}": 1e10 for index in range(60)}, output="predict", original="no",
    candidate="yes", words="2 of 32 rows of the call differ",
)  # fmt: skip


def proof(*served: Served) -> Proof:
    names = {part.name for part in served}
    attempts = [
        Attempt(
            name, "serves" if name in names else "proved", us={size: taken / 10 for size, taken in US.items()},
            criterion=Criterion(absolute=1e-12), rows=2325, calls=3000, worst=3e-16, memory_bytes=72_700,
        )
        for name in ("trees", "trees-block", "onnx-double")
    ]  # fmt: skip
    attempts += [
        Attempt("onnx-float", "wrong", WRONG.words, rows=2325, calls=3, violation=WRONG),
        Attempt("slow", "failed", "building was not done after 180 s and was ended"),
        Attempt("treelite", "left out", "treelite is not installed: pip install 'lagar[convert]'"),
        *(Attempt(f"other-{index}", "left out", "the model is not one of that library") for index in range(30)),
    ]
    rows = {"example": 5, "ordinary": 384, "thresholds": 1152, "edges": 288, "ties": 160, "missing": 96}
    return Proof(
        Machine("1.31.1", "x86_64-00"), rows=rows, refused=12, jitter=1e-15, original_us=US, attempts=tuple(attempts),
        served=served, words="another ONNX Runtime or processor: then it is proved again before it serves",
    )  # fmt: skip


def test_one_screen_says_who_serves_what_was_proved_and_how_fast() -> None:
    lines = table(proof(Served("trees", 1, 57), Served("trees-block", 58, None)), 4_000_000)
    text = " ".join(" ".join(lines).split())
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 100
    for words in ("trees serves up to 57 rows, 10 × as fast", "proved on 2,325 rows", "µs at 1,000", "72.7 kB", "3e-16",
                  "onnx-float is wrong (offsets, a call of 32 rows)", '"no" became "yes"', '"field_0": 10000000000.0',
                  "not done after 180 s", "pip install 'lagar[convert]'", "would change it: another ONNX Runtime",
                  "12 of them the original refuses"):  # fmt: skip
        assert words in text


def test_a_version_that_serves_as_it_was_saved_says_why() -> None:
    lines = table(Proof(Machine("1.31.1", "x"), rows={}, words="its own code answers"))
    assert lines == ["compiled   the original serves: its own code answers"]


def test_how_much_faster_is_told_at_the_smallest_call_that_a_form_answers() -> None:
    found = proof(Served("trees", 1, None))
    assert faster(found, found.served[0]) == 10.0
    assert verdict(found) == "trees serves, 10 × as fast; proved on 2,325 rows"


def test_the_forms_of_a_screen_stand_below_each_other_and_what_is_compiled_later_is_said() -> None:
    file = (FileEntry("model/m.joblib", "a" * 64, 100),)
    forms = (Form("original", "sklearn", "model/m.joblib", file), Form("trees-native", "form", "forms/t", file))
    manifest = msgspec.structs.replace(manifest_of({"model/m.joblib": b"m"}, version="1"), forms=forms)
    card = VersionCard(
        "wine", "1", "ready", 0, False, (), "sklearn", "classifier", "now", "ana", {}, "", 100, "b" * 64,
    )  # fmt: skip
    lines = screen(VersionReport(card, manifest), ())
    at = lines.index("forms")
    assert lines[at + 1].index("sklearn") == lines[at + 2].index("form ")
    later = screen(VersionReport(card, msgspec.structs.replace(manifest, compile_later=True)), ())
    assert "build and prove faster ones" in later[at + 3]
