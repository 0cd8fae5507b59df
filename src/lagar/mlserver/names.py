"""MLServer's module names in `sys.modules`: what `import mlserver.codecs` finds in the process of a custom runtime."""

from __future__ import annotations

import logging
import sys
import uuid
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

from lagar.mlserver import codecs, decoding, errors, model, objects, runtimes, settings, types

VERSION: Final = "1.7.0"
"""The release of MLServer whose names these are."""

logger = logging.getLogger("mlserver")
_said: set[str] = set()


def custom_handler(rest_path: str, rest_method: str = "POST") -> Callable[[Any], Any]:
    """Marks a method that MLServer would serve at a path of its own; it is not served here, and loading says so."""

    def mark(method: Any) -> Any:
        method.__custom_handler__ = f"{rest_method} {rest_path}"
        return method

    return mark


def register(name: str, description: str = "") -> None:
    """A metric of the runtime's own: it is not published, which is said once."""
    _say_once(name)


def log(**values: float) -> None:
    for name in values:
        _say_once(name)


def _say_once(name: str) -> None:
    if name not in _said:
        _said.add(name)
        logger.warning("the runtime's own metric %r is not published by Lagar", name)


def generate_uuid() -> str:
    return str(uuid.uuid4())


def _names_of(*modules: ModuleType) -> dict[str, Any]:
    return {name: value for module in modules for name, value in vars(module).items() if not name.startswith("_")}


def _contents() -> dict[str, dict[str, Any]]:
    """Module → its names."""
    codec_names = _names_of(errors, objects, decoding, codecs)
    model_names = {"MLModel": model.MLModel, **_names_of(types)}
    sklearn = _names_of(runtimes)
    utilities = {"get_model_uri": settings.get_model_uri, "generate_uuid": generate_uuid}
    metrics = {"register": register, "log": log}
    settings_names = {
        "ModelSettings": settings.ModelSettings,
        "ModelParameters": settings.ModelParameters,
        "Settings": settings.Settings,
    }
    contents: dict[str, dict[str, Any]] = {
        "mlserver": {"MLModel": model.MLModel, "__version__": VERSION, **settings_names, **metrics},
        "mlserver.version": {"__version__": VERSION},
        "mlserver.types": _names_of(types),
        "mlserver.types.dataplane": _names_of(types),
        "mlserver.errors": _names_of(errors),
        "mlserver.settings": settings_names,
        "mlserver.model": {**model_names, **settings_names},
        "mlserver.utils": utilities,
        "mlserver.logging": {"logger": logger},
        "mlserver.metrics": metrics,
        "mlserver.handlers": {"custom_handler": custom_handler},
        "mlserver.handlers.custom": {"custom_handler": custom_handler},
        "mlserver.codecs": codec_names,
    }
    for part in (
        "base", "numpy", "string", "base64", "datetime", "pandas", "json", "lists", "utils", "errors", "decorator",
    ):  # fmt: skip
        contents[f"mlserver.codecs.{part}"] = codec_names
    for package, part in (
        ("mlserver_sklearn", "sklearn"),
        ("mlserver_xgboost", "xgboost"),
        ("mlserver_lightgbm", "lightgbm"),
        ("mlserver_catboost", "catboost"),
    ):
        contents[package] = contents[f"{package}.{part}"] = sklearn
    return contents


def install() -> None:
    """Make MLServer's names importable in this process; what another release has installed there is not looked at."""
    if installed():
        return
    made: dict[str, ModuleType] = {}
    for name, content in _contents().items():
        module = ModuleType(name, "MLServer's names, by Lagar.")
        vars(module).update(content)
        module.__path__ = []  # a package without further modules
        made[name] = module
    for name, module in made.items():
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(made[parent], child, module)
    vars(made["mlserver"])["__lagar__"] = True
    sys.modules.update(made)


def installed() -> bool:
    """Whether the names of this process are these."""
    return getattr(sys.modules.get("mlserver"), "__lagar__", False)
