"""An MLflow folder without a native flavour, through mlflow's own loader: `mlflow.pyfunc.load_model`.

What it loads is somebody's code, so intake wants --trust for it, and it answers in a process of its own. The signature
says the inputs; params of the signature are inputs too, named `params.NAME`, each with its default. Rows of one call
that want other params are asked in calls of their own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from lagar import settings
from lagar.errors import InvalidInput, LoadFailed, UnsupportedModel
from lagar.intake import mlmodel
from lagar.registry.model import ModelSource
from lagar.registry.signature import PARAM, PARAM_LIST, Field, FieldType, Scalar, Signature
from lagar.runtimes.base import Draft, Opened
from lagar.runtimes.custom import outputs_of
from lagar.runtimes.mlflow import example_rows
from lagar.types import Array, Outputs, Record, Rows

_TYPES: Final[dict[str, FieldType]] = {
    "integer": "int",
    "long": "int",
    "float": "float",
    "double": "float",
    "boolean": "bool",
    "string": "string",
    "datetime": "string",
    "binary": "string",
    "any": "unknown",
}
_EXAMPLES: Final[dict[str, Scalar]] = {"datetime": "2026-01-01T00:00:00", "binary": "dGV4dA=="}
_MAY_BE_NULL: Final = frozenset({"float", "string"})
"""MLflow's `required` means that a column is there; of null it only refuses what its type cannot hold."""
_CALLERS: Final = frozenset({"INVALID_PARAMETER_VALUE", "BAD_REQUEST"})


def open_source(source: ModelSource, threads: int) -> Opened:
    """The model of the folder, as mlflow loads it."""
    folder = Path(source.path)
    found = mlmodel.read(folder)
    settings.set_own_environment({"MLFLOW_DISABLE_TELEMETRY": "true"})
    import mlflow
    import mlflow.pyfunc

    try:
        model = mlflow.pyfunc.load_model(str(folder), suppress_warnings=True)
    except ImportError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:500]
        raise LoadFailed(
            f"{folder}: mlflow {mlflow.__version__} does not load it: {type(error).__name__}: {text}"
        ) from error
    fields, tensor = _fields(folder, found.inputs)
    params = _params(found.params)
    plain = fields is None or tensor
    draft = Draft(
        fields=None if fields is None else [*fields, *params],
        layout="matrix" if plain and not params and found.inputs else "columns",
        task="custom",
        outputs=(),
        native=(),
        named=fields is not None and not tensor and all("name" in spec for spec in found.inputs),
        origin="MLflow signature" if found.inputs else "",
        open_fields=not found.inputs,
    )
    if found.example is not None:
        defaults = {field.name: field.default for field in params}
        draft.rows = [{**row, **defaults} for row in example_rows(found.example)]
    predictor = PyfuncPredictor(model, f"{folder.name}", found, tensor=tensor)
    return Opened(predictor, draft, {"mlflow": mlflow.__version__})


def _fields(folder: Path, specs: Sequence[Mapping[str, Any]]) -> tuple[list[Field] | None, bool]:
    """The inputs of a signature, and whether they are one tensor; None where it does not say how many there are."""
    if not specs:
        return None, False
    if specs[0].get("type") == "tensor":
        shape = specs[0].get("tensor-spec", {}).get("shape") or []
        if len(specs) > 1 or len(shape) not in (1, 2):
            raise UnsupportedModel(
                f"{folder}: its signature takes {_few_tensors(specs)}; Lagar takes rows: one tensor of shape"
                " (-1, width), or columns"
            )
        width = 1 if len(shape) == 1 else int(shape[1])
        kind: FieldType = "int" if _dtype(specs).kind in "iu" else "float"
        if _dtype(specs).kind not in "iuf":
            raise UnsupportedModel(f"{folder}: its signature takes a tensor of {_dtype(specs)}; Lagar takes numbers")
        return (None if width < 1 else [Field(f"x{index}", type=kind) for index in range(width)]), True
    return [_field(folder, str(spec.get("name", f"x{place}")), spec) for place, spec in enumerate(specs)], False


def _dtype(specs: Sequence[Mapping[str, Any]]) -> np.dtype[Any]:
    return np.dtype(str(specs[0]["tensor-spec"]["dtype"]))


def _few_tensors(specs: Sequence[Mapping[str, Any]]) -> str:
    shapes = [str(tuple(spec.get("tensor-spec", {}).get("shape") or ())) for spec in specs[:3]]
    return f"{len(specs)} tensors of shapes {', '.join(shapes)}" if len(specs) > 1 else f"a tensor of shape {shapes[0]}"


