"""From a saved model to its answers, as a server takes them: find, load, rows, predict."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest

from lagar import runtimes
from lagar.intake.inspect import find_models
from lagar.protocols.columns import Plan
from lagar.registry.model import LoadedModel
from lagar.types import Rows


def load(path: Path, **options: Any) -> LoadedModel:
    """The one model at a path, loaded."""
    (source,) = find_models([path], **options).sources
    return runtimes.load(source)


def rows_of(model: LoadedModel, data: Any) -> Rows:
    """Rows of a DataFrame, a list of records or a matrix, through the protocols' own checks."""
    plan = Plan(model.signature)
    if isinstance(data, np.ndarray):
        return plan.from_rows(data.tolist()) if model.signature.layout == "columns" else Rows(len(data), matrix=data)
    records = data.to_dict(orient="records") if hasattr(data, "to_dict") else data
    return plan.from_records([{key: _json(value) for key, value in record.items()} for record in records])


def _json(value: Any) -> Any:
    """A cell as JSON carries it: NaN is null."""
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and np.isnan(value) else value


def answers(model: LoadedModel, data: Any, *outputs: str) -> dict[str, Any]:
    """The named outputs, all of them by default; a warning of the model is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return model.predictor.predict(rows_of(model, data), outputs or tuple(o.name for o in model.signature.outputs))


def same(left: Any, right: Any) -> None:
    """Equal to the last bit, labels and shapes included."""
    left, right = np.asarray(left), np.asarray(right)
    assert left.shape == right.shape
    assert left.tolist() == right.tolist()


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., LoadedModel]:
    """Save with joblib, find and load."""

    def save_and_load(model: Any, name: str = "model.joblib", **options: Any) -> LoadedModel:
        path = tmp_path / name
        joblib.dump(model, path)
        return load(path, **options)

    return save_and_load
