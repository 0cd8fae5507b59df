"""Runtimes: one module per library, each importing its library only when a model wants it.

`load` is the way in: it opens a source, learns its signature, and proves it by predicting its own example.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from lagar import memory
from lagar.errors import LagarError, LoadFailed, MissingLibrary
from lagar.registry.model import LoadedModel, ModelSource

if TYPE_CHECKING:
    from lagar.runtimes.base import Opened

_EXTRAS = {
    "sklearn": "sklearn",
    "joblib": "sklearn",
    "scipy": "sklearn",
    "pandas": "sklearn",
    "xgboost": "xgboost",
    "lightgbm": "lightgbm",
    "catboost": "catboost",
    "yaml": "mlflow",
    "mlflow": "mlflow",
    "skops": "mlflow",
}


def load(source: ModelSource, *, threads: int = 1) -> LoadedModel:
    """A model that is ready to answer; `threads` bounds what its library may use per call.

    Raises a subclass of SetupError: UnsafePickle, MissingLibrary, MissingCode, UnsupportedModel, LoadFailed, and
    ChangedArtifact when a registered version's files are not what was committed.
    """
    return load_opened(source, threads=threads)[0]


def load_opened(source: ModelSource, *, threads: int = 1) -> tuple[LoadedModel, Opened]:
    """The same, with the library's own object beside it."""
    from lagar.runtimes import code, contract

    try:
        if source.manifest is not None:
            from lagar.registry import layout

            layout.check(source)
        code.install(source.code)
        handlers = code.load_handlers(Path(source.handlers)) if source.handlers else None
        opened = open_source(source, threads)
        loaded = contract.keep(source, opened, handlers)
        memory.give_back()
        return loaded, opened
    except LagarError:
        raise
    except ImportError as error:
        raise missing_library(source, error) from error
    except Exception as error:
        raise LoadFailed(
            f"{source.path} could not be loaded: {type(error).__name__}: {' '.join(str(error).split())[:500]}"
        ) from error


def open_source(source: ModelSource, threads: int) -> Opened:
    """The source opened by the runtime of its kind, or as its forms."""
    if source.forms:
        from lagar.runtimes import sized

        return sized.open_source(source, threads)
    runtime = importlib.import_module(f"lagar.runtimes.{source.kind}")
    opened: Opened = runtime.open_source(source, threads)
    if "mlserver" in source.options:
        from lagar.runtimes import mlserver

        mlserver.adapt(source, opened)
    return opened


def missing_library(source: ModelSource, error: ImportError) -> LagarError:
    """The one line that names the extra to install."""
    root = (error.name or "").partition(".")[0]
    if root in _EXTRAS:
        return MissingLibrary(f"{source.path} needs {root}; install it: pip install 'lagar[{_EXTRAS[root]}]'")
    if root:
        return MissingLibrary(f"{source.path} needs the module {root!r}, which is not installed: pip install {root}")
    return LoadFailed(f"{source.path} could not be loaded: {error}")
