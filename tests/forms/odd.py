"""Candidates that are no good, each in its own way, and one that only looks so; run by `test_race`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from lagar.forms.candidates import EXACT, Candidate, NotApplicable
from lagar.forms.original import Original


def hang(original: Original, folder: Path) -> None:
    """As skl2onnx does at a forest that was trained with missing values."""
    while True:
        pass


def crash(original: Original, folder: Path) -> None:
    os.abort()


def leave(original: Original, folder: Path) -> None:
    sys.exit(0)


def eat(original: Original, folder: Path) -> None:
    pieces = []
    while True:
        pieces.append(bytearray(64 * 1024**2))


def fail(original: Original, folder: Path) -> None:
    (folder / "half.onnx").write_bytes(b"half")
    raise RuntimeError("Type Error: Type (tensor(double)) of output arg")


def refuse(original: Original, folder: Path) -> None:
    raise NotApplicable("it is no forest")


def need(original: Original, folder: Path) -> None:
    import a_library_that_nobody_has  # noqa: F401


def forget(original: Original, folder: Path) -> None:
    """Success without a form."""


def garble(original: Original, folder: Path) -> None:
    (folder / "form.json").write_text('{"format": 1, "kind": "os"}')


def candidates() -> tuple[Candidate, ...]:
    builders = (hang, crash, leave, eat, fail, refuse, need, forget, garble)
    return tuple(
        Candidate(build.__name__, build, lambda original: EXACT, extra="convert" if build is need else None)
        for build in builders
    )
