"""What every runtime is made of: an input, transformers, a head; and what it tells about itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

import msgspec
import numpy as np

from lagar.errors import InvalidInput
from lagar.registry.signature import Field, Layout, Output, Scalar, Signature, Task, Tensor
from lagar.types import Array, Outputs, Predictor, Rows

FLOAT32_MAX = float(np.finfo(np.float32).max)


class Head(ABC):
    """The last part of a model: matrix (or frame, texts, …) in, named outputs out."""

    task: Task = "unknown"
    names: tuple[str, ...] = ("predict",)
    """All outputs, the first is the default."""
    native: tuple[str, ...] = ("predict",)
    classes: tuple[Scalar, ...] | None = None
    target_classes: Mapping[str, tuple[Scalar, ...]] = MappingProxyType({})
    """By output: the classes of each target, where there are several."""
    meanings: Mapping[str, str] = MappingProxyType({})
    single = False
    """Whether its numbers are computed in single precision: FP32 holds each of them."""

    @abstractmethod
    def outputs(self, x: Any, names: tuple[str, ...]) -> Outputs:
        """The named outputs for what the steps made of the rows."""


class Input(Protocol):
    """Rows → what the first step of the model takes."""

    def bind(self, names: tuple[str, ...]) -> None:
        """Field names in the order of the model's columns, once they are final."""
        ...

    def __call__(self, rows: Rows) -> Any: ...


class Draft(msgspec.Struct):
    """What a runtime learned from the model itself; `contract` makes the signature of it."""

    fields: list[Field] | None
    layout: Layout
    task: Task
    outputs: tuple[str, ...]
    native: tuple[str, ...]
    named: bool = False
    classes: tuple[Scalar, ...] | None = None
    target_classes: Mapping[str, tuple[Scalar, ...]] = MappingProxyType({})
    meanings: Mapping[str, str] = MappingProxyType({})
    origin: str = ""
    rows: list[dict[str, Any]] = []
    """Example rows that came with the model (MLflow's input example)."""
    open_fields: bool = False
    """True for custom code: fields may still be defined by an example or by lagar.toml."""
    whole: tuple[Output, ...] | None = None
    """The outputs of code that takes whole V2 requests, as far as they are known: no row can be made to try it with."""
    told: tuple[tuple[Tensor, ...], tuple[Tensor, ...]] = ((), ())
    """Inputs and outputs as such code tells them itself."""


class Opened:
    """A model as its runtime hands it over."""

    __slots__ = ("draft", "libraries", "model", "predictor", "steps", "warnings")

    def __init__(
        self,
        predictor: BoundPredictor,
        draft: Draft,
        libraries: dict[str, str],
        warnings: Sequence[str] = (),
        *,
        model: Any = None,
        steps: Sequence[Any] = (),
    ) -> None:
        self.predictor = predictor
        self.draft = draft
        self.libraries = libraries
        self.warnings = list(warnings)
        self.model = model
        """The library's own object, where there is one: what a faster form is built from."""
        self.steps = tuple(steps) or (() if model is None else (model,))
        """The same as transformers in order and the estimator, out of pipelines, searches and tuples."""


class BoundPredictor(Predictor, Protocol):
    """A predictor that is told the final signature before its first call."""

    def bind(self, signature: Signature) -> None: ...


class Chain:
    """Input, then transformers, then the head."""

    def __init__(self, take: Input, transforms: Sequence[Callable[[Any], Any]], head: Head) -> None:
        self._take = take
        self._transforms = transforms
        self.head = head
        self._names: tuple[str, ...] | None = None

    def bind(self, signature: Signature) -> None:
        self._names = signature.names if signature.fields is not None else None
        self._take.bind(signature.names)

    def predict(self, rows: Rows, outputs: tuple[str, ...]) -> Outputs:
        try:
            # Casts to float32 and sums over infinities warn before the model refuses what it does not take.
            with np.errstate(all="ignore"):
                x = self._take(rows)
                for transform in self._transforms:
                    x = transform(x)
                return self.head.outputs(x, outputs)
        except ValueError as error:
            refuse_if_callers(rows, self._names, error)
            raise

    def close(self) -> None:
        """Nothing is held besides memory."""


def refuse_if_callers(rows: Rows, names: tuple[str, ...] | None, error: ValueError) -> None:
    """Raise InvalidInput where the caller's data is surely why a model refused; return otherwise.

    Sure are a number outside float32 or not finite, which tree models refuse, and any refusal by a model whose
    width is unknown.
    """
    matrix = rows.matrix
    if matrix is None:
        return
    if names is None:
        raise InvalidInput(f"the model refused the rows: {error}") from error
    wrong = np.argwhere(np.isinf(matrix) | (np.abs(np.nan_to_num(matrix, nan=0.0)) > FLOAT32_MAX))
    if len(wrong):
        row, column = (int(index) for index in wrong[0])
        raise InvalidInput(
            f"field {names[column]!r} is {float(matrix[row, column])!r}; "
            "the model computes in 32-bit floats and takes numbers up to 3.4e38",
            field=names[column],
            row=row,
        ) from error


