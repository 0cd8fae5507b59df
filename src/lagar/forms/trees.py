"""Trees of any library as plain arrays, and their ONNX graph.

`Trees` is what the readers (`tree_models`, `tree_boosters`) make of an estimator and what every way of running trees
starts from. The graph is one `TreeEnsemble` of ai.onnx.ml 5, or one per tree: ONNX Runtime then walks all rows through
one tree before the next, which is two times faster for large blocks of large forests and slower for one row.

A leaf answers either its value, summed by the runtime in the order of the trees, or (`layout` leaf) the number of its
row in a table: a leaf of ai.onnx.ml 5 has one weight, and a forest's leaf has a probability of each class. The form
sums those itself, in the order in which the library does, so that every bit is the library's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lagar.forms import onnx_file
from lagar.forms.candidates import NotApplicable
from lagar.runtimes.tree_walks import DOUBLE, LEAF, SINGLE

MAX_NODES = 5_000_000
MAX_LOAD_BYTES = 1 << 30
Way = Literal["at once", "by tree", "native"]
"""One operator with all trees, one operator a tree, or the nodes as an array for `lagar/walk.c`."""
LOAD_BYTES: dict[Way, int] = {"at once": 330, "by tree": 110, "native": 40}
"""Peak memory for each node while a form is opened, with ONNX Runtime 1.31: measured on 1.4 million."""
Layout = Literal["leaf", "sum"]


@dataclass
class Member:
    """A categorical split as a column of the trees' matrix: 0 where the category goes left, 1 where it goes right."""

    source: int
    """Column of the model's matrix that holds the category."""
    right: NDArray[np.bool_]
    """Per code whether it goes right; the last is for what is no known code: missing, unknown, negative."""


@dataclass
class Trees:
    """Inner nodes and leaves of all trees, each numbered through; a child below zero is the leaf ~child.

    A row goes left where its value is at most the threshold; a missing one (NaN) where `missing_left` says so. The
    values of a tree's leaf are added to the `targets`: all of them, or the one that `target` names for the tree.
    """

    width: int
    """Columns of the model's matrix; the members' columns come after them."""
    feature: NDArray[np.int64]
    threshold: NDArray[np.float64]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    missing_left: NDArray[np.bool_]
    roots: NDArray[np.int64]
    """Per tree its first inner node, or ~leaf for a tree that never splits."""
    leaf_tree: NDArray[np.int64]
    """Per leaf the number of its tree; the leaves of a tree stand together."""
    values: NDArray[np.float64]
    """(leaves, targets), or (leaves, 1) where `target` says which one a tree adds to."""
    target: NDArray[np.int64] | None = None
    single: bool = False
    """Values are compared as float32, as scikit-learn's trees do: the matrix is rounded first."""
    members: list[Member] = field(default_factory=list)

    @property
    def count(self) -> int:
        return len(self.roots)

    @property
    def nodes(self) -> int:
        """Inner nodes and leaves."""
        return len(self.feature) + len(self.values)

    @property
    def targets(self) -> int:
        return self.values.shape[1] if self.target is None else int(self.target.max(initial=0)) + 1

    def start(self, values: NDArray[np.float64]) -> None:
        """Add what the library's sum starts from, one value a target: to the first tree of each, which comes first."""
        assert self.target is not None
        for index, value in enumerate(values):
            first = int(np.flatnonzero(self.target == index)[0])
            leaves = self.leaf_tree == first
            self.values[leaves] = value + self.values[leaves]


def join(parts: Sequence[Trees]) -> Trees:
    """One ensemble of all the trees in order; each part has the same width and targets and no members."""
    nodes = np.cumsum([0, *(len(part.feature) for part in parts)])
    leaves = np.cumsum([0, *(len(part.values) for part in parts)])
    trees = np.cumsum([0, *(part.count for part in parts)])

    def shifted(child: NDArray[np.int64], index: int) -> NDArray[np.int64]:
        moved: NDArray[np.int64] = np.where(child >= 0, child + nodes[index], child - leaves[index])
        return moved

    def all_of(pieces: list[NDArray[Any]]) -> NDArray[Any]:
        return np.concatenate(pieces)

    targets = [part.target for part in parts if part.target is not None]
    return Trees(
        width=parts[0].width,
        feature=all_of([part.feature for part in parts]),
        threshold=all_of([part.threshold for part in parts]),
        left=all_of([shifted(part.left, index) for index, part in enumerate(parts)]),
        right=all_of([shifted(part.right, index) for index, part in enumerate(parts)]),
        missing_left=all_of([part.missing_left for part in parts]),
        roots=all_of([shifted(part.roots, index) for index, part in enumerate(parts)]),
        leaf_tree=all_of([part.leaf_tree + trees[index] for index, part in enumerate(parts)]),
        values=all_of([part.values for part in parts]),
        target=all_of(list(targets)) if targets else None,
        single=parts[0].single,
    )


