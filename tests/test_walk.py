"""The compiled walk through trees: made once, beside the package, of its own source; what a form holds is checked."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from lagar import native
from lagar.errors import LoadFailed
from lagar.runtimes.tree_walks import LEAF, SINGLE, NativeWalk, Shape

SHAPE = Shape(columns=1, trees=1, targets=1, dtype=np.float32)
Arrays = dict[str, NDArray]


@pytest.fixture(scope="module", autouse=True)
def _library() -> None:
    if not native.prepare():
        pytest.skip("no C compiler, or the package cannot be written")


def stump() -> Arrays:
    """x <= 0.5: 10, else 20."""
    nodes = np.zeros(3, dtype=SINGLE)
    nodes["split"] = [np.float32(0.5).view(np.uint32), LEAF[SINGLE], LEAF[SINGLE] + 1]
    nodes["next"] = [1, 1, 2]
    zero = np.zeros(1, dtype=np.int32)
    return {"nodes": nodes, "roots": zero, "targets": zero.copy(), "leaves": np.array([[10.0], [20.0]])}


def test_the_library_is_named_by_its_source_and_made_once() -> None:
    made = native.path()
    before = made.stat().st_mtime_ns
    assert native.prepare()
    assert made.stat().st_mtime_ns == before
    assert not made.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    assert not list(made.parent.glob("_walk-*/"))


def test_one_row_and_many_go_where_the_splits_say(tmp_path: Path) -> None:
    walk = NativeWalk(tmp_path, stump(), SHAPE)
    x = np.array([0.5, 0.50001, np.inf, -np.inf, np.nan, 0.0, -0.0] * 5, dtype=np.float32)
    expected = np.array([10.0, 20.0, 20.0, 10.0, 10.0, 10.0, 10.0] * 5)
    assert walk.many(x[:, None])[:, 0].tolist() == expected.tolist()
    for value, wanted in zip(x, expected, strict=True):
        walk.line[:] = value
        assert walk.one().tolist() == [[wanted]]


BREAKS: dict[str, Callable[[Arrays], object]] = {
    "a child before its node": lambda a: a["nodes"]["next"].__setitem__(1, 0),
    "a child behind the end": lambda a: a["nodes"]["next"].__setitem__(0, 2),
    "a column that is not there": lambda a: a["nodes"]["column"].__setitem__(0, 2),
    "a leaf without a row": lambda a: a["nodes"]["split"].__setitem__(2, LEAF[SINGLE] + 2),
    "a leaf that is a number": lambda a: a["nodes"]["split"].__setitem__(2, 7),
    "a root behind the end": lambda a: a["roots"].__setitem__(0, 3),
    "a target that is not there": lambda a: a["targets"].__setitem__(0, 1),
    "a missing table": lambda a: a.pop("leaves"),
    "another type": lambda a: a.__setitem__("leaves", a["leaves"].astype(np.float32)),
    "too few trees": lambda a: a.__setitem__("roots", a["roots"][:0]),
}


@pytest.mark.parametrize("fault", list(BREAKS))
def test_trees_that_would_lead_out_of_the_array_do_not_load(fault: str, tmp_path: Path) -> None:
    arrays = stump()
    BREAKS[fault](arrays)
    with pytest.raises(LoadFailed, match="compile it again"):
        NativeWalk(tmp_path, arrays, SHAPE)


def test_leaves_are_added_in_the_precision_that_is_asked_for(tmp_path: Path) -> None:
    arrays = stump()
    arrays["leaves"] = np.array([[1.0], [1e-9]], dtype=np.float32)
    arrays["roots"], arrays["targets"] = np.zeros(2, dtype=np.int32), np.zeros(2, dtype=np.int32)
    shape = SHAPE._replace(trees=2, sums=np.float32)
    walk = NativeWalk(tmp_path, arrays, shape)
    walk.line[:] = 1.0
    assert walk.one().dtype == np.float32
    assert walk.one()[0, 0] == np.float32(1e-9) + np.float32(1e-9)
    assert walk.many(np.zeros((9, 1), dtype=np.float32)).tolist() == [[2.0]] * 9
    with pytest.raises(LoadFailed, match="compile it again"):
        NativeWalk(tmp_path, arrays, shape._replace(sums=np.float64))
