"""What walks rows through trees and adds up their leaves: ONNX Runtime, or Lagar's own machine code."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from lagar import memory, native
from lagar.errors import LoadFailed
from lagar.types import Array

GRAPH = "trees.onnx"
SINGLE = np.dtype([("split", "<u4"), ("column", "<u4"), ("next", "<i4")])
DOUBLE = np.dtype([("split", "<u8"), ("column", "<u4"), ("next", "<i4")])
LEAF = {SINGLE: 0x7FC00000, DOUBLE: 0x7FF8000000000000}
"""A quiet NaN; its low bits are the number of the leaf's row in the table."""


class Shape(NamedTuple):
    """What goes in and comes out."""

    columns: int
    trees: int
    targets: int
    dtype: Any
    """In which values are compared."""
    sums: Any = np.float64
    """In which leaves are added up: what the library adds in."""


class Walk(Protocol):
    """Trees that are loaded."""

    line: Array
    """Where `one` looks for its row: (columns,)."""
    rounds: bool
    """True: `line` has float64, and `one` rounds it itself; what float32 does not hold becomes infinite."""
    libraries: dict[str, str]

    def one(self) -> Array:
        """Sums (1, targets) of the row in `line`."""
        ...

    def many(self, x: Array) -> Array:
        """Sums (n, targets) of at least two rows (n, columns), C-ordered and of the right type."""
        ...


class OnnxWalk:
    """A session. Binding its buffers costs more than a walk through a hundred trees: for one row it is done once."""

    rounds = False

    def __init__(self, folder: Path, table: Array | None, by_tree: bool, shape: Shape, threads: int) -> None:
        self._shape = shape
        self._by_tree = by_tree
        self._table = table
        self._columns = [] if table is None else [np.ascontiguousarray(column) for column in table.T]
        session, version = _session(folder, threads)
        self.libraries = {"onnxruntime": version}
        self._run: Callable[..., Any] = session._sess.run
        self._bind(session)
        memory.give_back()

    def _bind(self, session: Any) -> None:
        columns, trees, targets, dtype, _ = self._shape
        answers = targets if self._table is None and not self._by_tree else trees
        self._row = np.zeros((1, columns), dtype=dtype)
        self.line = self._row[0]
        self._answer = np.zeros((answers, 1) if self._by_tree else (1, answers), dtype=dtype)
        self._flat = self._answer.reshape(-1)
        self._binding = session.io_binding()  # the native object below is its
        for bind, name, array in (
            (self._binding.bind_input, "x", self._row), (self._binding.bind_output, "y", self._answer),
        ):  # fmt: skip
            bind(name, "cpu", 0, dtype, array.shape, array.ctypes.data)
        native_binding = self._binding._iobinding
        run = session._sess.run_with_iobinding
        self._walk: Callable[[], Any] = lambda: run(native_binding, None)

    def one(self) -> Array:
        """Sums (1, targets) of the row in `line`. Additions run in the order of the trees: never along one axis alone,
        where NumPy adds pairwise."""
        self._walk()
        targets = self._shape.targets
        if self._table is None:
            if not self._by_tree:
                return self._answer.copy()
            return np.add.accumulate(self._flat.reshape(-1, targets), axis=0)[-1:]
        values = self._table.take(self._flat.astype(np.intp), axis=0)
        if targets == 1:
            return np.add.accumulate(values, axis=0)[-1:]
        sums: Array = np.add.reduce(values, axis=0, keepdims=True)
        return sums

    def many(self, x: Array) -> Array:
        """Sums (n, targets) of at least two rows."""
        (found,) = self._run(["y"], {"x": x}, None)
        if self._table is None:
            if not self._by_tree:
                sums: Array = found
                return sums
            by_stage = found.reshape(-1, self._shape.targets, len(x))
            return np.ascontiguousarray(np.add.reduce(by_stage, axis=0).T)
        leaves = (found.reshape(self._shape.trees, -1) if self._by_tree else found.T).astype(np.intp)
        sums = np.empty((len(x), self._shape.targets))
        for target, column in enumerate(self._columns):
            np.add.reduce(column.take(leaves), axis=0, out=sums[:, target])
        return sums


