"""Forms of gradient boosting libraries: their own compiled code, called without their Python packages.

Importing lightgbm or xgboost brings scikit-learn and pandas where they are installed: 5 s and 100 MB. Their shared
libraries alone take 6 ms and 2 MB, and one row costs a tenth of what the packages make of it. CatBoost has no such
library in its package: `symmetric_trees` walks through its trees.
"""

from __future__ import annotations

import ctypes
import importlib.util
import threading
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from lagar.errors import LoadFailed, MissingLibrary
from lagar.registry.signature import Scalar, Signature
from lagar.runtimes import symmetric_trees
from lagar.runtimes.answers import Answer, Answers
from lagar.runtimes.base import CodesInput, Input, MatrixInput, refuse_if_callers
from lagar.types import Array, Outputs, Rows

FILES: Final = {"lightgbm": "model.txt", "xgboost": "model.ubj", "catboost": "trees.npz"}
"""Library → the data file: its own format, or the arrays of CatBoost's trees."""
_DISTRIBUTIONS = {"lightgbm": ("lightgbm",), "xgboost": ("xgboost", "xgboost-cpu"), "catboost": ()}


class Affine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A StandardScaler: subtract, then divide; None where it leaves out one of them."""

    mean: list[float] | None
    scale: list[float] | None


class Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`form.json` of this kind."""

    format: int
    kind: Literal["booster"]
    library: Literal["lightgbm", "xgboost", "catboost"]
    width: int
    answer: Answer
    scalers: list[Affine] = []
    codes: dict[int, list[Scalar]] = {}
    """Column → categories, whose positions the booster takes."""
    missing: float | None = None
    """XGBoost: the number that means missing; None: NaN."""
    iterations: tuple[int, int] = (0, 0)
    """XGBoost: from, to; (0, 0): all."""
    objective: str | None = None
    """XGBoost: asked for in place of the file's own."""
    native: bool = False
    """CatBoost: through Lagar's own machine code."""


_decoder = msgspec.json.Decoder(Document)
"""Built once, at import: two threads that build what msgspec knows of a class at the same time crash the process."""


def open_form(folder: Path, document: bytes, threads: int) -> BoosterForm:
    """The booster of a form's folder; raises LoadFailed, MissingLibrary."""
    try:
        read = _decoder.decode(document)
    except msgspec.DecodeError as error:
        raise LoadFailed(f"{folder.name} is no booster form that this Lagar can read: {error}") from error
    return BoosterForm(read, open_engine(read, folder, threads))


def open_engine(document: Document, folder: Path, threads: int) -> Engine:
    """What computes the values; raises LoadFailed, MissingLibrary."""
    engines: dict[str, Callable[[Document, Path, int], Engine]] = {
        "lightgbm": LightgbmEngine,
        "xgboost": XgboostEngine,
        "catboost": _symmetric,
    }
    path = folder / FILES[document.library]
    try:
        return engines[document.library](document, path, threads)
    except ValueError as error:
        raise LoadFailed(f"{path} is no model that the installed {document.library} reads: {error}") from error


def _symmetric(document: Document, path: Path, threads: int) -> Engine:
    tables = symmetric_trees.read(path, document.width)
    if document.native:
        return symmetric_trees.NativeTrees(tables, document.width)
    return symmetric_trees.NumpyTrees(tables)


class Engine(Protocol):
    """Values for a C-ordered float64 matrix of the document's width: (n,) or (n, k), float64 or float32."""

    def values(self, x: NDArray[np.float64]) -> Array: ...

    def close(self) -> None: ...


class BoosterForm:
    """A predictor: rows → matrix → values of the booster → outputs."""

    def __init__(self, document: Document, engine: Engine) -> None:
        self._engine = engine
        self._width = document.width
        self._answer = Answers(document.answer)
        self._scalers = [
            (np.array(step.mean) if step.mean else None, np.array(step.scale) if step.scale else None)
            for step in document.scalers
        ]
        codes: dict[int, Any] = dict(document.codes)
        self._take: Input = CodesInput(codes) if codes else MatrixInput()
        self._names: tuple[str, ...] | None = None
        self.libraries = _installed(document.library)

    def bind(self, signature: Signature) -> None:
        self._names = signature.names if signature.fields is not None else None
        self._take.bind(signature.names)

    def predict(self, rows: Rows, outputs: tuple[str, ...]) -> Outputs:
        try:
            x = self._take(rows)
            if x.shape[1] != self._width:
                raise ValueError(f"the model takes {self._width} columns, got {x.shape[1]}")
            for mean, scale in self._scalers:
                x = _scaled(x, mean, scale)
            if not x.flags.c_contiguous:
                x = np.ascontiguousarray(x)
            return self._answer.outputs(self._engine.values(x), outputs)
        except ValueError as error:
            refuse_if_callers(rows, self._names, error)
            raise

    def close(self) -> None:
        self._engine.close()


def _scaled(x: Array, mean: Array | None, scale: Array | None) -> Array:
    """What StandardScaler does; like it, refuses infinity and takes NaN."""
    if np.isinf(x).any():
        raise ValueError("Input X contains infinity or a value too large for dtype('float64').")
    with np.errstate(all="ignore"):
        scaled: Array = x - mean if mean is not None else x.copy()
        if scale is not None:
            scaled /= scale
    return scaled


