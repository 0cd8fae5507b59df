"""XGBoost's trees as plain arrays, read from the JSON that a booster saves.

XGBoost computes in float32 throughout: a value goes left where it is below the threshold, and a row's sum starts from
the base score and takes the trees in their order. https://xgboost.readthedocs.io/en/stable/tutorials/saving_model.html
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lagar.forms.candidates import NotApplicable
from lagar.forms.trees import Trees, refuse_too_large

_SIGMOID = {"binary:logistic", "reg:logistic"}
_EXPONENT = {"count:poisson", "reg:gamma", "reg:tweedie"}
_AS_THEY_ARE = {
    "binary:logitraw", "reg:squarederror", "reg:squaredlogerror", "reg:pseudohubererror", "reg:absoluteerror",
    "reg:quantileerror", "rank:pairwise", "rank:ndcg", "rank:map",
}  # fmt: skip


def objective_of(document: dict[str, Any]) -> str:
    return str(document["learner"]["objective"]["name"])


def finish_of(objective: str) -> str:
    """What makes XGBoost's answers of the sums; NotApplicable for an objective that is not known here."""
    if objective in _SIGMOID:
        return "sigmoid"
    if objective in {"multi:softprob", "multi:softmax"}:
        return "softmax"
    if objective in _EXPONENT:
        return "exponent"
    if objective in _AS_THEY_ARE:
        return "none"
    raise NotApplicable(f"what the objective {objective} makes of its trees' sums is not known to the exporter")


def read(booster: Any) -> dict[str, Any]:
    """The booster's JSON document."""
    document: dict[str, Any] = json.loads(bytes(booster.save_raw("json")))
    return document


def trees_of(document: dict[str, Any], iterations: tuple[int, int]) -> Trees:
    """The trees of the iterations, (0, 0) for all, with the base score in the first tree of each target."""
    learner = document["learner"]
    if learner["gradient_booster"]["name"] != "gbtree":
        raise NotApplicable(f"a booster of kind {learner['gradient_booster']['name']} is more than a sum of trees")
    model = learner["gradient_booster"]["model"]
    chosen = _chosen(model, iterations)
    trees = [model["trees"][index] for index in chosen]
    if not trees:
        raise NotApplicable("the booster has no trees")
    refuse_too_large(sum(len(tree["left_children"]) for tree in trees))
    target = np.array([model["tree_info"][index] for index in chosen], dtype=np.int64)
    joined = _joined(trees, int(learner["learner_model_param"]["num_feature"]), target)
    base = _base(learner, joined.targets)
    if len(set(target.tolist())) != len(base):
        raise NotApplicable("some classes have no tree")
    with np.errstate(over="ignore"):
        for index, value in enumerate(base):
            first = joined.leaf_tree == int(np.flatnonzero(target == index)[0])
            joined.values[first] = (value + joined.values[first].astype(np.float32)).astype(np.float64)
    return joined


def _chosen(model: dict[str, Any], iterations: tuple[int, int]) -> list[int]:
    begin, end = iterations
    count = len(model["trees"])
    starts = model.get("iteration_indptr")
    if end == 0:
        return list(range(count))
    if starts is None:
        raise NotApplicable("the booster was stopped early and saved by an XGBoost that does not say where")
    return list(range(starts[begin], starts[min(end, len(starts) - 1)]))


def _joined(trees: list[dict[str, Any]], width: int, target: NDArray[np.int64]) -> Trees:
    parts: list[tuple[NDArray[Any], ...]] = []
    roots: list[int] = []
    nodes = leaves = 0
    for number, tree in enumerate(trees):
        if int(tree["tree_param"].get("size_leaf_vector", "1")) > 1:
            raise NotApplicable("its leaves hold several values (multi_output_tree)")
        if tree["categories_nodes"]:
            raise NotApplicable("it splits on categories")
        left, right = np.array(tree["left_children"]), np.array(tree["right_children"])
        split = np.array(tree["split_conditions"], dtype=np.float32)
        is_leaf = left < 0
        place = np.where(is_leaf, ~(np.cumsum(is_leaf) - 1 + leaves), np.cumsum(~is_leaf) - 1 + nodes)
        inner = ~is_leaf
        parts.append((
            np.array(tree["split_indices"])[inner],
            np.nextafter(split[inner], np.float32(-np.inf)).astype(np.float64),  # x < t is x <= the number before t
            place[left[inner]],
            place[right[inner]],
            np.array(tree["default_left"])[inner].astype(bool),
            np.full(int(is_leaf.sum()), number),
            split[is_leaf].astype(np.float64),
        ))  # fmt: skip
        roots.append(int(place[0]))
        nodes, leaves = nodes + int(inner.sum()), leaves + int(is_leaf.sum())
    columns = zip(*parts, strict=True)
    feature, threshold, lefts, rights, missing, owner, values = (np.concatenate(column) for column in columns)
    return Trees(
        width=width,
        feature=feature.astype(np.int64),
        threshold=threshold,
        left=lefts.astype(np.int64),
        right=rights.astype(np.int64),
        missing_left=missing,
        roots=np.array(roots, dtype=np.int64),
        leaf_tree=owner.astype(np.int64),
        values=values[:, None],
        target=target,
        single=True,
    )


def _base(learner: dict[str, Any], targets: int) -> NDArray[np.float32]:
    """The base score of each target as the sum starts from it: before what the objective makes of the sum."""
    said = json.loads(learner["learner_model_param"]["base_score"])
    values = np.array(said if isinstance(said, list) else [said], dtype=np.float32)
    if len(values) == 1:
        values = np.repeat(values, targets)
    finish = finish_of(learner["objective"]["name"])
    if finish == "sigmoid":
        # In float32 step by step: -log(1 / p - 1).
        odds: NDArray[np.float32] = np.float32(1.0) / values - np.float32(1.0)
        return np.negative(np.log(odds))
    if finish == "exponent":
        return np.array([math.log(value) for value in values.tolist()], dtype=np.float32)
    return values