class NativeWalk:
    """Nodes as an array and a function of `walk.c`. What is read is checked once, so that no walk leaves the array."""

    libraries: dict[str, str]

    def __init__(self, folder: Path, arrays: dict[str, Array], shape: Shape) -> None:
        library = native.library()
        if library is None:
            raise LoadFailed(
                f"{folder.name}: this installation has no compiled walk through trees ({native.path().name}); "
                "compile the version again here"
            )
        self.libraries = {}
        try:
            nodes, roots, targets, table = (arrays[name] for name in ("nodes", "roots", "targets", "leaves"))
        except KeyError as error:
            raise LoadFailed(f"{folder.name}: the table {error} is missing; compile it again") from None
        if not _is_sound(nodes, roots, targets, table, shape):
            raise LoadFailed(f"{folder.name}: its trees do not hold together; compile it again")
        self._kept = (nodes, roots, targets, table)
        self._targets = shape.targets
        self.rounds = shape.dtype == np.float32
        self.line = np.zeros(shape.columns)
        self._rounded = np.zeros(shape.columns, dtype=np.float32)
        self._dtype = shape.sums
        self._sums = np.zeros((1, shape.targets), dtype=shape.sums)
        self._trees = native.Trees(
            nodes.ctypes.data, roots.ctypes.data, targets.ctypes.data, table.ctypes.data,
            table.shape[1], shape.targets, shape.trees, shape.columns,
        )  # fmt: skip
        name = "double" if shape.dtype == np.float64 else "single" if shape.sums == np.float64 else "narrow"
        walk_one, self._walk = library[f"{'rounded' if self.rounds else 'one'}_{name}"], library[f"many_{name}"]
        for function in (walk_one, self._walk):
            function.restype = None
        one_row = (
            ctypes.byref(self._trees),
            ctypes.c_void_p(self.line.ctypes.data),
            *([ctypes.c_void_p(self._rounded.ctypes.data)] if self.rounds else []),
            ctypes.c_void_p(self._sums.ctypes.data),
        )
        self._one: Callable[[], None] = lambda: walk_one(*one_row)

    def one(self) -> Array:
        """Sums (1, targets) of the row in `line`."""
        sums = self._sums
        sums.fill(0.0)
        self._one()
        return sums.copy()

    def many(self, x: Array) -> Array:
        """Sums (n, targets) of rows."""
        sums = np.zeros((len(x), self._targets), dtype=self._dtype)
        self._walk(
            ctypes.byref(self._trees),
            ctypes.c_void_p(x.ctypes.data),
            ctypes.c_int64(len(x)),
            ctypes.c_void_p(sums.ctypes.data),
        )
        return sums


def _is_sound(nodes: Array, roots: Array, targets: Array, table: Array, shape: Shape) -> bool:
    """Every walk ends, at a leaf whose row is in the table, and reads only what is there."""
    kind = SINGLE if shape.dtype == np.float32 else DOUBLE
    types = (nodes.dtype == kind, roots.dtype == np.int32, targets.dtype == np.int32, table.dtype == shape.sums)
    arrays = (nodes, roots, targets, table)
    if not all(types) or not all(array.flags.c_contiguous for array in arrays) or table.ndim != 2:
        return False
    count = len(nodes)
    leaf = LEAF[kind]
    following, own = nodes["next"].astype(np.int64), np.arange(count)
    is_leaf = following == own
    rows = nodes["split"][is_leaf] - leaf  # below the leaf's NaN it wraps to a number that no table has
    return bool(
        len(roots) == len(targets) == shape.trees
        and (roots >= 0).all() and (roots < count).all()
        and ((following > own) | is_leaf).all() and (following[~is_leaf] + 1 < count).all()
        and (nodes["column"] >> 1 < shape.columns).all() and (nodes["column"][is_leaf] == 0).all()
        and (rows < len(table)).all()
        and (targets >= 0).all() and (targets + table.shape[1] <= shape.targets).all()
    )  # fmt: skip


def _session(folder: Path, threads: int) -> tuple[Any, str]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False
    try:
        session = onnxruntime.InferenceSession(str(folder / GRAPH), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exception classes differ by version
        raise LoadFailed(
            f"{folder.name}: ONNX Runtime {onnxruntime.__version__} does not read its trees: "
            f"{' '.join(str(error).split())[:300]}; compile it again"
        ) from error
    return session, str(onnxruntime.__version__)