def _field(folder: Path, name: str, spec: Mapping[str, Any]) -> Field:
    kind = str(spec.get("type"))
    if kind not in _TYPES:
        raise UnsupportedModel(
            f"{folder}: column {name!r} of its signature is of type {kind}; Lagar takes columns of numbers, text and"
            " true/false"
        )
    optional = spec.get("required") is False
    field_type = _TYPES[kind]
    return Field(
        name,
        type=field_type,
        nullable=True if optional or field_type in _MAY_BE_NULL else None,
        has_default=optional,
        example=_EXAMPLES.get(kind),
        content_type="datetime" if kind == "datetime" else "",
    )


def _params(specs: Sequence[Mapping[str, Any]]) -> list[Field]:
    """One field per param; a list travels as its JSON. Params that are objects keep their defaults."""
    fields = []
    for spec in specs:
        name, default, kind = str(spec.get("name")), spec.get("default"), str(spec.get("type", spec.get("dtype")))
        if spec.get("shape") is not None:
            text = json.dumps(default)
            fields.append(Field(PARAM + name + PARAM_LIST, "string", default=text, has_default=True, example=text))
        elif kind in _TYPES and not isinstance(default, (dict, list)):
            nullable = True if default is None else None
            fields.append(
                Field(PARAM + name, _TYPES[kind], nullable=nullable, default=default, has_default=True, example=default)
            )
    return fields


class PyfuncPredictor:
    """Calls the model with a frame, or an array where its signature is a tensor, and checks what comes back."""

    def __init__(self, model: Any, where: str, found: mlmodel.MlflowModel, *, tensor: bool) -> None:
        self._model = model
        self._where = where
        self._tensor = _dtype(found.inputs) if tensor else None
        self._flat = tensor and len(found.inputs[0]["tensor-spec"].get("shape") or ()) == 1
        self._kinds = {
            str(spec.get("name", f"x{place}")): str(spec.get("type")) for place, spec in enumerate(found.inputs)
        }
        self._unnamed = bool(found.inputs) and not any("name" in spec for spec in found.inputs)
        self._inputs: tuple[str, ...] = ()
        self._params: tuple[str, ...] = ()

    def bind(self, signature: Signature) -> None:
        self._params = tuple(name for name in signature.names if name.startswith(PARAM))
        self._inputs = tuple(name for name in signature.names if not name.startswith(PARAM))

    def predict(self, rows: Rows, outputs: tuple[str, ...]) -> Outputs:
        """The model's outputs; all of them when `outputs` is empty (the contract check asks so).

        Raises InvalidInput where MLflow's own enforcement of the signature refuses the rows.
        """
        found = self._grouped(rows)
        missing = [name for name in outputs if name not in found]
        if missing:
            raise TypeError(f"{self._where}: predict gave {', '.join(found)} and not {', '.join(missing)}")
        return {name: found[name] for name in outputs} if outputs else found

    def close(self) -> None:
        """Nothing is held besides memory."""

    def _grouped(self, rows: Rows) -> Outputs:
        """One call per set of params, in the order of the rows."""
        if not self._params:
            return self._called(rows, {})
        assert rows.columns is not None
        places: dict[tuple[Any, ...], list[int]] = {}
        values = [_or_none(rows.columns[name]) for name in self._params]
        for place, key in enumerate(zip(*values, strict=True)):
            places.setdefault(key, []).append(place)
        if len(places) == 1:
            return self._called(rows, self._params_of(next(iter(places))))
        answers = [self._called(_picked(rows, where), self._params_of(key)) for key, where in places.items()]
        back = np.argsort(np.concatenate([np.array(where) for where in places.values()]), kind="stable")
        return {name: np.concatenate([answer[name] for answer in answers])[back] for name in answers[0]}

    def _params_of(self, key: tuple[Any, ...]) -> Record:
        params: Record = {}
        for name, value in zip(self._params, key, strict=True):
            given = name.removeprefix(PARAM)
            if given.endswith(PARAM_LIST):
                params[given.removesuffix(PARAM_LIST)] = _list_of(given, value)
            else:
                params[given] = value
        return params

    def _called(self, rows: Rows, params: Record) -> Outputs:
        from mlflow.exceptions import MlflowException

        try:
            result = self._model.predict(self._input(rows), params=params or None)
        except MlflowException as error:
            if error.error_code in _CALLERS:
                reason = " ".join(error.message.rpartition("Error: ")[2].split())
                raise InvalidInput(f"the model's MLflow signature does not take the rows: {reason[:500]}") from error
            raise
        return outputs_of(self._where, _by_name(result), rows.n)

    def _input(self, rows: Rows) -> Any:
        import pandas as pd

        if self._tensor is not None:
            matrix = rows.matrix
            if matrix is None:
                assert rows.columns is not None
                matrix = np.column_stack([rows.columns[name] for name in self._inputs])
            values = _narrowed("the tensor", matrix, self._tensor)
            return values.ravel() if self._flat else values
        if rows.matrix is not None:
            return pd.DataFrame(rows.matrix, columns=list(self._inputs) or None)
        assert rows.columns is not None
        columns = {name: self._column(name, rows.columns[name]) for name in self._inputs}
        frame = pd.DataFrame(columns)
        if self._unnamed:
            frame.columns = pd.RangeIndex(len(self._inputs))
        return frame

    def _column(self, name: str, column: Array) -> Any:
        """The values in the type that the signature says: MLflow widens, and refuses what it would have to narrow."""
        kind = self._kinds.get(name)
        if kind == "datetime":
            return _moments(name, column)
        if kind == "binary":
            return _decoded(name, column)
        if kind == "integer" and column.dtype.kind == "i":
            return _narrowed(f"input '{name}'", column, np.dtype(np.int32))
        if kind == "float" and column.dtype.kind == "f":
            return _narrowed(f"input '{name}'", column, np.dtype(np.float32))
        return column


