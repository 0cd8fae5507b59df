"""Lagar turns a trained model file into a production service."""

from typing import TYPE_CHECKING, Any

from lagar.errors import InvalidInput, LagarError

if TYPE_CHECKING:
    from lagar.client.clients import AsyncClient, Client, push
    from lagar.client.prediction import Prediction

__all__ = ["AsyncClient", "Client", "InvalidInput", "LagarError", "Prediction", "__version__", "push"]
__version__ = "0.1.0"

_LATER = {
    "AsyncClient": "lagar.client.clients",
    "Client": "lagar.client.clients",
    "Prediction": "lagar.client.prediction",
    "push": "lagar.client.clients",
}
"""Name → its module, imported when it is asked for: models and handlers import lagar for its errors alone."""


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'lagar' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LATER[name]), name)
