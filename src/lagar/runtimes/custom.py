"""The user's own class: `load(path)`, `predict(rows)`, optional `close()`; checked when it is loaded."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Any, Final, Literal, get_args, get_origin

import msgspec
import numpy as np

from lagar.errors import LoadFailed, MissingCode, SetupError
from lagar.registry.model import ModelSource
from lagar.registry.signature import ANSWER_KEYS, Field, FieldType, Scalar, Signature
from lagar.runtimes import code
from lagar.runtimes.base import Draft, Opened, plain
from lagar.types import Array, Outputs, Record, Rows

_TYPES: dict[Any, FieldType] = {float: "float", int: "int", bool: "bool", str: "string"}
Shape = Literal["records", "matrix", "frame"]
_ALSO_RESERVED: Final = {"predict": ("predictions", "prediction"), "predict_proba": ("probabilities", "probability")}
"""What an answer calls the output before the colon, so that no other may be called so beside it."""


def open_source(source: ModelSource, threads: int) -> Opened:
    """An instance of the class, with its own `load` called."""
    cls = _class(source)
    where = f"{source.class_name}"
    for method, shape in (("load", "load(self, path)"), ("predict", "predict(self, rows)")):
        function = getattr(cls, method, None)
        if not callable(function):
            raise SetupError(f"{where} has no {shape}; a custom class has load(path) and predict(rows)")
        code.check_callable(f"{where}.{method}", _unbound(cls, method), 2, shape)
    if getattr(cls, "close", None) is not None:
        code.check_callable(f"{where}.close", _unbound(cls, "close"), 1, "close(self)")
    shape, fields, optional = _rows_shape(cls, where)
    try:
        model = cls()
        model.load(source.path)
    except (Exception, SystemExit) as error:
        raise LoadFailed(f"{where}.load({source.path!r}) failed: {type(error).__name__}: {error}") from error
    draft = Draft(
        fields=fields,
        layout="matrix" if shape == "matrix" else "columns",
        task="custom",
        outputs=(),
        native=(),
        named=fields is not None,
        origin=f"types of {where}.predict" if fields is not None else "",
        open_fields=True,
    )
    return Opened(CustomPredictor(model, where, shape, optional), draft, {})


def _class(source: ModelSource) -> type[Any]:
    if source.class_name is None:
        raise SetupError(f'{source.path}: a custom model needs class = "module:Class" in lagar.toml')
    module_name, _, name = source.class_name.partition(":")
    module = code.import_module(module_name)
    cls = getattr(module, name, None)
    if cls is None:
        raise MissingCode(f"{module.__file__} has no class {name!r}; lagar.toml says class = {source.class_name!r}")
    if not isinstance(cls, type):
        raise SetupError(f"{source.class_name} is {type(cls).__name__}, not a class")
    try:
        inspect.signature(cls).bind()
    except TypeError:
        raise SetupError(
            f"{source.class_name} must be made without arguments; read what it needs in load(path)"
        ) from None
    except ValueError:
        return cls
    return cls


def _unbound(cls: type[Any], method: str) -> Callable[..., Any]:
    raw = inspect.getattr_static(cls, method)
    if isinstance(raw, (staticmethod, classmethod)):
        raise SetupError(f"{cls.__name__}.{method} must be an ordinary method: def {method}(self, …)")
    return getattr(cls, method)  # type: ignore[no-any-return]


def _rows_shape(cls: type[Any], where: str) -> tuple[Shape, list[Field] | None, frozenset[str]]:
    """What predict's parameter is annotated with: np.ndarray, pd.DataFrame, list[TypedDict] or anything else.

    The names are those of the TypedDict's keys that are left out of a record rather than None.
    """
    parameter = list(inspect.signature(cls.predict).parameters.values())[1]
    try:
        hint = typing.get_type_hints(cls.predict, include_extras=False).get(parameter.name)
    except (NameError, TypeError):
        hint = parameter.annotation
    text = str(getattr(hint, "__name__", hint))
    if hint is np.ndarray or get_origin(hint) is np.ndarray or "NDArray" in str(hint):
        return "matrix", None, frozenset()
    if text.rpartition(".")[2] == "DataFrame":
        return "frame", None, frozenset()
    row = get_args(hint)[0] if get_origin(hint) in {list, typing.Sequence} and get_args(hint) else None
    if isinstance(row, type) and typing.is_typeddict(row):
        return "records", *_typed_fields(where, row)
    return "records", None, frozenset()


def _typed_fields(where: str, row: type[Any]) -> tuple[list[Field], frozenset[str]]:
    """The fields of a TypedDict, and the NotRequired ones whose type has no None of its own."""
    marks = {name: get_origin(hint) for name, hint in typing.get_type_hints(row, include_extras=True).items()}
    optional = {
        name
        for name, mark in marks.items()  # in a module of postponed annotations the class itself cannot know the marks
        if mark is typing.NotRequired or (name in row.__optional_keys__ and mark is not typing.Required)
    }
    fields = [_typed_field(where, name, kind) for name, kind in typing.get_type_hints(row).items()]
    left_out = frozenset(field.name for field in fields if field.name in optional and not field.nullable)
    return [
        msgspec.structs.replace(field, nullable=True, has_default=True) if field.name in optional else field
        for field in fields
    ], left_out


def _typed_field(where: str, name: str, hint: Any) -> Field:
    """float, int, bool, str, Literal[…], and each of them or None."""
    options = [option for option in get_args(hint) if option is not type(None)]
    nullable = type(None) in get_args(hint) and get_origin(hint) is not Literal
    kind = options[0] if nullable and len(options) == 1 else hint
    if kind in _TYPES:
        return Field(name, type=_TYPES[kind], nullable=nullable)
    if get_origin(kind) is Literal:
        categories: tuple[Scalar, ...] = get_args(kind)
        same = {type(value) for value in categories}
        return Field(
            name,
            type=_TYPES.get(same.pop(), "unknown") if len(same) == 1 else "unknown",
            categories=categories,
            nullable=nullable,
        )
    raise SetupError(
        f"{where}.predict: field {name!r} is {hint}; use float, int, bool, str or Literal[…], or one of them | None"
    )


class CustomPredictor:
    """Calls the user's predict with rows in the shape it asks for, and checks what comes back."""

    def __init__(self, model: Any, where: str, shape: Shape, left_out: frozenset[str] = frozenset()) -> None:
        self._model = model
        self._where = where
        self._shape = shape
        self._left_out = left_out
        """Keys that a record has only where there is a value."""
        self._signature: Signature | None = None

    def bind(self, signature: Signature) -> None:
        self._signature = signature

    def predict(self, rows: Rows, outputs: tuple[str, ...]) -> Outputs:
        """The class's outputs; all of them when `outputs` is empty (the contract check asks so)."""
        found = outputs_of(self._where, self._model.predict(self._rows(rows)), rows.n)
        if not outputs:
            _refuse_reserved(self._where, found)
        missing = [name for name in outputs if name not in found]
        if missing:
            raise TypeError(f"{self._where}.predict gave {', '.join(found)} and not {', '.join(missing)}")
        return {name: found[name] for name in outputs} if outputs else found

    def close(self) -> None:
        close = getattr(self._model, "close", None)
        if close is not None:
            close()

    def _rows(self, rows: Rows) -> Any:
        assert self._signature is not None
        names = self._signature.names
        if self._shape == "matrix":
            if rows.matrix is not None:
                return rows.matrix
            assert rows.columns is not None
            return np.column_stack([rows.columns[name] for name in names])
        if self._shape == "frame":
            import pandas as pd

            if rows.matrix is not None:
                return pd.DataFrame(rows.matrix, columns=list(names) or None)
            return pd.DataFrame(rows.columns, columns=list(names))
        return self._records(rows, names)

    def _records(self, rows: Rows, names: tuple[str, ...]) -> list[Record]:
        if rows.matrix is not None:
            names = names or tuple(f"x{index}" for index in range(rows.matrix.shape[1]))
            return [dict(zip(names, row, strict=True)) for row in rows.matrix.tolist()]
        assert rows.columns is not None
        assert self._signature is not None
        whole = {field.name for field in self._signature.fields or () if field.type == "int"}
        columns = [_python(rows.columns[name], name in whole) for name in names]
        records = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
        if not self._left_out:
            return records
        return [
            {name: value for name, value in record.items() if value is not None or name not in self._left_out}
            for record in records
        ]


