"""Where a model's trees split, feature by feature: the values at which a wrong form shows first."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lagar.forms.original import Original

_MOST = 400
"""Thresholds kept per feature, evenly over their order."""
Splits = tuple[NDArray[Any], NDArray[np.float64]]
"""Feature indices and thresholds, of one tree or several."""


def thresholds_of(original: Original, width: int) -> list[NDArray[np.float64]]:
    """Sorted thresholds per input of the last step, () where none are known; see `inward` for scalers in front."""
    found: list[list[NDArray[np.float64]]] = [[] for _ in range(width)]
    for features, values in _splits(original.steps):
        good = (features >= 0) & (features < width) & np.isfinite(values)
        features, values = features[good], values[good]
        for feature in np.unique(features):
            found[int(feature)].append(values[features == feature])
    return [_thinned(parts) for parts in found]


def inward(original: Original, matrix: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Rows before the transformers that give these rows behind them; None where a step cannot be undone."""
    x: Any = matrix
    for step in reversed(original.steps[:-1]):
        undo = getattr(step, "inverse_transform", None)
        if undo is None:
            return None
        try:
            x = undo(x)
        except (ValueError, TypeError):
            return None
    x = np.asarray(x)
    fits = x.ndim == 2 and x.dtype.kind == "f" and x.shape[1] == original.signature.width
    return np.ascontiguousarray(x, dtype=np.float64) if fits else None


def _thinned(parts: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    if not parts:
        return np.empty(0)
    values = np.unique(np.concatenate(parts))
    if len(values) <= _MOST:
        return values
    return values[np.linspace(0, len(values) - 1, _MOST).astype(np.intp)]


def _splits(steps: Iterable[Any]) -> Iterator[Splits]:
    from lagar.runtimes.sklearn import parts

    for part in parts(list(steps)):
        root = type(part).__module__.partition(".")[0]
        if root == "xgboost":
            yield from _of_xgboost(part)
        elif root == "lightgbm":
            yield from _of_lightgbm(part)
        elif root == "catboost":
            yield from _of_catboost(part)
        elif hasattr(part, "tree_"):
            yield np.asarray(part.tree_.feature), np.asarray(part.tree_.threshold, np.float64)
        elif type(part).__name__ == "TreePredictor" and hasattr(part, "nodes"):
            nodes = part.nodes[(part.nodes["is_leaf"] == 0) & (part.nodes["is_categorical"] == 0)]
            yield nodes["feature_idx"].astype(np.int64), nodes["num_threshold"].astype(np.float64)


def _of_xgboost(model: Any) -> Iterator[Splits]:
    booster = model.get_booster() if hasattr(model, "get_booster") else model
    if not hasattr(booster, "save_raw"):
        return
    learner = json.loads(booster.save_raw("json"))["learner"]["gradient_booster"]
    for tree in learner.get("model", {}).get("trees", ()):
        inner = np.asarray(tree["left_children"]) >= 0
        yield np.asarray(tree["split_indices"])[inner], np.asarray(tree["split_conditions"], np.float64)[inner]


def _of_lightgbm(model: Any) -> Iterator[Splits]:
    booster = getattr(model, "booster_", model)
    if not hasattr(booster, "model_to_string"):
        return
    features: NDArray[Any] | None = None
    for line in booster.model_to_string().splitlines():
        if line.startswith("split_feature="):
            features = np.array(line.partition("=")[2].split(), dtype=np.int64)
        elif line.startswith("threshold=") and features is not None:
            yield features, np.array(line.partition("=")[2].split(), dtype=np.float64)
            features = None


def _of_catboost(model: Any) -> Iterator[Splits]:
    try:
        borders = model.get_borders()
    except Exception:  # a model without float features, or a version without the method
        return
    for feature, values in borders.items():
        yield np.full(len(values), int(feature)), np.asarray(values, np.float64)
