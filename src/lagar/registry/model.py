"""A model as it lies on disk, before any library has opened it, and the facts every process shares about it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from lagar.registry.proof import Criterion, Served
from lagar.registry.signature import Signature

if TYPE_CHECKING:  # lagar.types brings numpy, which the supervisor does without
    from lagar.types import Handlers, Predictor, Rows

Kind = Literal["sklearn", "xgboost", "lightgbm", "catboost", "onnx", "mlflow", "pyfunc", "custom", "mlserver", "form"]


class Asked(msgspec.Struct, frozen=True):
    """The models that a command line asks for."""

    paths: tuple[str, ...] = ()
    """Files, folders and `s3://BUCKET/PREFIX`."""
    name: str | None = None
    code: tuple[str, ...] = ()
    example: str | None = None
    trust: bool = False


class FormSource(msgspec.Struct, frozen=True, omit_defaults=True):
    """One of the forms that answer for a version."""

    name: str
    folder: str | None
    """Where it lies; None for the original."""
    max_rows: int | None = None
    """The largest call that it answers; None: any. The first one that fits answers."""
    criterion: Criterion | None = None
    libraries: tuple[str, ...] = ()
    """Distributions that loading it imports."""
    sha256: str = ""
    """Of the record of what was compiled on this machine; "" for a form of the push."""
    margin: float = 0.0
    """Rows whose two likeliest classes are no further apart are answered by the original."""


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
    manifest: str | None = None
    """Path of the version's manifest, for one that comes from the registry: its golden rows are checked at load."""
    libraries: tuple[str, ...] = ()
    """Distributions that loading it imports, where that is known."""
    forms: tuple[FormSource, ...] = ()
    """What answers for it, smaller calls first; () for the original alone."""
    given_up: str = ""
    """Why its forms answer no more, where one was wrong on a live row."""
    requirements: tuple[str, ...] = ()
    """What its environment must hold; () for Lagar's own."""
    environment: str | None = None
    """Folder of the environment that it was checked in, for one that has requirements."""
    memory_bytes: int = 0
    """What loading it adds to a process, as measured at intake; 0 where that is not known."""


class LoadedModel:
    """A model ready to answer, with what intake learned about it."""

    __slots__ = ("handlers", "libraries", "predictor", "probe", "signature", "source", "warnings")

    def __init__(
        self,
        source: ModelSource,
        predictor: Predictor,
        signature: Signature,
        handlers: Handlers | None = None,
        libraries: dict[str, str] | None = None,
        warnings: list[str] | None = None,
        probe: Rows | None = None,
    ) -> None:
        self.source = source
        self.predictor = predictor
        self.signature = signature
        self.handlers = handlers
        self.libraries = libraries or {}
        """Library → version that this model runs on."""
        self.warnings = warnings or []
        """Said in the log at load: a pickle from another library version, names that could not be known, …"""
        self.probe = probe
        """Rows that it has answered, as it takes them: behind a preprocess the signature's example is the caller's."""


class ModelInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the other processes know of a loaded version: travels from worker to supervisor to control."""

    name: str
    version: str
    kind: Kind
    signature: Signature
    live: bool = True
    """True for the version that answers when none is named."""
    state: Literal["ready", "unloaded"] = "ready"
    """The word "unloaded": it is loaded when it is asked for."""
    libraries: dict[str, str] = {}
    warnings: tuple[str, ...] = ()
    has_preprocess: bool = False
    has_postprocess: bool = False
    sha256: str = ""
    loaded_at: str = ""
    """UTC, ISO 8601."""
    forms: tuple[Served, ...] = ()
    """Which proved form answers calls of which size; () for the original alone."""


def served_of(forms: Sequence[FormSource]) -> tuple[Served, ...]:
    """Which form answers calls of which size."""
    lows = [1, *((form.max_rows or 0) + 1 for form in forms[:-1])][: len(forms)]
    return tuple(Served(form.name, low, form.max_rows) for form, low in zip(forms, lows, strict=True))


def folder_of(source: ModelSource) -> Path:
    return Path(source.folder) if source.folder else Path(source.path).parent


# Two slashes make a path of a file; addresses of this server ("GET /v2/models/churn") stay.
_FILE_PATH = re.compile(r"(?<![\w.:/])/(?!v2/|models/)(?:[^\s/'\"`,;:()]+/)+([^\s/'\"`,;:()]*)")


def without_folders(text: str) -> str:
    """The text with each absolute file path cut down to its file name: callers are not told where things lie."""
    return _FILE_PATH.sub(lambda match: match[1] or "…", text)