class LightgbmEngine:
    """LightGBM's C interface: one row through its prepared fast call, more through the usual one.

    https://lightgbm.readthedocs.io/en/latest/C-API.html
    """

    _FLOAT64 = 1
    _NORMAL = 0

    def __init__(self, document: Document, path: Path, threads: int) -> None:
        self._library = _library("lightgbm", "lib/lib_lightgbm.so")
        self._library.LGBM_GetLastError.restype = ctypes.c_char_p
        self._width = document.width
        self._parameters = f"num_threads={threads}".encode()
        self._handle, self._fast = ctypes.c_void_p(), ctypes.c_void_p()
        count, iterations = ctypes.c_int64(), ctypes.c_int()
        call = self._call
        call("LGBM_BoosterCreateFromModelfile", _path(path), ctypes.byref(iterations), ctypes.byref(self._handle))
        call("LGBM_BoosterCalcNumPredict", self._handle, 1, self._NORMAL, 0, -1, ctypes.byref(count))
        self._k = count.value
        call(
            *("LGBM_BoosterPredictForMatSingleRowFastInit", self._handle, self._NORMAL, 0, -1),
            *(self._FLOAT64, ctypes.c_int32(self._width), self._parameters, ctypes.byref(self._fast)),
        )
        self._one_row = self._library.LGBM_BoosterPredictForMatSingleRowFast
        self._one_row.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
        self._count = ctypes.byref(count)
        self._lock = threading.Lock()
        """The prepared call keeps buffers of its own, which before 4.4 two threads would have shared."""

    def values(self, x: NDArray[np.float64]) -> Array:
        n = len(x)
        found = np.empty(n * self._k)
        if n == 1:
            with self._lock:
                failed = self._one_row(self._fast, _address(x), self._count, _address(found))
            if failed:
                raise ValueError(self._reason())
        elif n:
            count = ctypes.c_int64()
            self._call(
                *("LGBM_BoosterPredictForMat", self._handle, ctypes.c_void_p(_address(x)), self._FLOAT64),
                *(ctypes.c_int32(n), ctypes.c_int32(self._width), 1, self._NORMAL, 0, -1, self._parameters),
                *(ctypes.byref(count), ctypes.c_void_p(_address(found))),
            )
        return found if self._k == 1 else found.reshape(n, self._k)

    def close(self) -> None:
        if self._fast:
            self._library.LGBM_FastConfigFree(self._fast)
        if self._handle:
            self._library.LGBM_BoosterFree(self._handle)
        self._fast, self._handle = ctypes.c_void_p(), ctypes.c_void_p()

    def _call(self, name: str, *arguments: Any) -> None:
        if getattr(self._library, name)(*arguments):
            raise ValueError(self._reason())

    def _reason(self) -> str:
        return str(self._library.LGBM_GetLastError().decode("utf-8", "replace"))


class XgboostEngine:
    """XGBoost's C interface: in-place prediction from the matrix, in float32 as it computes itself.

    https://xgboost.readthedocs.io/en/stable/c.html
    """

    def __init__(self, document: Document, path: Path, threads: int) -> None:
        self._library = _library("xgboost", "lib/libxgboost.so")
        self._library.XGBGetLastError.restype = ctypes.c_char_p
        self._handle = ctypes.c_void_p()
        self._call("XGBoosterCreate", None, ctypes.c_uint64(0), ctypes.byref(self._handle))
        self._call("XGBoosterLoadModel", self._handle, _path(path))
        self._call("XGBoosterSetParam", self._handle, b"nthread", str(threads).encode())
        if document.objective is not None:
            self._call("XGBoosterSetParam", self._handle, b"objective", document.objective.encode())
        missing = "NaN" if document.missing is None else repr(document.missing)
        begin, end = document.iterations
        self._config = (
            f'{{"type":0,"training":false,"iteration_begin":{begin},"iteration_end":{end},"missing":{missing},'
            '"strict_shape":false,"cache_id":0}'
        ).encode()
        self._width = document.width
        self._predict = self._library.XGBoosterPredictFromDense
        self._predict.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p] + [ctypes.c_void_p] * 4

    def values(self, x: NDArray[np.float64]) -> Array:
        n = len(x)
        matrix = f'{{"data":[{_address(x)},true],"shape":[{n},{self._width}],"typestr":"<f8","version":3}}'
        shape, found = ctypes.POINTER(ctypes.c_uint64)(), ctypes.c_void_p()
        rank = ctypes.c_uint64()
        if self._predict(
            *(self._handle, matrix.encode(), self._config, None),
            *(ctypes.addressof(shape), ctypes.addressof(rank), ctypes.addressof(found)),
        ):
            raise ValueError(self._reason())
        sizes = shape[: rank.value]
        count = 1
        for size in sizes:
            count *= size
        if not count or found.value is None:
            return np.empty(sizes, dtype=np.float32)
        # The library reuses its memory at the next call of this thread.
        return np.frombuffer(ctypes.string_at(found.value, 4 * count), dtype=np.float32).reshape(sizes)

    def close(self) -> None:
        if self._handle:
            self._library.XGBoosterFree(self._handle)
        self._handle = ctypes.c_void_p()

    def _call(self, name: str, *arguments: Any) -> None:
        if getattr(self._library, name)(*arguments):
            raise ValueError(self._reason())

    def _reason(self) -> str:
        return str(self._library.XGBGetLastError().decode("utf-8", "replace")).partition("\n")[0]


def _address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])


def _path(path: Path) -> bytes:
    return str(path).encode()


@cache
def _library(package: str, file: str) -> Any:
    """A package's shared library, without importing the package; MissingLibrary, LoadFailed."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise MissingLibrary(f"the form needs {package}, which is not installed: pip install 'lagar[{package}]'")
    path = Path(next(iter(found.submodule_search_locations))) / file
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise LoadFailed(f"{package} has no library {path} that can be loaded: {error}") from error


def _installed(package: str) -> dict[str, str]:
    for distribution in _DISTRIBUTIONS[package]:
        try:
            return {distribution: version(distribution)}
        except PackageNotFoundError:
            continue
    return {}