def refuse_too_large(nodes: int, way: Way = "at once") -> None:
    """NotApplicable where a form would take too long to open, or too much memory while it does."""
    peak = nodes * LOAD_BYTES[way]
    if nodes > MAX_NODES or peak > MAX_LOAD_BYTES:
        raise NotApplicable(
            f"the trees have {nodes:,} nodes: opening them takes about {peak / 1e9:.1f} GB; the limits are "
            f"{MAX_NODES:,} nodes and {MAX_LOAD_BYTES / 1e9:.1f} GB"
        )


def rounded_down(threshold: NDArray[np.float64]) -> NDArray[np.float32]:
    """The largest float32 that is not above: x <= threshold is the same for every float32 x."""
    with np.errstate(over="ignore"):
        single = threshold.astype(np.float32)
        above = single.astype(np.float64) > threshold
        single[above] = np.nextafter(single[above], np.float32(-np.inf))
    return single


def layout_of(trees: Trees) -> Layout:
    """Leaf where a leaf has several values."""
    return "sum" if trees.target is not None else "leaf"


def table_of(trees: Trees) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The distinct rows of the values, and for each leaf which one it has: most leaves of a forest are alike."""
    table, inverse = np.unique(trees.values, axis=0, return_inverse=True)
    return np.ascontiguousarray(table), inverse.reshape(-1).astype(np.int64)


def packed(trees: Trees, rows: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.int32]]:
    """Nodes and roots as `lagar/walk.c` reads them; `rows` has each leaf's row in the table.

    A tree is its root, then the children of its first inner node, of its second, and so on.
    """
    kind = SINGLE if trees.single else DOUBLE
    if len(rows) and int(rows.max()) >= 1 << 22:
        raise NotApplicable(f"its leaves have {int(rows.max()) + 1:,} different values; the limit is {1 << 22:,}")
    inner = np.diff(np.append(np.searchsorted(trees.leaf_tree, np.arange(trees.count)), len(rows))) - 1
    before = np.cumsum(inner) - inner
    roots = 2 * before + np.arange(trees.count)
    owner = np.repeat(np.arange(trees.count), inner)
    first_child = 2 * np.arange(len(trees.feature)) + owner + 1
    place_inner, place_leaf = np.empty(len(trees.feature), dtype=np.int64), np.empty(len(rows), dtype=np.int64)
    for child, place in ((trees.roots, roots), (trees.left, first_child), (trees.right, first_child + 1)):
        place_inner[child[child >= 0]] = place[child >= 0]
        place_leaf[~child[child < 0]] = place[child < 0]
    nodes = np.zeros(trees.nodes, dtype=kind)
    split = rounded_down(trees.threshold) if trees.single else trees.threshold
    nodes["split"][place_inner] = split.view(kind["split"])
    nodes["column"][place_inner] = 2 * trees.feature + ~trees.missing_left
    nodes["next"][place_inner] = first_child
    nodes["split"][place_leaf] = LEAF[kind] + rows.astype(kind["split"])
    nodes["next"][place_leaf] = place_leaf
    return nodes, roots.astype(np.int32)


def graph(trees: Trees, weights: NDArray[Any], by_tree: bool, missing: bool) -> bytes:
    """The ONNX file: x (n, columns) → y.

    `weights` has one number for each leaf; y is their sum for each target, or for each tree (n, trees) where the
    trees have no target. `by_tree` makes one operator a tree and y (trees · n, 1), tree after tree. Without `missing`
    no NaN will ever come.
    """
    dtype = weights.dtype
    columns = trees.width + len(trees.members)
    if by_tree:
        names = [f"y{index}" for index in range(trees.count)]
        nodes = [_operator(trees, weights, np.array([index]), name, 1, missing) for index, name in enumerate(names)]
        nodes.append(onnx_file.node("Concat", names, ["y"], axis=0))
        shape: list[int | str] = ["m", 1]
    else:
        targets = trees.targets if trees.target is not None else trees.count
        nodes = [_operator(trees, weights, np.arange(trees.count), "y", targets, missing)]
        shape = ["n", targets]
    return onnx_file.model(
        nodes,
        [onnx_file.value("x", dtype, ["n", columns])],
        [onnx_file.value("y", dtype, shape)],
        {"": 17, "ai.onnx.ml": 5},
    )


def _operator(
    trees: Trees, weights: NDArray[Any], chosen: NDArray[np.int64], output: str, targets: int, missing: bool
) -> bytes:
    """One TreeEnsemble of the chosen trees, which stand together."""
    part = _part(trees, int(chosen[0]), int(chosen[-1]) + 1)
    weights = weights[part.leaves]
    if targets == 1:
        target = np.zeros(len(weights), dtype=np.int64)
    else:
        owner = trees.leaf_tree[part.leaves]
        target = owner if trees.target is None else trees.target[owner]
    dtype = weights.dtype
    split = rounded_down(part.threshold) if dtype == np.float32 else part.threshold.astype(dtype)
    extra: dict[str, Any] = {}
    if missing and part.missing_left.any():
        extra["nodes_missing_value_tracks_true"] = part.missing_left.astype(np.int64)
    left, right = part.left, part.right
    return onnx_file.node(
        "TreeEnsemble",
        ["x"],
        [output],
        "ai.onnx.ml",
        n_targets=targets,
        aggregate_function=1,
        post_transform=0,
        tree_roots=part.roots,
        nodes_featureids=part.feature,
        nodes_splits=(split,),
        nodes_modes=(np.zeros(len(split), dtype=np.uint8),),
        nodes_truenodeids=np.where(left >= 0, left, part.number[~left]),
        nodes_trueleafs=(left < 0).astype(np.int64),
        nodes_falsenodeids=np.where(right >= 0, right, part.number[~right]),
        nodes_falseleafs=(right < 0).astype(np.int64),
        leaf_targetids=_placed(target, part.number),
        leaf_weights=(_placed(weights, part.number),),
        **extra,
    )


@dataclass
class _Part:
    """Some trees of an ensemble as ai.onnx.ml wants them: every tree has a node, and no root two equal numbers."""

    leaves: NDArray[np.int64]
    """The ensemble's leaf of each leaf here; a tree of one leaf has it twice."""
    feature: NDArray[np.int64]
    threshold: NDArray[np.float64]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    missing_left: NDArray[np.bool_]
    roots: NDArray[np.int64]
    number: NDArray[np.int64]
    """Per leaf here the number it gets in the file."""


