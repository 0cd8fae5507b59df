"""An MLflow folder through its native flavour: our own runtimes open the file, its signature refines the fields.

What it answers first is what MLflow's own server would call (`pyfunc_predict_fn`).
"""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path
from typing import Any

import msgspec

from lagar.errors import LoadFailed, MissingCode, UnsafePickle
from lagar.intake import mlmodel
from lagar.registry.model import ModelSource
from lagar.registry.signature import Field, FieldType
from lagar.runtimes.base import Draft, Opened
from lagar.runtimes.raw_booster import answer_raw

_TYPES: dict[str, FieldType] = {
    "integer": "int",
    "long": "int",
    "float": "float",
    "double": "float",
    "boolean": "bool",
    "string": "string",
}


def open_source(source: ModelSource, threads: int) -> Opened:
    """The native model of the folder."""
    folder = Path(source.path)
    found = mlmodel.read(folder)
    kind = "sklearn" if found.pickled or found.data.suffix == mlmodel.SKOPS else found.flavour
    own = tuple(str(path) for path in found.code)
    inner = msgspec.structs.replace(
        source, path=str(found.data), kind=kind, code=(*source.code, *(own if source.trust else ()))
    )
    runtime = importlib.import_module(f"lagar.runtimes.{kind}")
    try:
        opened: Opened = runtime.open_source(inner, threads)
    except (UnsafePickle, MissingCode) as error:
        if not own or source.trust:
            raise
        # Code that came with a model is somebody's code like any other: the person who serves it has to say so.
        raise type(error)(
            f"{error.message}. The folder brings code of its own, which is not run unasked: --code {own[0]}"
        ) from error
    if found.booster:
        answer_raw(kind, opened)
    if found.inputs:
        _with_signature(folder, opened.draft, found.inputs)
    if found.example is not None:
        opened.draft.rows = example_rows(found.example)
    if found.predict_fn in opened.draft.outputs:
        others = [name for name in opened.draft.outputs if name != found.predict_fn]
        opened.draft.outputs = (found.predict_fn, *others)
    opened.warnings.extend(_other_versions(found.libraries, opened))
    return opened


def _with_signature(folder: Path, draft: Draft, inputs: list[dict[str, Any]]) -> None:
    """Names where the model has none, types and optional columns; a tensor spec says the width only."""
    if all(spec.get("type") == "tensor" for spec in inputs):
        shape = inputs[0].get("tensor-spec", {}).get("shape") or []
        if draft.fields is None and len(shape) == 2 and isinstance(shape[1], int) and shape[1] > 0:
            draft.fields = [Field(f"x{index}") for index in range(shape[1])]
            draft.origin = "MLflow signature"
        return
    names = [str(spec.get("name", f"x{index}")) for index, spec in enumerate(inputs)]
    specs = dict(zip(names, inputs, strict=True))
    if draft.fields is None:
        draft.fields = [Field(name) for name in names]
        draft.named = True
    elif not draft.named:
        if len(names) != len(draft.fields):
            raise LoadFailed(
                f"{folder}: the MLflow signature has {len(names)} columns and the model takes {len(draft.fields)}; "
                "log the model again with the signature of its own input"
            )
        draft.fields = [
            msgspec.structs.replace(field, name=name) for field, name in zip(draft.fields, names, strict=True)
        ]
        draft.named = all("name" in spec for spec in inputs)
    draft.fields = [_typed(field, specs.get(field.name)) for field in draft.fields]
    draft.origin = f"{draft.origin}, MLflow signature" if draft.origin else "MLflow signature"


def _typed(field: Field, spec: dict[str, Any] | None) -> Field:
    if spec is None:
        return field
    changes: dict[str, Any] = {}
    kind = _TYPES.get(str(spec.get("type")))
    if kind is not None and field.categories is None and field.type in {"float", "unknown"}:
        # Text where the model takes numbers is converted by nobody: the model's own type stays.
        changes["type"] = kind if field.type == "unknown" or kind != "string" else field.type
    # What the model itself refuses stays refused: an optional column it cannot do without would fail at every call.
    takes_none = field.nullable is not False or (field.categories is not None and field.unknown == "allow")
    if spec.get("required") is False and takes_none:
        changes |= {"nullable": True, "has_default": True}
    if changes.get("type") == "int" and isinstance(field.example, float):
        changes["example"] = round(field.example)
    if changes.get("type") == "bool":
        changes["example"] = None
    return msgspec.structs.replace(field, **changes)


def example_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of MLflow's saved input example (pandas "split"), where it has named columns."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    if not isinstance(content, dict) or not isinstance(content.get("columns"), list):
        return []
    names = [str(name) for name in content["columns"]]
    return [
        {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in zip(names, row, strict=True)
        }
        for row in content.get("data", [])
        if isinstance(row, list) and len(row) == len(names)
    ]


def _other_versions(saved: dict[str, str], opened: Opened) -> list[str]:
    """One line per library whose saved version is not the one that runs, unless the pickle said so already."""
    here = {"xgboost-cpu": "xgboost"}
    running = {here.get(name, name): version for name, version in opened.libraries.items()}
    said = " ".join(opened.warnings)
    return [
        f"saved with {library} {version} and running on {running[library]}: its answers may differ"
        for library, version in saved.items()
        if library in running and running[library] != version and f"saved with {library}" not in said
    ]