class MatrixInput:
    """The float64 matrix as it comes."""

    def bind(self, names: tuple[str, ...]) -> None:
        """The order of the fields is the order of the columns."""

    def __call__(self, rows: Rows) -> Any:
        return rows.matrix


class TextInput:
    """One string field → a list of str."""

    def bind(self, names: tuple[str, ...]) -> None:
        self._name = names[0]

    def __call__(self, rows: Rows) -> list[str]:
        assert rows.columns is not None
        return list(rows.columns[self._name])


class FrameInput:
    """Columns → a pandas DataFrame with the names, order and missing values that the model was fitted with."""

    def __init__(self, categories: dict[int, list[Any]] | None = None, keep_none: bool = False) -> None:
        self._categories = categories or {}
        """Column index → categories of a pandas `category` column."""
        self._keep_none = keep_none
        self._columns: list[str] = []

    def bind(self, names: tuple[str, ...]) -> None:
        self._columns = list(names)

    def __call__(self, rows: Rows) -> Any:
        import pandas as pd

        if rows.matrix is not None:
            return pd.DataFrame(rows.matrix, columns=self._columns)
        assert rows.columns is not None
        data: dict[str, Any] = {}
        for index, name in enumerate(self._columns):
            column = rows.columns[name]
            if index in self._categories:
                data[name] = pd.Categorical(column, categories=self._categories[index])
            else:
                data[name] = column if self._keep_none else _nan_for_none(column)
        return pd.DataFrame(data, columns=self._columns)


class ObjectInput:
    """Columns → one object array (n, width), for models fitted on arrays with strings in them."""

    def bind(self, names: tuple[str, ...]) -> None:
        self._columns = names

    def __call__(self, rows: Rows) -> Any:
        if rows.matrix is not None:
            return rows.matrix.astype(object)
        assert rows.columns is not None
        x = np.empty((rows.n, len(self._columns)), dtype=object)
        for index, name in enumerate(self._columns):
            x[:, index] = _nan_for_none(rows.columns[name])
        return x


class LooseInput(ObjectInput):
    """Columns → what `np.asarray` makes of the rows as they are sent: a float64 matrix if all values are numbers.

    For pipelines that begin with the user's own code, which say nothing of what they were fitted on.
    """

    def __call__(self, rows: Rows) -> Any:
        if rows.matrix is not None:
            return rows.matrix
        x = super().__call__(rows)
        numbers = all(isinstance(value, (float, int, np.number, np.bool_)) for value in x.flat)
        return x.astype(np.float64) if numbers else x


class CodesInput:
    """Columns → a float64 matrix in which a categorical field is the index of its category, NaN when it has none."""

    def __init__(self, categories: dict[int, Sequence[Any]]) -> None:
        self._codes = {
            index: {value: code for code, value in enumerate(values)} for index, values in categories.items()
        }
        self._columns: tuple[str, ...] = ()

    def bind(self, names: tuple[str, ...]) -> None:
        self._columns = names

    def __call__(self, rows: Rows) -> Any:
        if rows.matrix is not None:
            return rows.matrix
        assert rows.columns is not None
        x = np.empty((rows.n, len(self._columns)), dtype=np.float64)
        for index, name in enumerate(self._columns):
            column = rows.columns[name]
            codes = self._codes.get(index)
            x[:, index] = column if codes is None else [codes.get(value, np.nan) for value in column.tolist()]
        return x


def _nan_for_none(column: Array) -> Array:
    """Pandas reads an empty cell as NaN, so that is what fitted imputers and encoders look for."""
    if column.dtype != object:
        return column
    missing = np.array([value is None for value in column], dtype=bool)
    if not missing.any():
        return column
    column = column.copy()
    column[missing] = np.nan
    return column


def plain(found: Any) -> Array:
    """An output in the dtypes that protocols carry: float64, int64, bool or str; a column (n, 1) stays as it is.

    float32 widens exactly, so that numbers read the same as the library's own `.tolist()`.
    """
    array: Array = np.asarray(found.toarray() if hasattr(found, "toarray") else found)
    if array.dtype.kind == "f":
        return array.astype(np.float64, copy=False)
    if array.dtype.kind in "iu":
        return array.astype(np.int64, copy=False)
    if array.dtype.kind == "O" and array.size:
        kinds = {type(value) for value in array.flat}
        if kinds <= {int, np.int64, np.int32}:
            return array.astype(np.int64)
        if kinds <= {float, int, np.float64, np.float32}:
            return array.astype(np.float64)
        if kinds <= {bool, np.bool_}:
            return array.astype(np.bool_)
    return array


def one_per_row(array: Any) -> Array:
    """A prediction with one value per row as (n,), whatever the library's shape; more stay (n, k)."""
    values = plain(array)
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values


def scalars(values: Any) -> tuple[Scalar, ...]:
    """Classes or categories as Python values; a numpy str is a str, a whole number an int."""
    return (
        tuple(np.asarray(values).tolist())
        if not isinstance(values, (list, tuple))
        else tuple(value.item() if isinstance(value, np.generic) else value for value in values)
    )


def unnamed(width: int) -> list[str]:
    """Names for a model that has none: x0, x1, …"""
    return [f"x{index}" for index in range(width)]
