"""The `MLmodel` file of an MLflow folder: which flavour it is served through, and where that lies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from lagar.errors import LoadFailed, MissingLibrary, UnsupportedModel
from lagar.registry.model import Kind

NAME = "MLmodel"
SKOPS = ".skops"
"""How MLflow saves estimators unless it is told otherwise."""
_NATIVE: tuple[Kind, ...] = ("sklearn", "xgboost", "lightgbm", "catboost", "onnx")


class MlflowModel(msgspec.Struct, frozen=True):
    """What serving needs of an MLmodel file."""

    flavour: Kind
    """The native one, or "pyfunc" where there is none."""
    data: Path
    """The native model file; of a pyfunc the MLmodel file."""
    pickled: bool
    code: tuple[Path, ...]
    inputs: list[dict[str, Any]]
    """Column specs of the signature; empty: the file has none."""
    example: Path | None
    libraries: dict[str, str]
    """Library → version that the model was saved with."""
    params: list[dict[str, Any]] = []
    """Param specs of the signature."""
    predict_fn: str = "predict"
    """What MLflow's own server calls."""
    booster: bool = False
    """True: a bare booster was logged, whose own numbers are the answer."""


def read(folder: Path) -> MlflowModel:
    """What an MLflow folder is served through; UnsupportedModel when it has no flavour for that."""
    path = folder / NAME
    content = _parse(path)
    flavours = content.get("flavors")
    if not isinstance(flavours, dict) or not flavours:
        raise LoadFailed(f"{path} names no flavors; log the model again with mlflow")
    signature = content.get("signature")
    inputs, params = _specs(path, signature, "inputs"), _specs(path, signature, "params")
    example = _example(folder, content.get("saved_input_example_info"))
    function = flavours.get("python_function") or {}
    flavour = next((kind for kind in _NATIVE if kind in flavours), None)
    if flavour is None:
        if "python_function" not in flavours:
            raise UnsupportedModel(_no_native(path, flavours))
        return MlflowModel("pyfunc", path, False, (), inputs, example, {}, params)
    facts = flavours[flavour] or {}
    data = folder / str(facts.get("pickled_model") or facts.get("data") or "model.pkl")
    if data.is_dir():  # onnx flavour of some versions: a folder with the file in it
        data = next(iter(sorted(data.glob("*.onnx"))), data)
    if not data.is_file():
        raise LoadFailed(f"{path} names {data.name} as its {flavour} model, and {data} is not there")
    return MlflowModel(
        flavour=flavour,
        data=data,
        pickled=data.suffix != SKOPS and (flavour == "sklearn" or data.suffix in {".pkl", ".pickle", ".joblib"}),
        code=tuple(folder / str(code) for code in [facts.get("code")] if code),
        inputs=inputs,
        example=example,
        libraries=_libraries(facts),
        params=params,
        predict_fn=str(function.get("predict_fn") or "predict"),
        booster=str(facts.get("model_class", "")).endswith(".Booster"),
    )


def _parse(path: Path) -> dict[str, Any]:
    try:
        import yaml  # type: ignore[import-untyped]
    except ImportError:
        raise MissingLibrary(f"{path} is YAML; install its parser with: pip install 'lagar[mlflow]'") from None
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise LoadFailed(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise LoadFailed(f"{path} is not an MLmodel file: its content is {type(content).__name__}, not a mapping")
    return content


def _no_native(path: Path, flavours: dict[str, Any]) -> str:
    names = ", ".join(sorted(flavours))
    return (
        f"{path} has only the flavors {names}; Lagar serves an MLflow folder through its native flavour "
        f"({', '.join(_NATIVE)}), or through python_function. Log the estimator itself with its own flavour "
        '(mlflow.sklearn.log_model, …), or wrap the code in a class (lagar.toml: class = "module:Class")'
    )


def _specs(path: Path, signature: object, part: str) -> list[dict[str, Any]]:
    if not isinstance(signature, dict) or not signature.get(part):
        return []
    try:
        specs = json.loads(signature[part])
    except (TypeError, ValueError):
        raise LoadFailed(f"{path}: signature.{part} is not JSON; log the model again with mlflow") from None
    return [spec for spec in specs if isinstance(spec, dict)] if isinstance(specs, list) else []


def _example(folder: Path, info: object) -> Path | None:
    if not isinstance(info, dict) or info.get("type") not in {"dataframe", "ndarray"}:
        return None
    path = folder / str(info.get("artifact_path", ""))
    return path if path.is_file() and path.suffix == ".json" else None


def _libraries(facts: dict[str, Any]) -> dict[str, str]:
    keys = {"sklearn_version": "scikit-learn", "xgb_version": "xgboost", "lgb_version": "lightgbm"}
    keys |= {"catboost_version": "catboost", "onnx_version": "onnx"}
    return {library: str(facts[key]) for key, library in keys.items() if facts.get(key)}
