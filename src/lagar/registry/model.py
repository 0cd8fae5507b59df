"""A model as it lies on disk, before any library has opened it, and the facts every process shares about it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from lagar.registry.signature import Signature

if TYPE_CHECKING:  # lagar.types brings numpy, which the supervisor does without
    from lagar.types import Handlers, Predictor

Kind = Literal["sklearn", "xgboost", "lightgbm", "catboost", "onnx", "mlflow", "custom"]


class ModelSource(msgspec.Struct, frozen=True, omit_defaults=True):
    """One version of one model on disk: found by `intake.inspect.find_models` without importing a model library."""

    name: str
    version: str
    path: str
    """The model file, or the folder for MLflow and custom classes."""
    kind: Kind
    pickled: bool = False
    """True when loading it unpickles: `intake.scan` must pass first."""
    folder: str | None = None
    """The folder with `lagar.toml`, where there is one."""
    code: tuple[str, ...] = ()
    """Files and folders that become importable before loading."""
    handlers: str | None = None
    """Path of `handlers.py`."""
    class_name: str | None = None
    """`module:Class` of custom code."""
    field_rules: dict[str, dict[str, Any]] = {}
    """`[fields.NAME]` of lagar.toml."""
    options: dict[str, Any] = {}
    """The rest of lagar.toml that a runtime understands."""
    example: str | None = None
    """Path given by `--example`."""
    trust: bool = False
    """`--trust`: globals outside the allow-list are let through."""
    sha256: str = ""


class LoadedModel:
    """A model ready to answer, with what intake learned about it."""

    __slots__ = ("handlers", "libraries", "predictor", "signature", "source", "warnings")

    def __init__(
        self,
        source: ModelSource,
        predictor: Predictor,
        signature: Signature,
        handlers: Handlers | None = None,
        libraries: dict[str, str] | None = None,
        warnings: list[str] | None = None,
    ) -> None:
        self.source = source
        self.predictor = predictor
        self.signature = signature
        self.handlers = handlers
        self.libraries = libraries or {}
        """Library → version that this model runs on."""
        self.warnings = warnings or []
        """Said in the log at load: a pickle from another library version, names that could not be known, …"""


class ModelInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the other processes know of a loaded version: travels from worker to supervisor to control."""

    name: str
    version: str
    kind: Kind
    signature: Signature
    live: bool = True
    """True for the version that answers when none is named."""
    state: Literal["loading", "ready", "failed"] = "ready"
    libraries: dict[str, str] = {}
    warnings: tuple[str, ...] = ()
    has_preprocess: bool = False
    has_postprocess: bool = False
    sha256: str = ""
    loaded_at: str = ""
    """UTC, ISO 8601."""


def folder_of(source: ModelSource) -> Path:
    return Path(source.folder) if source.folder else Path(source.path).parent
