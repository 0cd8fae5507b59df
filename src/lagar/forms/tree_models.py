"""Scikit-learn's trees, forests, boosters and isolation forests as `Trees`.

Everything is read from the fitted attributes, with the arithmetic of the library's own predict, in its order:
sklearn/tree/_tree.pyx, ensemble/_forest.py, _gb.py and _gradient_boosting.pyx, _iforest.py,
_hist_gradient_boosting/_predictor.pyx.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lagar.forms.candidates import NotApplicable
from lagar.forms.trees import Member, Trees, join, refuse_too_large
from lagar.types import Array


def forest(trees: Sequence[Any], width: int) -> Trees:
    """Trees whose values are all added: (leaves, outputs · classes), the classes of the first output first."""
    return _joined(trees, width, [_all_values(tree.tree_) for tree in trees])


def _all_values(tree: Any) -> Array:
    leaves = tree.children_left < 0
    values: Array = tree.value[leaves]
    return values.reshape(len(values), -1)


def boosting(model: Any, start: NDArray[np.float64]) -> Trees:
    """GradientBoosting: each stage adds learning_rate times a tree's value to each class, beginning at `start`."""
    stages = model.estimators_
    flat = [tree for stage in stages for tree in stage]
    values = []
    for tree in flat:
        leaf = tree.tree_.children_left < 0
        values.append(model.learning_rate * tree.tree_.value[leaf][:, :1, 0])
    trees = _joined(flat, model.n_features_in_, values)
    trees.target = np.tile(np.arange(stages.shape[1], dtype=np.int64), len(stages))
    trees.start(start)
    return trees


def isolation(model: Any) -> Trees:
    """IsolationForest: each tree adds how deep a row comes to lie; its columns may be a choice of the features."""
    values = []
    for index, tree in enumerate(model.estimators_):
        depths = (model._decision_path_lengths[index] + model._average_path_length_per_tree[index]) - 1.0
        values.append(np.asarray(depths, dtype=np.float64)[tree.tree_.children_left < 0][:, None])
    trees = _joined(model.estimators_, model.n_features_in_, values, model.estimators_features_)
    trees.target = np.zeros(trees.count, dtype=np.int64)
    return trees


def _joined(
    estimators: Sequence[Any], width: int, values: Sequence[Array], columns: Sequence[Array] | None = None
) -> Trees:
    refuse_too_large(sum(int(estimator.tree_.node_count) for estimator in estimators), "native")
    parts = [
        _tree(estimator.tree_, width, leaf_values, None if columns is None else columns[index])
        for index, (estimator, leaf_values) in enumerate(zip(estimators, values, strict=True))
    ]
    return join(parts)


def _tree(tree: Any, width: int, values: Array, columns: Array | None) -> Trees:
    inner, feature, left, right = _numbered(
        tree.children_left, tree.children_right, tree.children_left < 0, tree.feature
    )
    if columns is not None:
        feature = np.asarray(columns, dtype=np.int64)[feature]
    state = tree.__getstate__()["nodes"]
    missing = state["missing_go_to_left"] if "missing_go_to_left" in state.dtype.names else np.zeros(len(state))
    return Trees(
        width=width,
        feature=feature,
        threshold=tree.threshold[inner].astype(np.float64),
        left=left,
        right=right,
        missing_left=missing[inner].astype(bool),
        roots=np.array([0 if len(inner) else -1], dtype=np.int64),
        leaf_tree=np.zeros(len(values), dtype=np.int64),
        values=values,
        single=True,
    )


def _numbered(left: Array, right: Array, is_leaf: Array, feature: Array) -> tuple[Array, Array, Array, Array]:
    """Indexes of the inner nodes, their features, and their children in the numbering of `Trees`."""
    number = np.empty(len(is_leaf), dtype=np.int64)
    inner = np.flatnonzero(~is_leaf)
    number[inner] = np.arange(len(inner))
    number[is_leaf] = ~np.arange(int(is_leaf.sum()))
    return inner, feature[inner].astype(np.int64), number[left[inner]], number[right[inner]]