def _narrowed(what: str, values: Array, dtype: np.dtype[Any]) -> Array:
    """The numbers in a type of the signature; raises InvalidInput for one that this type cannot hold."""
    with np.errstate(over="ignore", invalid="ignore"):
        narrow: Array = values.astype(dtype, copy=False)
    lost = narrow != values if dtype.kind in "iu" else np.isinf(narrow)
    if lost.any():
        row = int(np.argwhere(lost)[0][0])
        got = values[lost][0].item()
        raise InvalidInput(f"{what} is of {dtype}, which does not hold {got!r} in row {row}", row=row)
    return narrow


def _moments(name: str, column: Array) -> Any:
    """Dates and times, each read by itself: what one means must not depend on those beside it in a batch."""
    found = _read_moments(column)
    if found is not None:
        return found
    texts = column.tolist()
    row = next((row for row in range(len(texts)) if _read_moments(column[row : row + 1]) is None), 0)
    raise InvalidInput(
        f"input '{name}' must be a date and time without a zone, in ISO 8601 as 2026-01-31T12:30:00, got"
        f" {texts[row]!r:.80} in row {row}",
        field=name,
        row=row,
    )


def _read_moments(column: Array) -> Any:
    """None where one of them is no date, or has a zone."""
    import pandas as pd

    try:
        found = pd.to_datetime(pd.Series(column), format="ISO8601")
        naive = found.dtype.kind == "M" and getattr(found.dt, "tz", None) is None
        return found.astype("datetime64[ns]") if naive else None
    except (ValueError, TypeError):
        return None


def _decoded(name: str, column: Array) -> Array:
    import base64

    found = np.empty(len(column), dtype=object)
    for row, text in enumerate(column.tolist()):
        try:
            found[row] = None if text is None else base64.b64decode(text, validate=True)
        except ValueError:
            raise InvalidInput(
                f"input '{name}' is binary: it must be base64, in row {row}", field=name, row=row
            ) from None
    return found


def _or_none(column: Array) -> list[Any]:
    values = column.tolist()
    return [None if value != value else value for value in values]


def _picked(rows: Rows, places: list[int]) -> Rows:
    assert rows.columns is not None
    return Rows(len(places), columns={name: column[places] for name, column in rows.columns.items()})


def _list_of(name: str, text: str) -> list[Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, list):
        name = name.removesuffix(PARAM_LIST)
        raise InvalidInput(f"param '{name}' must be a list, written as JSON", field=name)
    return found


def _by_name(result: Any) -> Any:
    """A frame or a series as its columns; the names are those that MLflow's own server would write."""
    import pandas as pd

    if isinstance(result, pd.Series):
        result = pd.DataFrame(result)
    if isinstance(result, pd.DataFrame):
        return {str(name): result.iloc[:, place].to_numpy() for place, name in enumerate(result.columns)}
    return result
