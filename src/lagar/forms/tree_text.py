"""LightGBM's model text as `Trees`, with the decisions of its src/io/tree.cpp and include/LightGBM/tree.h.

LightGBM compares in float64. It reads a value within ±1e-35 (as float32) as 0; what a missing value does is part of
each split: it is 0 (None), goes to the split's default side (NaN), or does so together with 0 (Zero). A category is cut
to a whole number; what is missing, negative or not in the set goes right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lagar.forms.candidates import NotApplicable
from lagar.forms.tree_models import member_column
from lagar.forms.trees import Member, Trees, join, refuse_too_large
from lagar.types import Array

ZERO = float(np.float32(1e-35))
_CATEGORICAL, _DEFAULT_LEFT = 1, 2
_NONE, _AS_ZERO, _AS_NAN = 0, 1, 2


@dataclass
class BoosterText:
    """A booster's trees and what is done with their sums."""

    trees: Trees
    objective: str
    """As in the text: "binary sigmoid:1"."""
    average: bool
    """Sums are divided by the number of iterations (random forest mode)."""
    iterations: int
    snap: bool
    """Whether a split tells a value within ±1e-35 from 0, so that such values have to be made 0."""
    zero_missing: list[int]
    """Columns in which 0 is missing."""


def parse(text: str) -> BoosterText:
    """Model text as `Booster.model_to_string()` gives it; raises NotApplicable."""
    head, *blocks = text.partition("\nend of trees")[0].split("\nTree=")
    facts = _facts(head)
    width = int(facts["max_feature_idx"]) + 1
    per_iteration = int(facts["num_tree_per_iteration"])
    trees = [_facts(block.partition("\n")[2]) for block in blocks]
    if not trees:
        raise NotApplicable("the booster has no trees")
    if any(int(tree.get("is_linear", "0")) for tree in trees):
        raise NotApplicable("the booster's leaves are linear models (linear_tree)")
    refuse_too_large(sum(2 * int(tree["num_leaves"]) for tree in trees), "native")
    members: dict[tuple[int, bytes], int] = {}
    made: list[Member] = []
    kinds: dict[int, int] = {}
    joined = join([_tree(tree, width, members, made, kinds) for tree in trees])
    joined.members = made
    joined.target = np.tile(np.arange(per_iteration, dtype=np.int64), len(trees) // per_iteration)
    numeric = joined.feature < width
    near = joined.threshold[numeric]
    return BoosterText(
        trees=joined,
        objective=facts.get("objective", ""),
        average="average_output" in facts,
        iterations=len(trees) // per_iteration,
        snap=bool(((near >= -ZERO) & (near < ZERO)).any()),
        zero_missing=sorted(column for column, kind in kinds.items() if kind == _AS_ZERO),
    )


def _facts(lines: str) -> dict[str, str]:
    facts = {}
    for line in lines.splitlines():
        key, _, content = line.partition("=")
        facts[key] = content
    return facts


def _tree(
    facts: dict[str, str],
    width: int,
    members: dict[tuple[int, bytes], int],
    made: list[Member],
    kinds: dict[int, int],
) -> Trees:
    values = _floats(facts["leaf_value"])
    inner = int(facts["num_leaves"]) - 1
    if inner == 0:
        feature = left = right = np.zeros(0, dtype=np.int64)
        threshold, missing_left = np.zeros(0), np.zeros(0, dtype=bool)
        values = values[:1]
    else:
        feature, left, right = (_ints(facts[key]) for key in ("split_feature", "left_child", "right_child"))
        threshold, decisions = _floats(facts["threshold"]), _ints(facts["decision_type"])
        missing_left = _missing_left(feature, threshold, decisions, kinds)
        for at in np.flatnonzero(decisions & _CATEGORICAL):
            right_codes = _goes_right(facts, int(threshold[at]))
            feature[at] = width + member_column(members, made, int(feature[at]), right_codes)
            threshold[at], missing_left[at] = 0.5, False
    return Trees(
        width=width,
        feature=feature,
        threshold=threshold,
        left=left,
        right=right,
        missing_left=missing_left,
        roots=np.array([0 if inner else -1], dtype=np.int64),
        leaf_tree=np.zeros(len(values), dtype=np.int64),
        values=values[:, None],
    )


def _missing_left(feature: Array, threshold: Array, decisions: Array, kinds: dict[int, int]) -> NDArray[np.bool_]:
    """Where a missing value goes; a feature in which 0 is missing in one split and not in another is refused."""
    kind = (decisions >> 2) & 3
    numeric = (decisions & _CATEGORICAL) == 0
    for column, found in set(zip(feature[numeric].tolist(), kind[numeric].tolist(), strict=True)):
        if _AS_ZERO in {found, kinds.setdefault(column, found)} and kinds[column] != found:
            raise NotApplicable(f"column {column} treats 0 as missing in some splits and not in others")
    default_left = (decisions & _DEFAULT_LEFT) != 0
    return np.where(kind == _NONE, threshold >= 0.0, default_left)


def _goes_right(facts: dict[str, str], index: int) -> NDArray[np.bool_]:
    """Per code whether it is not in the split's set; one more for the codes beyond it."""
    boundaries = _ints(facts["cat_boundaries"])
    words = np.array(facts["cat_threshold"].split(), dtype=np.uint64).astype("<u4")
    chosen = np.ascontiguousarray(words[boundaries[index] : boundaries[index + 1]])
    return np.append(~np.unpackbits(chosen.view(np.uint8), bitorder="little").astype(bool), True)


def _ints(text: str) -> NDArray[np.int64]:
    return np.array(text.split(), dtype=np.int64)


def _floats(text: str) -> NDArray[np.float64]:
    return np.array([float(number) for number in text.split()], dtype=np.float64)
