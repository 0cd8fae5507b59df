"""Lagar turns a trained model file into a production service."""

from lagar.errors import InvalidInput, LagarError

__all__ = ["InvalidInput", "LagarError", "__version__"]
__version__ = "0.1.0"
