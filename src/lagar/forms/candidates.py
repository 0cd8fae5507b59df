"""The ways that are known to make a model faster, and how close to the original each has to be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from lagar.forms.original import Original


class NotApplicable(Exception):
    """This candidate is not for this model; the message is the reason, in words that its user understands."""


class Criterion(msgspec.Struct, frozen=True):
    """How far a form's numbers may be from the original's: |got - was| <= absolute + relative · |was|.

    Labels, types, shapes and errors always have to be the same. With both 0 every bit counts, the sign of a zero
    left out.
    """

    absolute: float = 0.0
    relative: float = 0.0

    @property
    def exact(self) -> bool:
        return self.absolute == 0.0 and self.relative == 0.0


EXACT = Criterion()


class Candidate(msgspec.Struct, frozen=True):
    """One way to build a form."""

    name: str
    """One word: the form's name and folder."""
    build: Callable[[Original, Path], None]
    """Write `form.json` and its files into the (existing, empty) folder; raises NotApplicable."""
    criterion: Callable[[Original], Criterion]
    """The policy for this family: docs/compile.md."""
    extra: str | None = None
    """The extra of Lagar that building needs: a missing library is "not applicable" and names it."""


CANDIDATES: tuple[Candidate, ...] = ()
"""In no order: each that proves is timed."""
