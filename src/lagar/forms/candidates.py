"""The ways that are known to make a model faster, and how close to the original each has to be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from lagar.forms.original import Original
from lagar.registry.proof import EXACT, Criterion

__all__ = ["EXACT", "Candidate", "Criterion", "NotApplicable", "candidates"]


class NotApplicable(Exception):
    """This candidate is not for this model; the message is the reason, in words that its user understands."""


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
    leans: bool = False
    """It computes in single precision: rows near a tie are left to the original."""


def candidates() -> tuple[Candidate, ...]:
    """All of them, in no order: each that proves is timed. Builders are imported here: they import this module."""
    from lagar.forms import boosters, columns, converters, tree_forms

    return (*columns.CANDIDATES, *tree_forms.CANDIDATES, *boosters.CANDIDATES, *converters.CANDIDATES)