def outputs_of(where: str, result: Any, n: int) -> Outputs:
    """What a predict has returned for n rows, by name; TypeError and ValueError say what is wrong with it."""
    if not isinstance(result, dict):
        result = {"predict": result}
    found: Outputs = {}
    for name, values in result.items():
        if not isinstance(name, str) or isinstance(values, (str, bytes, dict)) or not hasattr(values, "__len__"):
            raise TypeError(
                f"{where}.predict must return one value per row (a list or array), or a dict of such lists; "
                f"got {type(values).__name__} for {name!r}"
            )
        if len(values) != n:
            raise ValueError(f"{where}.predict gave {len(values)} values of {name!r} for {n} rows")
        found[name] = _array(values)
    if not found:
        raise TypeError(f"{where}.predict returned an empty dict")
    return found


def _refuse_reserved(where: str, found: Outputs) -> None:
    # who writes a class can call its outputs otherwise; those of a file are renamed in the answer
    reserved = list(ANSWER_KEYS)
    for name, titles in _ALSO_RESERVED.items():
        reserved += titles if name in found else ()
    taken = [name for name in found if name in reserved]
    if taken:
        raise ValueError(
            f"{where}.predict gave an output called {', '.join(map(repr, taken))}; call it otherwise: an answer has "
            f"{', '.join(reserved)} of its own"
        )


def _python(column: Array, whole: bool = False) -> list[Any]:
    """A column as Python values; NaN, which stands for null in numbers, as None, and beside it `whole` ones as int."""
    values = column.tolist()
    if column.dtype.kind == "f" and np.isnan(column).any():
        return [None if value != value else int(value) if whole else value for value in values]
    return values  # type: ignore[no-any-return]


def _array(values: Any) -> Array:
    """Rows of different lengths, dicts, and texts among other things stay Python objects; what is masked is None."""
    if isinstance(values, np.ma.MaskedArray):
        masked = np.ma.getmaskarray(values)
        values = values.data.astype(object)
        values[masked] = None
    try:
        array = np.asarray(values.to_numpy() if hasattr(values, "to_numpy") else values)
    except ValueError:
        return plain(_objects(values))
    if array.dtype.kind in "US" and isinstance(values, (list, tuple)):
        types = set(map(type, values))
        if not all(issubclass(kind, (str, bytes, list, tuple, np.ndarray)) for kind in types):
            array = _objects(values)  # numpy would have made texts of the numbers
    return plain(array)


def _objects(values: Any) -> Array:
    array = np.empty(len(values), dtype=object)
    array[:] = list(values)
    return array
