"""A version in several forms: calls of few rows go to one, large blocks to another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from lagar import runtimes
from lagar.registry.model import FormSource, ModelSource
from lagar.registry.proof import Criterion
from lagar.registry.signature import Signature
from lagar.runtimes.base import BoundPredictor, Draft, Opened
from lagar.runtimes.form import open_folder
from lagar.types import Outputs, Predictor, Rows


class Part(NamedTuple):
    """One form and the calls that it answers."""

    name: str
    max_rows: int | None
    """None: any number of rows."""
    predictor: BoundPredictor
    criterion: Criterion | None
    """What it was proved to; None for the original."""
    margin: float = 0.0
    """Rows whose two likeliest classes are no further apart are for the original."""


class Sized:
    """Each call goes to the first part that takes so many rows."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = tuple(parts)
        self._small = parts[0].predictor
        self._large = parts[-1].predictor
        most = parts[0].max_rows
        self._most = most if most is not None else float("inf")

    def bind(self, signature: Signature) -> None:
        for part in self.parts:
            part.predictor.bind(signature)

    def predict(self, rows: Rows, outputs: tuple[str, ...]) -> Outputs:
        return (self._small if rows.n <= self._most else self._large).predict(rows, outputs)

    def criterion(self, rows: int) -> Criterion | None:
        """What the form that answers calls of so many rows was proved to; None where the original answers them."""
        return (self.parts[0] if rows <= self._most else self.parts[-1]).criterion

    def margin(self, rows: int) -> float:
        """How far apart the two likeliest classes are in a row that is left to the original, in a call of so many."""
        return (self.parts[0] if rows <= self._most else self.parts[-1]).margin

    def close(self) -> None:
        for part in self.parts:
            part.predictor.close()


def open_source(source: ModelSource, threads: int) -> Opened:
    """The forms that serve a version; the original is opened only where it answers some calls itself.

    Forms run on one thread, as they were proved and timed.
    """
    parts: list[Part] = []
    libraries: dict[str, str] = {}
    draft = Draft(fields=None, layout="matrix", task="unknown", outputs=(), native=())
    warnings: list[str] = []
    for form in source.forms:
        if form.folder is None:
            opened = runtimes.open_source(msgspec.structs.replace(source, forms=()), threads)
            draft, libraries, warnings = opened.draft, {**libraries, **opened.libraries}, opened.warnings
            parts.append(Part(form.name, form.max_rows, opened.predictor, None))
        else:
            predictor = open_folder(Path(form.folder), 1)
            libraries |= predictor.libraries
            parts.append(Part(form.name, form.max_rows, predictor, form.criterion, form.margin))
    return Opened(Sized(parts), draft, libraries, warnings)


def parts_of(predictor: Predictor) -> tuple[tuple[Predictor, Criterion | None], ...]:
    """The predictors behind one, each with what it was proved to; itself where there is only one."""
    if isinstance(predictor, Sized):
        return tuple((part.predictor, part.criterion) for part in predictor.parts)
    return ((predictor, None),)


def covers(forms: Sequence[FormSource]) -> bool:
    """Whether forms answer everything, so that the original is not opened."""
    return bool(forms) and all(form.folder is not None for form in forms)