def _part(trees: Trees, start: int, stop: int) -> _Part:
    roots = trees.roots[start:stop]
    first_leaf, end_leaf = np.searchsorted(trees.leaf_tree, [start, stop])
    inner = roots[roots >= 0]
    later = trees.roots[stop:]
    later = later[later >= 0]
    first = int(inner[0]) if len(inner) else 0
    end = (int(later[0]) if len(later) else len(trees.feature)) if len(inner) else first
    leaves = np.arange(first_leaf, end_leaf)
    stumps = roots < 0
    added = ~roots[stumps] - first_leaf  # trees of one leaf: a node with that leaf on both sides
    new = (end - first) + np.arange(len(added))
    twin = len(leaves) + np.arange(len(added))

    def children(child: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.where(child >= 0, child - first, child + first_leaf)

    local = np.empty(len(roots), dtype=np.int64)
    local[~stumps] = roots[~stumps] - first
    local[stumps] = new
    part = _Part(
        leaves=np.concatenate([leaves, leaves[added]]),
        feature=np.concatenate([trees.feature[first:end], np.zeros(len(added), dtype=np.int64)]),
        threshold=np.concatenate([trees.threshold[first:end], np.zeros(len(added))]),
        left=np.concatenate([children(trees.left[first:end]), ~added]),
        right=np.concatenate([children(trees.right[first:end]), ~twin]),
        missing_left=np.concatenate([trees.missing_left[first:end], np.zeros(len(added), dtype=bool)]),
        roots=local,
        number=np.arange(len(leaves) + len(added)),
    )
    _renumber(part)
    return part


def _renumber(part: _Part) -> None:
    """ONNX Runtime takes a root with equal numbers on both sides for a leaf, even if one is a node and one a leaf."""
    for root in part.roots:
        left, right = int(part.left[root]), int(part.right[root])
        if (left >= 0) == (right >= 0):
            continue
        leaf, node = (~left, right) if left < 0 else (~right, left)
        if part.number[leaf] == node:
            other = leaf + 1 if leaf + 1 < len(part.number) else leaf - 1
            part.number[[leaf, other]] = part.number[[other, leaf]]


def _placed(values: NDArray[Any], number: NDArray[np.int64]) -> NDArray[Any]:
    placed = np.empty_like(values)
    placed[number] = values
    return placed