def histogram(model: Any) -> Trees:
    """HistGradientBoosting: float64, missing values, categories in the order of the model's own encoder."""
    iterations = model._predictors
    flat = [predictor for stage in iterations for predictor in stage]
    refuse_too_large(sum(len(predictor.nodes) for predictor in flat), "native")
    known = _known_categories(model)
    members: dict[tuple[int, bytes], int] = {}
    made: list[Member] = []
    parts = []
    for predictor in flat:
        nodes = predictor.nodes
        inner, feature, left, right = _numbered(
            nodes["left"].astype(np.int64), nodes["right"].astype(np.int64), nodes["is_leaf"].astype(bool),
            nodes["feature_idx"],
        )  # fmt: skip
        threshold = nodes["num_threshold"][inner].astype(np.float64)
        missing_left = nodes["missing_go_to_left"][inner].astype(bool)
        for at in np.flatnonzero(nodes["is_categorical"][inner]):
            source = int(feature[at])
            bits = predictor.raw_left_cat_bitsets[int(nodes["bitset_idx"][inner[at]])]
            goes_right = _goes_right(bits, known[source], missing_left=bool(missing_left[at]))
            feature[at] = model.n_features_in_ + member_column(members, made, source, goes_right)
            threshold[at] = 0.5
        parts.append(
            Trees(
                width=model.n_features_in_,
                feature=feature,
                threshold=threshold,
                left=left,
                right=right,
                missing_left=missing_left,
                roots=np.array([0 if len(inner) else -1], dtype=np.int64),
                leaf_tree=np.zeros(int(nodes["is_leaf"].sum()), dtype=np.int64),
                values=nodes["value"][nodes["is_leaf"].astype(bool)].astype(np.float64)[:, None],
            )
        )
    trees = join(parts)
    trees.members = made
    trees.target = np.tile(np.arange(model.n_trees_per_iteration_, dtype=np.int64), len(iterations))
    trees.start(np.asarray(model._baseline_prediction, dtype=np.float64).reshape(-1))
    return trees


def member_column(
    members: dict[tuple[int, bytes], int], made: list[Member], source: int, right: NDArray[np.bool_]
) -> int:
    """The number of a categorical split's column; equal splits share one."""
    key = (source, right.tobytes())
    if key not in members:
        members[key] = len(made)
        made.append(Member(source, right))
    return members[key]


def _goes_right(bits: Array, known: NDArray[np.bool_], *, missing_left: bool) -> NDArray[np.bool_]:
    """Per code: left where it is in the set, right where it is only known, else as a missing value."""
    in_set = _bits(bits)[: len(known)]
    return np.append(np.where(in_set, False, np.where(known, True, not missing_left)), not missing_left)


def _known_categories(model: Any) -> dict[int, NDArray[np.bool_]]:
    """Column → which of the codes of a byte the model was fitted with."""
    found, index = model._bin_mapper.make_known_categories_bitsets()
    remapped = getattr(model, "_is_categorical_remapped", None)
    if remapped is None:
        return {}
    return {int(column): _bits(found[index[column]]) for column in np.flatnonzero(remapped)}


def _bits(words: Array) -> NDArray[np.bool_]:
    """The bits of 32-bit words, the lowest first."""
    little_endian = np.ascontiguousarray(words, dtype="<u4").view(np.uint8)
    return np.unpackbits(little_endian, bitorder="little").astype(bool)


def histogram_columns(model: Any) -> tuple[list[int], dict[int, list[Any]]]:
    """Where each column of the trees comes from, the categorical first, and the categories of those in their order.

    The categories that a missing value was seen as are left out: it has no code.
    """
    if getattr(model, "_preprocessor", None) is None:
        return list(range(model.n_features_in_)), {}
    categorical = np.asarray(model.is_categorical_, dtype=bool)
    order = [*np.flatnonzero(categorical).tolist(), *np.flatnonzero(~categorical).tolist()]
    encoder = model._preprocessor.named_transformers_["encoder"]
    categories: dict[int, list[Any]] = {}
    for index, values in enumerate(encoder.categories_):
        plain = np.asarray(values).tolist()
        if plain and (plain[-1] is None or plain[-1] != plain[-1]):
            plain = plain[:-1]
        if any(value is None or value != value for value in plain):
            raise NotApplicable(f"the categories of column {order[index]} have a missing value among them")
        categories[index] = plain
    return order, categories
