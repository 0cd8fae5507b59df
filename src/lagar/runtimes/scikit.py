"""Imports scikit-learn without what it imports for nothing."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import threading
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Final

_FIXES: Final = "sklearn.utils.fixes"
_PANDAS: Final = "pandas"


class _Late:
    """Stands for a module, and imports it when something of it is wanted."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name), attribute)


class _Hidden(importlib.abc.MetaPathFinder):
    """A module that is not installed as far as this thread can see; other threads import it meanwhile."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._thread = threading.get_ident()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname == self._name and threading.get_ident() == self._thread:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        return None


def import_alone() -> None:
    """Import the base of scikit-learn, but not pandas, whose name one of its modules takes and never uses.

    pandas, and pyarrow behind it, are 30 MB and a third of the time that the import takes; they come when a model is
    given DataFrames. Does nothing where either is imported already, or scikit-learn is not installed.
    """
    if _FIXES in sys.modules or _PANDAS in sys.modules:
        return
    hidden = _Hidden(_PANDAS)
    sys.meta_path.insert(0, hidden)
    try:
        fixes = importlib.import_module(_FIXES)
    except ImportError:
        return  # whoever needs it says so
    finally:
        sys.meta_path.remove(hidden)
    if vars(fixes).get("pd", hidden) is None:
        vars(fixes)["pd"] = _Late(_PANDAS)
