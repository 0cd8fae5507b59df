"""Originals and forms of models that a test has just trained, and rows that part a form from its original."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np

from lagar.forms.original import Original
from lagar.intake.inspect import find_models
from lagar.runtimes import form
from lagar.types import Outputs, Rows


def opened(model: Any, folder: Path, name: str = "model.joblib") -> Original:
    """A model saved in the folder and opened as intake opens it; a path is opened as it is."""
    path = folder / name
    if isinstance(model, Path):
        path = model
    else:
        joblib.dump(model, path)
    (source,) = find_models([path]).sources
    return Original.open(source)


def built(original: Original, build: Callable[[Original, Path], None], folder: Path) -> form.FormPredictor:
    """The form that a builder makes of an original, opened and bound to its signature."""
    folder.mkdir()
    build(original, folder)
    predictor = form.open_folder(folder, 1)
    predictor.bind(original.signature)
    return predictor


def matrix(values: Any) -> Rows:
    x = np.ascontiguousarray(values, dtype=np.float64)
    return Rows(len(x), matrix=x)


@np.errstate(over="ignore")  # the step above the greatest float32 is infinite
def hostile(
    random: np.random.Generator, width: int, n: int, thresholds: Sequence[np.ndarray] = (), *, holes: bool = True
) -> np.ndarray:
    """Rows of every magnitude: at thresholds and one step beside them in both precisions, huge, tiny, missing."""
    x = random.normal(size=(n, width)) * np.exp(random.uniform(-3.0, 3.0, size=(n, 1)))
    for column, known in enumerate(thresholds):
        if len(known):
            at = random.choice(known, size=n)
            steps = [
                at,
                np.nextafter(at, np.inf),
                np.nextafter(at, -np.inf),
                at.astype(np.float32).astype(np.float64),
                np.nextafter(at.astype(np.float32), np.float32(np.inf)).astype(np.float64),
                np.nextafter(at.astype(np.float32), np.float32(-np.inf)).astype(np.float64),
            ]
            chosen = np.choose(random.integers(0, len(steps), size=n), steps)
            x[:, column] = np.where(random.random(n) < 0.7, chosen, x[:, column])
    odd = [0.0, -0.0, 1e-36, -1e-36, 1e9 + 0.5, 1e10, -1e10, 3.4e38]
    x = np.where(random.random(x.shape) < 0.1, random.choice(odd, size=x.shape), x)
    return np.where(random.random(x.shape) < 0.1, np.nan, x) if holes else x


def agree(form_: Any, original: Original, rows: Rows, absolute: float = 0.0, relative: float = 0.0) -> None:
    """Same names, types, shapes and labels; numbers within the bounds, at once, one by one and a few together."""
    was = original.predict(rows)
    _same(form_.predict(rows, original.outputs), was, absolute, relative)
    for name in original.outputs:
        _same(form_.predict(rows, (name,)), {name: was[name]}, absolute, relative)
    for start, stop in ((0, 1), (1, 2), (2, 9), (0, 0)):
        if stop <= rows.n and stop > start:
            part = rows.slice(start, stop)
            _same(form_.predict(part, original.outputs), original.predict(part), absolute, relative)


def _same(got: Outputs, was: Outputs, absolute: float, relative: float) -> None:
    assert set(got) == set(was)
    for name, wanted in was.items():
        found = got[name]
        assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape), name
        if wanted.dtype.kind != "f" or not (absolute or relative):
            np.testing.assert_array_equal(found, wanted, err_msg=name)
        else:
            np.testing.assert_allclose(found, wanted, rtol=relative, atol=absolute, err_msg=name)


def agree_or_refuse(form_: Any, original: Original, rows: Rows, absolute: float = 0.0, relative: float = 0.0) -> None:
    """As `agree`, with errors as outputs: what the original refuses the form refuses, with the same class of error."""
    parts = [rows, *(rows.slice(start, start + 1) for start in range(min(rows.n, 12)))]
    parts += [rows.slice(start, start + 5) for start in range(0, min(rows.n, 24), 5) if start + 5 <= rows.n]
    for part in parts:
        was, got = _outcome(original.predictor, part, original.outputs), _outcome(form_, part, original.outputs)
        if isinstance(was, dict) and isinstance(got, dict):
            _same(got, was, absolute, relative)
        else:
            shown = part.matrix if part.columns is None else {name: c.tolist() for name, c in part.columns.items()}
            assert _kind(got) == _kind(was), f"{got!r} for {was!r} of {shown}"


def _outcome(predictor: Any, rows: Rows, outputs: tuple[str, ...]) -> Outputs | Exception:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return dict(predictor.predict(rows, outputs))
        except Exception as error:
            return error


def _kind(outcome: Outputs | Exception) -> tuple[Any, ...]:
    return type(outcome), getattr(outcome, "field", None), getattr(outcome, "row", None)
